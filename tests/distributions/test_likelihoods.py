"""Likelihoods of counts, of heavy tails and of levels: scipy's log probabilities, moments, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from contracts.conditional import ConditionalContract, trunk
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.core.errors import DataError
from ppvae.distributions import (
    ConditionalDistribution,
    DiscretisedLogistic,
    Multinomial,
    NegativeBinomial,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    count_densities,
    value_densities,
)

DTYPES = [torch.float32, torch.float64]
LIMITS = {torch.float32: 5e-5, torch.float64: 1e-9}


class Exposed(ConditionalContract):
    """With a number for each datum beside the context."""

    reparameterized = False

    def beside(self, *batch_shape: int) -> tuple[Tensor, ...]:
        return (torch.randint(3, 40, batch_shape).double(),)


class TestPoisson(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Poisson(trunk(), event_shape)


class TestPoissonWithExposure(Exposed):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Poisson(trunk(), event_shape, exposure=True)


class TestNegativeBinomial(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return NegativeBinomial(trunk(), event_shape)


class TestNegativeBinomialOfConditionalDispersion(Exposed):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return NegativeBinomial(trunk(), event_shape, dispersion="conditional", exposure=True)


class TestZeroInflatedNegativeBinomial(Exposed):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return ZeroInflatedNegativeBinomial(trunk(), event_shape, exposure=True)


class TestZeroInflatedNegativeBinomialOfConditionalDispersion(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return ZeroInflatedNegativeBinomial(trunk(), event_shape, dispersion="conditional")


class TestMultinomial(Exposed):
    event_shapes = ((4,), (7,))
    fixed_support = False  # another total, another support

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Multinomial(trunk(), event_shape[0])


class TestMultinomialOfOneTotal(ConditionalContract):
    event_shapes = ((4,), (7,))
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Multinomial(trunk(), event_shape[0], total=20)


class TestStudentT(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return StudentT(trunk(), event_shape)


class TestStudentTOfFreeDegrees(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return StudentT(trunk(), event_shape, df="shared", scale="per-dimension")


class TestDiscretisedLogistic(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return DiscretisedLogistic(trunk(), event_shape, num_levels=16)


class TestDiscretisedLogisticOfUnitValues(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return DiscretisedLogistic(trunk(), event_shape, scale="shared", unit=True)


# --- log probabilities are scipy's, to the digits of the dtype ---


def scores(found: Tensor, expected: Any, limit: float) -> None:
    """Equal up to a share of what the number is, or of one nat."""
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float64)
    assert bool(found.isfinite().all())
    assert float(((found.double() - expected).abs() / expected.abs().clamp_min(1.0)).max()) < limit


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_poisson_equals_scipy(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1, 2, 7, 30, 1e4, 1e6])
    log_rate = torch.tensor([-300.0, -60.0, -3.0, 0.0, 2.0, 9.2, 13.8])[:, None]
    expected = scipy.stats.poisson.logpmf(x.numpy(), log_rate.double().exp().numpy())
    expected = np.where(np.isfinite(expected), expected, (x * log_rate - torch.lgamma(x + 1)).numpy())
    scores(count_densities.Poisson(log_rate.to(dtype)).log_prob(x.to(dtype)), expected, LIMITS[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_negative_binomial_equals_scipy(dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1, 5, 40, 1e4, 1e6]).double()
    mean = torch.tensor([1e-8, 0.3, 4.0, 1e4, 1e6]).double()[:, None]
    dispersion = torch.tensor([1e-3, 0.1, 1.0, 50.0]).double()[:, None, None]
    expected = scipy.stats.nbinom.logpmf(x, 1 / dispersion, 1 / (1 + dispersion * mean))
    r, logits = (1 / dispersion).to(dtype), (mean.log() + dispersion.log()).to(dtype)
    limit = max(LIMITS[dtype], 1e-7)  # scipy's own digits
    scores(count_densities.NegativeBinomial(r, logits=logits).log_prob(x.to(dtype)), expected, limit)


def test_negative_binomial_goes_to_the_poisson_where_pytorchs_does_not() -> None:
    x, log_mean = torch.tensor([0.0, 3, 12, 40]), torch.tensor(10.0).log()
    for dispersion in (1e-5, 1e-7, 1e-9, 1e-20):
        r, logits = torch.tensor(1 / dispersion), log_mean + torch.tensor(dispersion).log()
        found = count_densities.NegativeBinomial(r, logits=logits).log_prob(x)
        scores(found, scipy.stats.poisson.logpmf(x, 10.0), 5e-5 + 100 * dispersion)
    theirs = dist.NegativeBinomial(torch.tensor(1e9), logits=log_mean + torch.tensor(1e-9).log()).log_prob(x)
    assert float((theirs - torch.as_tensor(scipy.stats.poisson.logpmf(x, 10.0))).abs().max()) > 1


def test_gradients_of_counts_are_those_of_the_formula() -> None:
    x, log_mean, log_dispersion = (torch.tensor(v, dtype=torch.float64) for v in ([0.0, 2, 9], 0.7, -0.9))
    parameters = [log_mean.requires_grad_(), log_dispersion.requires_grad_()]
    r = (-log_dispersion).exp()
    theirs = dist.NegativeBinomial(r, logits=log_mean + log_dispersion).log_prob(x).sum()
    ours = count_densities.NegativeBinomial(r, logits=log_mean + log_dispersion).log_prob(x).sum()
    expected = torch.autograd.grad(theirs, parameters, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(ours, parameters), expected)


def test_zero_inflation_mixes_zeros_in() -> None:
    made = ZeroInflatedNegativeBinomial(trunk(), 3, dispersion=0.5).double()
    found = made(torch.randn(6, 3).double()).base_dist
    x = torch.tensor([0.0, 1.0, 8.0]).double()
    plain = scipy.stats.nbinom.pmf(x, 2.0, 1 / (1 + 0.5 * found.base_dist.mean.detach()))
    gate = found.gate.detach().numpy()
    scores(found.log_prob(x).detach(), np.log(gate * (x.numpy() == 0) + (1 - gate) * plain), 1e-9)


def test_zero_inflation_is_the_same_after_a_draw() -> None:
    """Pyro's takes another formula then, and refuses to expand."""
    found = ZeroInflatedNegativeBinomial(trunk(), 3)(torch.randn(6, 3)).base_dist
    x = torch.tensor([0.0, 1.0, 8.0])
    expected = found.log_prob(x)
    assert bool(found.mean.isfinite().all()) and found.sample().shape == (6, 3)
    assert torch.equal(found.log_prob(x), expected)
    assert torch.equal(found.expand((2, 6, 3)).log_prob(x), expected.expand(2, 6, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_multinomial_equals_scipy(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 5, dtype=torch.float64)
    x = (size * torch.tensor([[0.0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [3, 1, 0, 2, 5]])).repeat(2, 1)
    expected = scipy.stats.multinomial.logpmf(x.numpy(), x.sum(-1).numpy(), logits.softmax(-1).numpy())
    found = count_densities.Multinomial(x.sum(-1), logits.to(dtype))
    scores(found.log_prob(x.to(dtype)), expected, LIMITS[dtype])


def test_multinomial_of_another_total_has_probability_zero() -> None:
    found = count_densities.Multinomial(torch.tensor([3.0, 4.0]), torch.zeros(2, 3), validate_args=False)
    assert found.log_prob(torch.tensor([3.0, 0, 0])).tolist() == [pytest.approx(-3 * np.log(3)), -np.inf]
    checked = count_densities.Multinomial(torch.tensor([3.0, 4.0]), torch.zeros(2, 3), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        checked.log_prob(torch.tensor([3.0, 0, 0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_student_t_equals_scipy(dtype: torch.dtype) -> None:
    x = torch.tensor([-1e5, -3.0, 0.0, 0.7, 40.0]).double()
    for df in (0.5, 2.5, 8.0, 1e3, 1e6):
        found = value_densities.StudentT(*(torch.tensor(v, dtype=dtype) for v in (df, 0.5, 1.7)))
        scores(found.log_prob(x.to(dtype)), scipy.stats.t.logpdf(x, df, 0.5, 1.7), LIMITS[dtype])
    normal = value_densities.StudentT(*(torch.tensor(v, dtype=dtype) for v in (1e20, 0.5, 1.7)))
    scores(normal.log_prob(x[1:].to(dtype)), scipy.stats.norm.logpdf(x[1:], 0.5, 1.7), LIMITS[dtype])


def test_student_t_has_moments_where_they_exist() -> None:
    df = torch.tensor([0.5, 1.5, 2.5, 9.0]).double()
    found = value_densities.StudentT(df, torch.tensor(0.5).double(), torch.tensor(2.0).double())
    mean, variance = scipy.stats.t.stats(df[2:], 0.5, 2.0)
    torch.testing.assert_close(found.mean[2:], torch.as_tensor(mean))
    torch.testing.assert_close(found.variance[2:], torch.as_tensor(variance))
    assert found.mean[:2].isnan().tolist() == [True, False]
    assert found.variance[:2].isnan().tolist() == [True, False] and bool(found.variance[1].isinf())


def test_discretised_logistic_is_a_difference_of_distribution_functions() -> None:
    levels = torch.arange(16.0).double()
    loc, scale = torch.tensor([-3.0, 2.2, 7.5, 30.0]).double()[:, None], torch.tensor([0.3, 2.0, 40.0])[:, None, None]
    found = value_densities.DiscretisedLogistic(loc, scale.double(), 16)
    upper = scipy.stats.logistic.cdf(levels + 0.5, loc, scale)
    lower = scipy.stats.logistic.cdf(levels - 0.5, loc, scale)
    upper[..., -1], lower[..., 0] = 1, 0
    masses = found.log_prob(levels).exp()
    np.testing.assert_allclose(masses, upper - lower, atol=1e-14)
    torch.testing.assert_close(masses.sum(-1), torch.ones(3, 4).double(), rtol=1e-12, atol=0)
    mean = (masses * levels).sum(-1)
    torch.testing.assert_close(found.mean[..., 0], mean)
    torch.testing.assert_close(found.variance[..., 0], (masses * levels.square()).sum(-1) - mean.square())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_discretised_logistic_keeps_its_tails(dtype: torch.dtype) -> None:
    """Where a difference of distribution functions is zero: 200 levels off, at a scale of a tenth of a level."""
    loc = torch.tensor([10.0, 240.0], dtype=dtype, requires_grad=True)
    log_scale = torch.tensor(0.1, dtype=dtype).log().requires_grad_()
    found = value_densities.DiscretisedLogistic(loc, log_scale.exp(), 256)
    log_prob = found.log_prob(torch.tensor([210.0, 40.0], dtype=dtype))
    torch.testing.assert_close(log_prob, torch.full_like(log_prob, -199.5 / 0.1))
    gradients = torch.autograd.grad(log_prob.sum(), [loc, log_scale])
    torch.testing.assert_close(gradients[0], torch.tensor([10.0, -10.0], dtype=dtype))
    torch.testing.assert_close(gradients[1], torch.tensor(2 * 1995.0, dtype=dtype), rtol=1e-6, atol=0)


def test_levels_in_the_unit_interval_have_the_probabilities_of_levels() -> None:
    torch.manual_seed(1)
    whole, unit = (DiscretisedLogistic(trunk(), 5, unit=unit) for unit in (False, True))
    unit.load_state_dict(whole.state_dict())
    z = torch.randn(8, 3)
    draws = unit(z).sample()
    x = (255 * draws).round()
    torch.testing.assert_close(x / 255, draws)
    torch.testing.assert_close(unit(z).log_prob(x / 255), whole(z).log_prob(x))
    torch.testing.assert_close(unit(z).mean, whole(z).mean / 255)
    torch.testing.assert_close(unit(z).variance, whole(z).variance / 255**2)
    with pytest.raises(ValueError, match="support"):
        unit(z).log_prob((x + 0.3) / 255)


# --- draws have the moments that the distribution states ---

Z = torch.tensor([[0.3, -1.0, 0.8]]).double()
DRAWN: dict[str, Any] = {
    "poisson": lambda: Poisson(trunk(), 4, exposure=True).double()(Z, torch.tensor([30.0])),
    "negative binomial": lambda: NegativeBinomial(trunk(), 4, dispersion=0.4, exposure=True).double()(
        Z, torch.tensor([30.0])
    ),
    "zero-inflated": lambda: ZeroInflatedNegativeBinomial(trunk(), 4, dispersion=0.4).double()(Z),
    "multinomial": lambda: Multinomial(trunk(), 11).double()(Z, torch.tensor([50.0])),
    "student t": lambda: StudentT(trunk(), 4, df=12.0).double()(Z),
    "levels": lambda: DiscretisedLogistic(trunk(), 4, num_levels=9).double()(Z),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_have_the_mean_and_the_variance(name: str) -> None:
    torch.manual_seed(3)
    found, count = DRAWN[name](), 20_000
    mean, variance, draws = found.mean.detach(), found.variance.detach(), found.sample((count,))
    assert float(((draws.mean(0) - mean) / (draws.std(0) / count**0.5)).abs().max()) < 4.5
    square = (draws - mean).square()
    error = square.std(0) / count**0.5
    assert float(((square.mean(0) - variance) / error).abs().max()) < 4.5
    assert float(((1.3 * square.mean(0) - variance) / error).abs().min()) > 4.5  # a wrong one would be seen


def test_draws_of_a_multinomial_have_their_totals_and_covariances() -> None:
    torch.manual_seed(0)
    total, logits = torch.tensor([0.0, 1.0, 37.0, 5000.0]).double(), torch.randn(4, 6).double()
    found = count_densities.Multinomial(total, logits)
    draws = found.sample((20_000,))
    assert torch.equal(draws.sum(-1), total.expand(20_000, 4))
    p = logits[2].softmax(-1)
    expected = 37 * (torch.diag(p) - torch.outer(p, p))
    centred = draws[:, 2] - 37 * p
    products = centred[:, :, None] * centred[:, None]
    assert float(((products.mean(0) - expected) / (products.std(0) / 20_000**0.5)).abs().max()) < 4.5


# --- exposures and totals ---


def test_an_exposure_is_one_number_for_each_datum() -> None:
    made, z, exposure = Poisson(trunk(), 4, exposure=True), torch.randn(2, 5, 3), torch.tensor([1.0, 2, 3, 4, 5])
    expected = made(z, torch.ones(5)).mean * exposure[:, None]
    for given in (exposure, exposure[:, None], exposure.expand(2, 5), exposure.expand(2, 5)[..., None]):
        torch.testing.assert_close(made(z, given).mean, expected)
    one = made(z[:, :1], torch.tensor([2.0])).mean
    torch.testing.assert_close(made(z[:, :1], torch.tensor([[2.0]])).mean, one)
    assert made(z, torch.zeros(5)).log_prob(torch.zeros(4)).tolist() == [[0.0] * 5] * 2
    parents = made.given("z", "exposure").parents
    assert parents == ("z", "exposure")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Poisson(trunk(), 4, exposure=True)(torch.zeros(5, 3)), "Poisson: expected contexts for its trunk and"),
        (lambda: Multinomial(trunk(), 4)(torch.zeros(5, 3)), 'Try one of:\n  - .given\\("z", "total"\\)'),
        (
            lambda: Poisson(trunk(), 4, exposure=True)(torch.zeros(5, 3), torch.ones(4)),
            r"\[5\] or \[5, 1\], found \[4\]",
        ),
        (
            lambda: Multinomial(trunk(), 4)(torch.zeros(5, 3), torch.ones(5, 4)),
            r"one number for each datum, .*\[5, 4\]",
        ),
        (
            lambda: Poisson(trunk(), 4, exposure=True)(torch.zeros(2, 3), torch.tensor([1.0, -2.0])),
            "found from -2 to 1",
        ),
        (lambda: Multinomial(trunk(), 4)(torch.zeros(1, 3), torch.tensor([torch.nan])), "total: expected numbers that"),
        (lambda: Multinomial(trunk(), 4, total=-1), "expected a total of at least 0, found -1"),
        (
            lambda: NegativeBinomial(trunk(), 4, dispersion="free"),
            "NegativeBinomial: expected dispersion 'conditional'",
        ),  # type: ignore[arg-type]
        (lambda: ZeroInflatedNegativeBinomial(trunk(), 4, dispersion=0.0), "expected a positive dispersion, found 0.0"),
        (lambda: StudentT(trunk(), 4, df=-1.0), "StudentT: expected a positive df, found -1.0"),
        (lambda: StudentT(trunk(), 4, df="per-dimension"), "expected df 'shared' or a number, found 'per-dim"),  # type: ignore[arg-type]
        (lambda: StudentT(trunk(), 4, scale=float("inf")), "expected a positive scale, found inf"),
        (lambda: DiscretisedLogistic(trunk(), 4, num_levels=1), "expected num_levels of at least 2, found 1"),
        (lambda: DiscretisedLogistic(trunk(), 4, scale="none"), "DiscretisedLogistic: expected scale"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_in_one_message(make: Any, match: str) -> None:
    with pytest.raises(PpvaeError, match=match) as caught:
        make()
    assert isinstance(caught.value, DataError) or "Try one of" in str(caught.value) or ": expected" in str(caught.value)


@pytest.mark.parametrize(
    "made",
    [Poisson(trunk(), 2), NegativeBinomial(trunk(), 2), DiscretisedLogistic(trunk(), 2)],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("value", [-1.0, 0.5, 300.5])
def test_values_outside_the_support_are_refused(made: ConditionalDistribution, value: float) -> None:
    with pytest.raises(ValueError, match="support"):
        made(torch.zeros(3, 3)).log_prob(torch.full((3, 2), value))


def test_free_degrees_of_freedom_stay_above_two() -> None:
    made = StudentT(trunk(), 4, df="shared")
    assert float(made.df.detach()) == pytest.approx(5.0)
    with torch.no_grad():
        made.log_df.fill_(-20.0)
        assert float(made.df) >= 2.0 and bool(made(torch.zeros(3)).mean.isfinite().all())
