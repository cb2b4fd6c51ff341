"""Predictive checks: calibrated where theory says so, closed forms of quantities, power against wrong models."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from core import pairs
from scipy import stats
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset
from ppvae.distributions import Categorical, DiagonalNormal, OneHotCategorical, StandardNormal
from ppvae.inference import aggregate_posterior, posterior_checks
from ppvae.inference.criticism.aggregate_posterior import _distances
from ppvae.inference.criticism.posterior_checks import PredictiveCheck, Source
from ppvae.models import VAE, FactorAnalysis, bayesianise, bernoulli_vae, multinomial_vae
from ppvae.networks import MLP

LOC = [0.5, -1.0, 2.0, 0.0]
LOADING = [[1.0, 0.2], [-0.7, 0.9], [0.3, -1.2], [0.8, 0.5]]
SCALE = [0.4, 0.7, 0.5, 0.9]


@pytest.fixture
def factors(float64: torch.dtype) -> FactorAnalysis:
    return FactorAnalysis.from_parameters(LOC, LOADING, SCALE)


def p_values(pair: FactorAnalysis, source: Any, num: int) -> dict[str, Tensor]:
    """P-values of so many data sets that the model made."""
    torch.manual_seed(11)
    found: dict[str, list[float]] = {}
    for k in range(num):
        x = pair.marginal().sample((20,)).detach()
        for name, check in posterior_checks(pair, x, num_replicates=39, source=source, seed=k).items():
            found.setdefault(name, []).append(check.p_value)
    return {name: torch.tensor(values) for name, values in found.items()}


# --- calibration ---


def test_prior_checks_of_the_right_model_are_uniform(factors: FactorAnalysis) -> None:
    num, levels = 100, torch.arange(40, dtype=torch.float64) / 39
    for name, p in p_values(factors, "prior", num).items():
        # Ranks among exchangeable data sets: exactly uniform on 0, 1/39, ..., 1.
        for moment in (1, 2, 3):
            truth = (levels - 0.5).pow(moment).mean()
            values = (p - 0.5).pow(moment)
            assert abs(float(values.mean() - truth)) < 4 * float(values.std()) / math.sqrt(num), (name, moment)
        jitter = (39 * p + torch.rand(num)) / 40
        assert stats.kstest(jitter.numpy(), "uniform").pvalue > 1e-4, name


@pytest.mark.slow
def test_posterior_checks_are_conservative_by_as_much_as_theory_says(float64: torch.dtype) -> None:
    r"""One factor, x_i = z + noise, i = 1, 2, and T the mean of all values.

    Given x, T(x_rep) - T(x) is normal; over x, its mean has 1/5 of its variance. So p = Phi(sqrt(1/5) e) with a
    standard normal e, and E (p - 1/2)^2 = asin(1/6) / (2 pi), where a uniform p has 1/12.
    """
    pair = FactorAnalysis.from_parameters([0.0, 0.0], [[1.0], [1.0]], [1.0, 1.0])
    num, truth = 200, math.asin(1 / 6) / (2 * math.pi)
    found = p_values(pair, "posterior", num)
    squares = (found["mean"] - 0.5).square()
    error = float(squares.std()) / math.sqrt(num)
    assert abs(float(squares.mean()) - (truth + (0.25 - truth) / 39)) < 4 * error  # 39 replicates add their noise
    assert 8 * error < 1 / 12 - truth
    assert {"log likelihood", "chi-square"} <= set(found)


def test_data_one_by_one_are_uniform_too(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((1000,)).detach()
    each = posterior_checks(factors, x, num_replicates=400)["mean"].per_datum
    assert each is not None and each.shape == (1000,)
    assert stats.kstest(each.numpy(), "uniform").pvalue > 1e-4
    wrong = posterior_checks(factors, 1.3 * x, num_replicates=400)["mean"].per_datum
    assert wrong is not None
    assert stats.kstest(wrong.numpy(), "uniform").pvalue < 1e-6


@pytest.mark.slow
def test_the_errors_are_those_of_repeated_runs(factors: FactorAnalysis) -> None:
    """A skewed quantity, of data that lie in the tail."""
    x = factors.marginal().sample((30,)).detach() * 1.15
    quantity = {"T": lambda x: x[:, 2].exp()}
    runs = [posterior_checks(factors, x, statistics=quantity, num_replicates=100, seed=k)["T"] for k in range(300)]
    for value, error in (("p_value", "p_value_error"), ("z_score", "z_score_error")):
        values = torch.tensor([getattr(run, value) for run in runs])
        told = float(torch.tensor([getattr(run, error) for run in runs]).square().mean().sqrt())
        # The spread of 300 values is known to one part in sqrt(600), that of a skewed one less well.
        assert abs(told / float(values.std()) - 1) < 0.3, (value, told, float(values.std()))


# --- closed forms ---


def test_expectations_of_quantities(factors: FactorAnalysis) -> None:
    count, size = 4000, 10
    x = torch.zeros(size, 4, dtype=torch.float64)
    statistics = {
        "mean": lambda x: x.mean(),
        "square": lambda x: x[:, 1].square(),
        "product": lambda x: x[:, 0] * x[:, 3],
    }
    found = posterior_checks(factors, x, statistics=statistics, num_replicates=count)
    covariance = factors.marginal().covariance_matrix.detach()
    truths = {
        "mean": (sum(LOC) / 4, float(covariance.sum()) / 16 / size),
        "square": (1.0 + float(covariance[1, 1]), None),
        "product": (float(covariance[0, 3]), None),
    }
    for name, (mean, variance) in truths.items():
        replicated = found[name].replicated
        assert replicated.shape == (count,)
        assert abs(float(replicated.mean()) - mean) < 4 * float(replicated.std()) / math.sqrt(count), name
        if variance is not None:
            assert abs(float(replicated.var()) / variance - 1) < 4 * math.sqrt(2 / count)


def test_discrepancies_by_hand(factors: FactorAnalysis) -> None:
    """z from the exact posterior and data of the model: (x, z) and (x_rep, z) have one distribution."""
    size, count = 400, 100
    x = factors.marginal().sample((size,)).detach()
    found = posterior_checks(factors, x, source="posterior", num_replicates=count)
    chi, likelihood = found["chi-square"], found["log likelihood"]
    # Of one datum the chi-square of a replicate has 4 degrees of freedom: mean 4, variance 8.
    assert abs(float(chi.replicated.mean()) - 4) < 4 * math.sqrt(8 / size / count)
    assert abs(float(chi.replicated.var()) / (8 / size) - 1) < 4 * math.sqrt(2 / count)
    assert abs(chi.observed - 4) < 4 * math.sqrt(8 / size)
    constant = -0.5 * (4 * math.log(2 * math.pi)) - sum(map(math.log, SCALE))
    for c, l in ((chi.replicated, likelihood.replicated), (chi.observed, likelihood.observed)):
        assert torch.allclose(torch.as_tensor(l), constant - 0.5 * torch.as_tensor(c), atol=1e-9)
    assert torch.allclose(likelihood.differences, -0.5 * chi.differences, atol=1e-9)
    assert 0.01 < chi.p_value < 0.99


def test_weights_are_drawn_for_every_replicate() -> None:
    torch.manual_seed(2)
    pair, size, count = pairs.GlobalWeight().double(), 200, 500
    sources: tuple[Source, ...] = ("prior", "posterior")
    statistics = {"T": lambda x: x[:, 0].square()}
    with torch.no_grad():
        pair.weight_log_scale.fill_(math.log(0.6))
    x = torch.zeros(size, 3, dtype=torch.float64)
    w, s = pair.weight_loc.detach()[0], 0.6
    for source in sources:
        found = posterior_checks(pair, x, statistics=statistics, num_replicates=count, source=source)
        replicated = found["T"].replicated
        loc, log_scale = pair.encoder(x[:1]).detach().chunk(2, -1)
        square = 1.0 if source == "prior" else float(loc.square() + (2 * log_scale).exp())  # E[z^2]
        mean = square * (w**2 + s**2) + 0.25
        assert abs(float(replicated.mean() - mean)) < 4 * float(replicated.std()) / math.sqrt(count)
        # The weights' part alone; at a held weight only the part of order 1 / N would be there.
        least = square**2 * float(4 * w**2 * s**2 + 2 * s**4)
        assert float(replicated.var()) > 0.6 * least


# --- power ---


@pytest.mark.parametrize("source", ["prior", "posterior"])
def test_noise_of_twice_the_size_is_seen(factors: FactorAnalysis, source: Any) -> None:
    noisy = FactorAnalysis.from_parameters(LOC, LOADING, [2 * s for s in SCALE])
    x = noisy.marginal().sample((100,)).detach()
    found = posterior_checks(factors, x, source=source)
    assert found["spread within a datum"].p_value < 0.01
    assert found["spread within a datum"].z_score > 4
    if source == "posterior":
        assert found["chi-square"].p_value < 0.01 and found["log likelihood"].p_value > 0.99


def test_a_wrong_prior_is_seen(factors: FactorAnalysis) -> None:
    torch.manual_seed(5)
    z = 0.3 * torch.randn(300, 2)
    noise = torch.randn(300, 4) * factors.scale.detach()
    x = (z @ factors.loading.mT + factors.loc + noise).detach()
    assert posterior_checks(factors, x)["distance to the nearest"].p_value > 0.99
    found = aggregate_posterior(factors, x)
    assert bool((found.variance + 4 * found.variance_error < 1).all())
    assert bool((found.p_value < 1e-6).all())


# --- the aggregate posterior ---


def test_the_aggregate_posterior_is_the_prior_under_the_right_model(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((800,)).detach()
    found = aggregate_posterior(factors, x)
    assert found.draws.shape == found.prior.shape == (20, 800, 2)
    for value, error, truth in (
        (found.mean, found.mean_error, 0.0),
        (found.variance, found.variance_error, 1.0),
        (found.prior_mean, found.prior_mean_error, 0.0),
        (found.prior_variance, found.prior_variance_error, 1.0),
    ):
        assert bool(((value - truth).abs() < 4 * error).all())
    assert bool((found.p_value > 1e-4).all())
    assert bool((found.distance < 4 * found.distance_error).all())


def test_moments_and_distance_of_a_known_mismatch(factors: FactorAnalysis) -> None:
    """Data of another prior, N(1, 2^2 I): the draws are normal with moments in closed form."""
    torch.manual_seed(3)
    size = 2000
    z = 1 + 2 * torch.randn(size, 2)
    x = (z @ factors.loading.mT + factors.loc + torch.randn(size, 4) * factors.scale).detach()
    posterior = factors.posterior(x)
    covariance = posterior.covariance_matrix.detach().reshape(-1, 2, 2)[0]
    gain = covariance @ (factors.loading / factors.scale.square()[:, None]).mT.detach()  # [Z, D]
    shrink = gain @ factors.loading.detach()
    mean = shrink @ torch.ones(2)
    spread = gain @ (4 * factors.loading @ factors.loading.mT + factors.scale.square().diag()).detach() @ gain.mT
    variance = (spread + covariance).diagonal()
    found = aggregate_posterior(factors, x, num_draws=5)
    assert bool(((found.mean - mean).abs() < 4 * found.mean_error).all())
    assert bool(((found.variance - variance).abs() < 4 * found.variance_error).all())
    assert bool((found.mean_error < 0.1).all())
    grid = torch.linspace(-8, 10, 20001, dtype=torch.float64).numpy()
    for i in range(2):
        other = stats.norm(float(mean[i]), math.sqrt(float(variance[i])))
        truth = float(abs(other.cdf(grid) - stats.norm.cdf(grid)).max())
        assert abs(float(found.distance[i]) - truth) < 4 * float(found.distance_error[i])
        assert truth > 20 * float(found.distance_error[i])


def test_the_p_value_of_the_distance_is_calibrated(factors: FactorAnalysis) -> None:
    values = []
    for k in range(150):
        x = factors.marginal().sample((100,)).detach()
        values.append(aggregate_posterior(factors, x, num_draws=10, seed=k).p_value[0])
    p = torch.stack(values)
    assert abs(float((p < 0.2).double().mean()) - 0.2) < 4 * math.sqrt(0.16 / 150)
    assert abs(float(p.mean()) - 0.5) < 4 * float(p.std()) / math.sqrt(150)


def test_sites_of_a_hierarchy_are_asked_for_by_name() -> None:
    pair, x = pairs.Hierarchy(), torch.randn(30, 4)
    with pytest.raises(PairError, match="2 local latent sites"):
        aggregate_posterior(pair, x)
    with pytest.raises(PairError, match="no local latent site 'topp'"):
        aggregate_posterior(pair, x, site="topp")
    found = aggregate_posterior(pair, x, site="z", num_draws=400)
    down = pair.down.weight.detach()
    truth = down.square().sum(1).double() + 0.49  # of the prior's z, over its parent
    assert bool(((found.prior_variance - truth).abs() < 4 * found.prior_variance_error).all())


# --- every pair ---


def categorical() -> tuple[ModelGuidePair, Any]:
    pair = VAE(
        prior=StandardNormal(2),
        likelihood=Categorical(MLP(2, [8]), event_shape=(5,), num_categories=3),
        posterior=DiagonalNormal(MLP(5, [8]), event_shape=(2,)),
    )
    return pair, torch.randint(0, 3, (12, 5)).float()


EVERY: dict[str, Any] = {
    "hierarchy": lambda: (pairs.Hierarchy(), torch.randn(12, 4)),
    "counts": lambda: (pairs.GammaLatent(), torch.poisson(torch.full((12, 3), 2.0))),
    "global": lambda: (pairs.GlobalWeight(), torch.randn(12, 3)),
    "nested": lambda: (pairs.Nested(), torch.randn(12, 3)),
    "discrete": lambda: (pairs.Discrete(), torch.randn(12, 2)),
    "categorical": categorical,
    "binary": lambda: (bernoulli_vae(6, latent_dim=2, hidden=(5,)), torch.bernoulli(torch.full((12, 6), 0.4))),
    "bayesian": lambda: (
        bayesianise(bernoulli_vae(6, latent_dim=2, hidden=(5,))),
        torch.bernoulli(torch.full((12, 6), 0.4)),
    ),
    "pictures": lambda: (
        bernoulli_vae(6, latent_dim=2, hidden=(5,)),
        Dataset(torch.bernoulli(torch.full((12, 6), 0.4)), value_space="binary", image_shape=(2, 3)),
    ),
}


@pytest.mark.parametrize("source", ["prior", "posterior"])
@pytest.mark.parametrize("name", EVERY)
def test_every_pair_is_checked_recorded_or_not(name: str, source: Any) -> None:
    pair, data = EVERY[name]()
    found, again, other = (
        posterior_checks(pair, data, source=source, num_replicates=6, seed=seed, compile=mode, chunk_size=5)
        for seed, mode in ((0, "eager"), (0, "graph"), (1, "eager"))
    )
    assert len(found) >= 2 and found.num_data == 12
    assert ("log likelihood" in found) == (source == "posterior")
    for key, check in found.items():
        assert torch.isfinite(check.replicated).all() and 0 <= check.p_value <= 1 and check.p_value_error > 0
        assert torch.allclose(check.replicated, again[key].replicated, atol=1e-5), key
    assert any(not torch.equal(check.replicated, other[key].replicated) for key, check in found.items())
    assert ("change between neighbours" in found) == (name == "pictures")
    assert found.summary().count("\n") == len(found)


def test_pictures_by_hand() -> None:
    x = torch.tensor([[0, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]]).float()
    pair = bernoulli_vae(6, latent_dim=1, hidden=(2,))
    found = posterior_checks(pair, Dataset(x, value_space="binary", image_shape=(2, 3)), num_replicates=2)
    # 2 x 3 pixels, 7 neighbours: of the first, 0-1, 1-0 and 0-1 differ across and the last column down.
    assert found["change between neighbours"].observed == pytest.approx((4 / 7 + 0) / 2)
    assert found["share of ones"].observed == pytest.approx(0.75)
    assert found["distance to the nearest"].observed == pytest.approx(math.sqrt(3), abs=1e-6)


def test_covariates_stay_with_their_rows() -> None:
    """One number a datum, whose mean a covariate moves by a hundred."""
    pair = pairs.Regression()
    x = {"y": torch.zeros(8), "covariates": torch.zeros(8, 2), "seen": torch.ones(8, dtype=torch.bool)}
    x["covariates"][5] = torch.tensor([100.0, 0.0]) / 0.7
    last = {"T": lambda y: y[5], "rest": lambda y: y.abs().max() - y[5]}
    sources: tuple[Source, ...] = ("prior", "posterior")
    for source in sources:
        found = posterior_checks(pair, x, statistics=last, num_replicates=9, source=source, chunk_size=3)
        assert bool(((found["T"].replicated - 100).abs() < 8).all()) and bool((found["rest"].replicated == 0).all())
    assert {"mean", "smallest value", "largest value", "log likelihood", "chi-square"} == set(
        posterior_checks(pair, x, num_replicates=2, source="posterior")
    )


def test_ties_count_half() -> None:
    check = PredictiveCheck("T", 1.0, torch.tensor([1.0, 1.0, 2.0, 0.0]), torch.tensor([0.0, 1e-12, 1.0, -1.0]))
    assert check.p_value == 0.5
    pair, x = bernoulli_vae(4, latent_dim=1, hidden=(2,)), torch.ones(5, 4)
    found = posterior_checks(pair, x, statistics={"same": lambda x: 7.0}, num_replicates=3)["same"]
    assert (found.p_value, found.z_score) == (0.5, 0.0)
    assert found.per_datum is None


def test_what_is_no_number_is_not_called_low() -> None:
    pair, x = bernoulli_vae(4, latent_dim=1, hidden=(2,)), torch.ones(5, 4)
    found = posterior_checks(pair, x, statistics={"none": lambda x: math.nan}, num_replicates=3)["none"]
    assert math.isnan(found.p_value) and math.isnan(found.z_score) and math.isnan(found.p_value_error)


def test_grey_data_under_a_bernoulli_are_told() -> None:
    pair = bernoulli_vae(4, latent_dim=1, hidden=(2,), allow_grey=True)
    found = posterior_checks(pair, torch.full((5, 4), 0.5), num_replicates=3)
    assert "differ by construction" in found.summary()


def test_nothing_global_is_touched(factors: FactorAnalysis) -> None:
    before = torch.get_rng_state()
    x = torch.zeros(5, 4, dtype=torch.float64)
    one, same = (posterior_checks(factors, x, num_replicates=4, seed=3) for _ in range(2))
    assert torch.equal(one["mean"].replicated, same["mean"].replicated)
    aggregate_posterior(factors, x, num_draws=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_wrong_is_named(factors: FactorAnalysis) -> None:
    x = torch.zeros(5, 4, dtype=torch.float64)
    with pytest.raises(PpvaeError, match="source: did you mean 'prior'"):
        posterior_checks(factors, x, source="priior")  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match="num_replicates: expected at least 2, found 1"):
        posterior_checks(factors, x, num_replicates=1)
    with pytest.raises(PpvaeError, match=r"statistic 'T': expected one number or a tensor of shape \[5\].*\[5, 4\]"):
        posterior_checks(factors, x, statistics={"T": lambda x: x})
    with pytest.raises(PairError, match="no observed site 'y'"):
        posterior_checks(factors, x, site="y")
    with pytest.raises(KeyError, match="did you mean 'mean'"):
        posterior_checks(factors, x, num_replicates=2)["meen"]


def test_categories_have_no_mean() -> None:
    class Classes(ModelGuidePair):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                k = pyro.sample("k", dist.Categorical(x.new_ones(3) / 3))
                pyro.sample("x", dist.Normal(k.to(x), 1.0), obs=x[:, 0])

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("k", dist.Categorical(x.new_ones(len(x), 3) / 3))

    with pytest.raises(PairError, match="'k' is categorical: its numbers are names"):
        aggregate_posterior(Classes(), torch.randn(5, 1))


def test_an_empty_document_deviates_by_nothing() -> None:
    """The chi-square of words given their total, of which one document has none."""
    pair, x = multinomial_vae(5, latent_dim=2, hidden=(4,)), torch.poisson(torch.full((30, 5), 2.0))
    x[3] = 0
    found = posterior_checks(pair, x, source="posterior", statistics={}, num_replicates=20)["chi-square"]
    assert math.isfinite(found.observed) and bool(found.replicated.isfinite().all())


def test_rows_of_classes_are_checked_by_their_shares() -> None:
    posterior = DiagonalNormal(MLP(3, []), 2)
    pair, x = VAE(StandardNormal(2), OneHotCategorical(MLP(2, []), 3), posterior), torch.eye(3)[[0, 0, 0, 2, 2, 1]]
    found = posterior_checks(pair, x, num_replicates=5)
    shares = {name: check.observed for name, check in found.items()}
    assert shares == pytest.approx({"share of class 0": 1 / 2, "share of class 2": 1 / 3, "share of class 1": 1 / 6})


def test_the_distance_of_many_dimensions_is_that_of_kolmogorov_and_smirnov() -> None:
    """Of each by scipy, with equal draws in one and draws that do not differ within a datum in another."""
    generator = torch.Generator().manual_seed(0)
    q, p = (torch.randn(6, 40, 4, generator=generator) * scale for scale in (1.3, 1.0))
    q[..., 1], p[..., 1] = q[..., 1].round(), p[..., 1].round()
    q[..., 2] = q[:1, :, 2]
    distance, error, p_value = _distances(q, p)
    for i in range(4):
        every, one = (
            stats.ks_2samp(part.flatten(), p[..., i].flatten(), method="asymp") for part in (q[..., i], q[0, :, i])
        )
        assert float(distance[i]) == pytest.approx(every.statistic, abs=1e-12)
        assert float(p_value[i]) == pytest.approx(one.pvalue, rel=1e-9)
    assert bool((error > 0).all()) and float(error[2]) > float(error[0])
