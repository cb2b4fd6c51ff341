"""The linear Gaussian models of any structure are exact: against a dense normal, factor analysis, every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.exact_twins import log_density, scramble
from contracts.pair import PairContract, cast
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppvae.core import Data, PairError, draw, log_joint
from ppvae.distributions import Bernoulli, DiagonalNormal, LinearNormal, StandardNormal
from ppvae.inference import evidence, log_evidence, sample_posterior
from ppvae.models import Covariate, FactorAnalysis, Features, Latent, LinearGaussian, Mask, Observed
from ppvae.networks import MLP, JoinedMLP

SIZE = 8


def two_levels(*posteriors: Any) -> tuple[LinearGaussian, Data]:
    """A hierarchy whose lower level and data depend on both of what is above."""
    top, bottom = posteriors or (None, None)
    pair = LinearGaussian(
        x=Observed(LinearNormal([3, 2], 5).given("z1", "z2")),
        z1=Latent(LinearNormal([2], 3).given("z2"), posterior=bottom),
        z2=Latent(DiagonalNormal(None, 2), posterior=top),
    )
    return pair, torch.randn(SIZE, 5)


def with_gaps(posterior: Any = None) -> tuple[LinearGaussian, Data]:
    """Factor analysis of which some entries are missing; of the last datum all are."""
    pair = LinearGaussian(
        z=Latent(StandardNormal(2), posterior=posterior),
        x=Observed(LinearNormal([2], 5).given("z"), mask="seen"),
        seen=Mask(),
    )
    seen = torch.rand(SIZE, 5) > 0.4
    seen[-1] = False
    return pair, {"x": torch.randn(SIZE, 5).where(seen, torch.tensor(torch.nan)), "seen": seen}


def with_covariates(posterior: Any = None) -> tuple[LinearGaussian, Data]:
    """Two observed variables, of which one moves the other, and covariates of the latent and of the data."""
    pair = LinearGaussian(
        u=Covariate(2),
        z=Latent(LinearNormal([2], 2).given("u"), posterior=posterior),
        y=Observed(LinearNormal([2], 3).given("z")),
        x=Observed(LinearNormal([2, 3, 2], 4).given("z", "y", "u")),
    )
    return pair, {"u": torch.randn(SIZE, 2), "y": torch.randn(SIZE, 3), "x": torch.randn(SIZE, 4)}


TWINS: dict[str, Callable[..., tuple[LinearGaussian, Data]]] = {
    "two levels": two_levels,
    "gaps": with_gaps,
    "covariates": with_covariates,
}


def made(name: str) -> tuple[LinearGaussian, Data]:
    """The twin of this name, without symmetries, in float64."""
    torch.manual_seed(3)
    pair, x = TWINS[name]()
    pair = pair.double()
    scramble(pair, 0.3)
    return pair, cast(x, torch.float64)


class TestTwoLevels(PairContract):
    def make_pair(self) -> LinearGaussian:
        return two_levels(
            DiagonalNormal(MLP(5, [4]), 2).given("x"), DiagonalNormal(JoinedMLP([5, 2], [4]), 3).given("x", "z2")
        )[0]

    def make_data(self) -> Data:
        return torch.randn(6, 5)


class TestGaps(PairContract):
    def make_pair(self) -> LinearGaussian:
        return with_gaps(DiagonalNormal(JoinedMLP([5, 5], [4]), 2).given("x", "seen"))[0]

    def make_data(self) -> Data:
        torch.manual_seed(4)
        x = with_gaps()[1]
        assert isinstance(x, dict)
        return {key: value[-6:] for key, value in x.items()}


@pytest.mark.parametrize("name", TWINS)
def test_every_draw_of_the_exact_guide_is_the_evidence(name: str) -> None:
    """log p(x, z) - log q(z | x) is the same at every z only if both evidence and posterior are exact."""
    pair, x = made(name)
    drawn = draw(pair, x, 5)
    found = (log_joint(pair, x, drawn.latents).local - drawn.log_q).detach()
    torch.testing.assert_close(found, pair.log_evidence(x).detach().expand(5, SIZE), rtol=1e-10, atol=1e-10)


def test_two_levels_equal_the_integral_by_hand() -> None:
    """The mean and covariance of x, written out."""
    pair, x = made("two levels")
    assert isinstance(x, Tensor)
    top, low, data = pair.prior_z2, pair.prior_z1, pair.likelihood_x
    (mean, log_scale), (direct, of_top) = tuple(top.head.free), tuple(data.weights)
    full = of_top + direct @ low.weights[0]
    loc = data.bias + direct @ low.bias + full @ mean
    covariance = full @ torch.diag((2 * log_scale).exp()) @ full.mT + torch.diag((2 * data.log_scale).exp())
    covariance = covariance + direct @ torch.diag((2 * low.log_scale).exp()) @ direct.mT
    torch.testing.assert_close(pair.log_evidence(x), MultivariateNormal(loc, covariance).log_prob(x))


def test_gaps_equal_the_marginal_of_what_is_there() -> None:
    pair, x = made("gaps")
    assert isinstance(x, dict)
    part = pair.likelihood_x
    analysis = FactorAnalysis.from_parameters(part.bias, part.weights[0], part.log_scale.exp())
    for row, seen in enumerate(x["seen"]):
        expected = torch.zeros((), dtype=torch.float64)
        if bool(seen.any()):
            of_seen = FactorAnalysis.from_parameters(analysis.loc[seen], analysis.loading[seen], analysis.scale[seen])
            expected = of_seen.log_evidence(x["x"][row : row + 1, seen])[0]
            torch.testing.assert_close(
                pair.posterior(x).mean[row], of_seen.posterior(x["x"][row : row + 1, seen]).mean[0]
            )
        torch.testing.assert_close(pair.log_evidence(x)[row], expected)


def test_what_stands_in_a_gap_changes_nothing() -> None:
    """NaN, infinity, any number: the same bound, the same gradients, bit for bit."""
    torch.manual_seed(5)
    pair = with_gaps(DiagonalNormal(JoinedMLP([5, 5], [4]), 2).given("x", "seen"))[0]
    x = with_gaps()[1]
    assert isinstance(x, dict)
    results = []
    for filling in (torch.nan, torch.inf, 0.0, 1e30):
        batch = {"x": x["x"].where(x["seen"], torch.tensor(filling)), "seen": x["seen"]}
        torch.manual_seed(6)
        drawn = draw(pair, batch, 3)
        bound = (log_joint(pair, batch, drawn.latents).local - drawn.log_q).sum()
        results.append([bound, *torch.autograd.grad(bound, list(pair.parameters()))])
    assert bool(results[0][0].isfinite())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_marginal_posteriors_are_parts_of_the_whole() -> None:
    pair, x = made("two levels")
    whole, parts = pair.posterior(x), pair.marginal_posterior(x)
    torch.testing.assert_close(whole.mean, torch.cat([parts["z2"].mean, parts["z1"].mean], -1))
    torch.testing.assert_close(whole.covariance_matrix[:, 2:, 2:], parts["z1"].covariance_matrix)


def test_the_model_program_is_the_density() -> None:
    pair, x = made("covariates")
    latents = draw(pair, x, 1).latents
    found = log_joint(pair, x, {"z": latents["z"][0]}).local.detach()
    torch.testing.assert_close(found, log_density(pair, x, {"z": latents["z"][0]}))


METHODS = [evidence.PriorSampling(6000), evidence.ImportanceSampling(1500), evidence.PSIS(1500)]
ANNEALED = [evidence.AIS(num_temperatures=30), evidence.BridgeSampling(), evidence.RIS()]


def cases() -> list[Any]:
    """Every method on every twin; the long ones are slow, but for one."""
    found = []
    for name in TWINS:
        for method in (*METHODS, *ANNEALED):
            long = method in ANNEALED and not (name == "gaps" and isinstance(method, evidence.AIS))
            marks = [pytest.mark.slow] if long else []
            found.append(pytest.param(name, method, id=f"{name}-{type(method).__name__}", marks=marks))
    return found


def test_bounds_from_both_sides_on_data_with_gaps() -> None:
    """Simulated data have the gaps of the data that they are like; what stands in a gap is no observed value."""
    pair, like = made("gaps")
    data = evidence.simulate_data(pair, like, 200, seed=1)
    assert isinstance(data.x, dict) and isinstance(like, dict)
    assert torch.equal(data.x["seen"][:SIZE], like["seen"]) and bool(data.x["x"].isfinite().all())
    wide = Wide(**pair.description.variables)
    found = log_evidence(wide, data, method=evidence.BDMC(4, 4, num_leapfrog=1), seed=1, progress=False)
    exact = pair.log_evidence(data.x).detach()
    for bound, sign in ((found.log_evidence, 1), (found.upper, -1)):
        gap = sign * (bound - exact)
        assert float(gap.mean()) < 5 * float(gap.std()) / 200**0.5
    seen = data.x["seen"].any(-1)
    assert float((found.upper - found.log_evidence)[seen].mean()) > 0  # the two sides are told apart


class Wide(LinearGaussian):
    """The same model under a guide that is too wide: the exact one, stretched."""

    stretch = 1.4

    def _conditional(self, *arguments: Any) -> Any:
        exact = super()._conditional(*arguments)
        return type(exact)(exact.mean, scale_tril=self.stretch * exact.scale_tril)


@pytest.mark.parametrize(("name", "method"), cases())
def test_every_method_gives_the_exact_evidence(name: str, method: Any) -> None:
    pair, x = made(name)
    wide = Wide(**pair.description.variables)
    mode: Any = "graph" if isinstance(method, evidence.AIS) else "eager"
    found = log_evidence(wide, x, method=method, seed=1, progress=False, compile=mode)
    good = found.outcome == 0
    assert float(good.float().mean()) >= 0.75
    error = found.standard_error.clamp_min(1e-6)
    score = ((found.log_evidence - pair.log_evidence(x).detach()) / error)[good]
    assert float(score.abs().max()) < 4
    assert float(found.standard_error[good].max()) < 0.3


@pytest.mark.slow
def test_hmc_has_the_moments_of_the_exact_posterior() -> None:
    pair, x = made("two levels")
    assert isinstance(x, Tensor)
    draws = sample_posterior(
        pair, x[:3], num_samples=300, num_warmup=150, num_chains=4, seed=1, progress=False, compile="graph"
    )
    exact = pair.marginal_posterior(x[:3])
    for name, values in draws.samples.items():
        by_chain = values.mean(1)
        mean, variance = exact[name].mean.detach(), exact[name].variance.detach()
        score = (by_chain.mean(0) - mean) / (by_chain.std(0) / 2).clamp_min(0.05 * variance.sqrt())
        assert float(score.square().mean().sqrt()) < 2
        ratio = values.flatten(0, 1).var(0) / variance
        assert bool(((ratio > 0.7) & (ratio < 1.4)).all())


def test_it_says_that_its_posterior_is_exact() -> None:
    pair, _ = two_levels()
    first, second, *_ = str(pair).splitlines()
    assert first == "p(x, z1, z2) = p(z2) p(z1 | z2) p(x | z1, z2)"
    assert second == "q(z2, z1 | x) = p(z2, z1 | x)"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"z": Latent(StandardNormal(2)), "x": Observed(Bernoulli(MLP(2, []), 3).given("z"))},
            "'x' has a Bernoulli, which is not linear and Gaussian",
        ),
        (
            {
                "z": Latent(StandardNormal(2)),
                "h": Features(MLP(2, [2])).given("z"),
                "x": Observed(LinearNormal([2], 3).given("h")),
            },
            "covariates, and posteriors for all latents or none, found 'h'",
        ),
        (
            {
                "z": Latent(StandardNormal(2)),
                "w": Latent(StandardNormal(2), posterior=DiagonalNormal(MLP(3, []), 2).given("x")),
                "x": Observed(LinearNormal([2, 2], 3).given("z", "w")),
            },
            "a posterior for some latents and none for others",
        ),
    ],
    ids=["not normal", "features", "half"],
)
def test_refused(variables: Any, message: str) -> None:
    with pytest.raises(PairError, match=message):
        LinearGaussian(**variables)
