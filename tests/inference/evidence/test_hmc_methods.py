"""The appendix-D estimator with its densities, and bridge sampling."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import scipy.stats
import torch
from contracts.evidence import EvidenceContract, assert_calibrated
from contracts.evidence_oracles import factor_analysis
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.data import load
from ppvae.inference.evidence import (
    RIS,
    BridgeSampling,
    EncoderDensity,
    EvidenceMethod,
    GaussianDensity,
    KernelDensity,
    Outcome,
    TruncatedGaussianDensity,
    log_evidence,
)
from ppvae.inference.evidence.bridge import both_ways
from ppvae.inference.evidence.densities import FittedNormal
from ppvae.inference.evidence.posterior import Draws, Posterior
from ppvae.inference.evidence.run import prepare
from ppvae.inference.evidence.weights import average, effective_draws
from ppvae.inference.hmc.options import HMC
from ppvae.models import FactorAnalysis, bernoulli_vae

# Chains side by side cost less than draws one after another.
CHAINS: dict[str, Any] = {"num_chains": 16, "num_warmup": 80}


class HMCContract(EvidenceContract):
    trust: ClassVar[dict[str, Any]] = {"trust": True}

    def brief(self) -> EvidenceMethod:
        return replace(self.make(), num_draws=96, num_chains=16, num_warmup=30, **self.trust)  # type: ignore[type-var]

    def test_zero_warm_up(self) -> None:
        with pytest.raises(PpvaeError, match=r"zero warm-up(?s:.*)Try one of"):
            replace(self.make(), num_warmup=0)  # type: ignore[type-var]

    def test_too_few_draws(self) -> None:
        pair, x = factor_analysis(num_data=3)
        with pytest.raises(PpvaeError, match=r"fewer than the density needs in 3 dimensions: expected at least 8"):
            self.run(pair, x, method=replace(self.make(), num_draws=6, num_chains=2))  # type: ignore[type-var]
        with pytest.raises(PpvaeError, match=r"at least two per chain"):
            replace(self.make(), num_draws=3)  # type: ignore[type-var]


class TestGaussian(HMCContract):
    share = 0.6  # the posterior's logarithm has a tail that falls like exp(-exp(u)): lighter than any normal

    def make(self) -> EvidenceMethod:
        return RIS(800, 3, **CHAINS)

    def test_odd_chains_and_one_chain(self) -> None:
        pair, x = factor_analysis(num_data=20)
        exact = pair.log_evidence(x).detach()
        for chains in (1, 3):
            found = self.run(pair, x, method=RIS(150, 3, num_chains=chains, num_warmup=60, trust=True))
            assert bool(((found.log_evidence - exact).abs() < 6 * found.standard_error).all())


class DensityContract(HMCContract):
    """Another density of the same method: its truths; what all densities share is tested with the Gaussian one."""

    test_seeded = test_eager_is_graph = test_other_data_do_not_matter = None  # type: ignore[assignment]
    test_chunks = test_what_goes_in = test_float64 = test_budget_too_small = None  # type: ignore[assignment]
    test_zero_warm_up = test_discrete_latent = None  # type: ignore[assignment]
    test_a_datum_of_infinite_density_stops_no_other = None  # type: ignore[assignment]


class TestTruncated(DensityContract):
    share = 0.9

    def make(self) -> EvidenceMethod:
        return RIS(800, 3, TruncatedGaussianDensity(), **CHAINS)


class TestKernel(DensityContract):
    spread = (0.5, 1.5)

    def make(self) -> EvidenceMethod:
        return RIS(800, 3, KernelDensity(), trust=True, **CHAINS)

    def test_result(self) -> None:
        pair, x = factor_analysis(num_data=5)
        assert torch.isfinite(self.run(pair, x).log_evidence).all()


class TestEncoder(DensityContract):
    """A guide that is narrower than the posterior, as it must be here."""

    def make(self) -> EvidenceMethod:
        return RIS(800, 3, EncoderDensity(), trust=True, **CHAINS)

    def test_factor_analysis(self) -> None:
        pair, x = factor_analysis(shift=0.2, stretch=0.8)
        assert_calibrated(self.run(pair, x), pair.log_evidence(x).detach(), spread=self.spread)

    def test_wider_than_the_posterior_is_refused(self) -> None:
        pair, x = factor_analysis(shift=1.0, stretch=2.0, num_data=30)
        found = self.run(pair, x, method=RIS(800, 3, "encoder", **CHAINS))
        refused = found.outcome == Outcome.REFUSED_TAIL
        assert refused.double().mean() > 0.3  # .63 over seeds, with a standard error of .09
        assert not found.trusted.any()
        assert found.log_evidence[refused].isnan().all()
        assert "refused: Pareto k above 0.7" in found.summary()
        trusted = self.run(pair, x, method=RIS(800, 3, "encoder", trust=True, **CHAINS))
        assert torch.isfinite(trusted.log_evidence).all()
        assert (trusted.outcome[refused] == Outcome.UNRELIABLE).all()

    # The guides of these pairs are wider than the posterior; the test above is about that.
    test_constrained_latent = test_global_sites_are_held = test_result = None  # type: ignore[assignment]
    test_too_few_draws = None  # type: ignore[assignment]


class TestBridge(HMCContract):
    trust: ClassVar[dict[str, Any]] = {}

    def make(self) -> EvidenceMethod:
        return BridgeSampling(800, 3, **CHAINS)

    def test_stopped_early_says_so(self) -> None:
        pair, x = factor_analysis(num_data=4, dtype=torch.float64)
        found = self.run(pair, x, method=replace(BridgeSampling(200, 3, num_warmup=60), max_iterations=1))
        assert (found.outcome == Outcome.NOT_CONVERGED).all()
        assert "had not settled" in found.summary()
        assert torch.isfinite(found.log_evidence).all()


# --- densities ---------------------------------------------------------------------------------------------------


def _posterior(num_data: int = 3) -> tuple[Posterior, Tensor]:
    pair, x = factor_analysis(num_data=num_data, dtype=torch.float64)
    run, data = prepare(pair, x, 0, "cpu", "eager", 2**28, None)
    assert isinstance(data, Tensor)
    return Posterior(run), data


@pytest.mark.parametrize("density", [GaussianDensity(), TruncatedGaussianDensity(), KernelDensity()])
def test_densities_integrate_to_one(density: Any) -> None:
    posterior, x = _posterior(2)
    u = torch.randn(60, 2, 2, dtype=torch.float64) @ torch.tensor([[1.0, 0.8], [0.0, 0.5]], dtype=torch.float64)
    keep = torch.ones(60, 2, dtype=torch.bool)
    keep[40:, 1] = False
    log_q = density.fit(posterior, x, u, keep)
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, 2, -1)
    mass = log_q(grid).exp().sum(0) * (line[1] - line[0]) ** 2
    torch.testing.assert_close(mass, torch.ones(2, dtype=torch.float64), rtol=5e-3, atol=5e-3)


def test_kernel_density_is_scipys() -> None:
    posterior, x = _posterior(2)
    u = torch.randn(30, 2, 3, dtype=torch.float64) * torch.tensor([1.0, 2.0, 0.3])
    points = torch.randn(7, 2, 3, dtype=torch.float64)
    log_q = KernelDensity().fit(posterior, x, u, torch.ones(30, 2, dtype=torch.bool))
    for b in range(2):
        expected = scipy.stats.gaussian_kde(u[:, b].T.numpy()).logpdf(points[:, b].T.numpy())
        torch.testing.assert_close(log_q(points)[:, b], torch.from_numpy(expected))


def test_draws_left_out_do_not_count() -> None:
    posterior, x = _posterior(2)
    u, points = torch.randn(30, 2, 3, dtype=torch.float64), torch.randn(4, 2, 3, dtype=torch.float64)
    keep = torch.ones(30, 2, dtype=torch.bool)
    keep[20:] = False
    for density in (GaussianDensity(), TruncatedGaussianDensity(), KernelDensity()):
        some = density.fit(posterior, x, u, keep)(points)
        torch.testing.assert_close(some, density.fit(posterior, x, u[:20], keep[:20])(points))


def test_normal_of_draws() -> None:
    u = torch.randn(50, 2, 3, dtype=torch.float64) @ torch.randn(3, 3, dtype=torch.float64)
    normal = FittedNormal.of_draws(u, torch.ones(50, 2, dtype=torch.bool), 0.8)
    for b in range(2):
        expected = torch.distributions.MultivariateNormal(u[:, b].mean(0), 0.8 * u[:, b].T.cov())
        torch.testing.assert_close(normal.log_prob(u)[:, b], expected.log_prob(u[:, b]))
    drawn = normal.sample(40_000, u)
    torch.testing.assert_close(drawn[:, 0].T.cov(), 0.8 * u[:, 0].T.cov(), rtol=0.1, atol=0.1)
    flat = FittedNormal.of_draws(torch.ones(50, 1, 3), torch.ones(50, 1, dtype=torch.bool), 1.0)
    assert flat.log_prob(torch.zeros(2, 1, 3)).isnan().all()


def test_reciprocal_weights_have_the_known_variance() -> None:
    """FACTS: for posterior N(0, I) and q = N(0, s^2 I), E[w^2] / E[w]^2 = (s sqrt(2 - s^2))^-d."""
    d, square = 4, 0.8
    u = torch.randn(8, 5000, 50, d, dtype=torch.float64)
    log_w = -0.5 * u.square().sum(-1) * (1 / square - 1) - 0.5 * d * math.log(square)
    found = average(log_w, torch.ones(8, 50, dtype=torch.bool))
    expected = ((square * (2 - square)) ** (-d / 2) - 1) / 40_000
    assert abs(float(found.relative_variance.mean()) / expected - 1) < 0.05
    scaled = found.log_mean / found.relative_variance.sqrt()
    assert 0.6 < float(scaled.square().mean().sqrt()) < 1.4


def test_errors_count_autocorrelation() -> None:
    rho, chains, draws, batch = 0.8, 6, 400, 300
    noise = torch.randn(chains, draws, batch, dtype=torch.float64)
    series = [noise[:, 0]]
    for t in range(1, draws):
        series.append(rho * series[-1] + math.sqrt(1 - rho**2) * noise[:, t])
    values = torch.stack(series, 1)
    good = torch.ones(chains, batch, dtype=torch.bool)
    good[0, :] = False
    found = average(0.1 * values, good)
    true_ess = 5 * draws * (1 - rho) / (1 + rho)
    assert abs(float(found.effective_sample_size.mean()) / true_ess - 1) < 0.15
    assert abs(float(effective_draws(values.unsqueeze(-1), good).mean()) / true_ess - 1) < 0.15
    scaled = (found.log_mean - 0.005) / found.relative_variance.sqrt()
    assert 0.85 < float(scaled.square().mean().sqrt()) < 1.2
    naive = average(0.1 * values[:, torch.randperm(draws)], good)  # the same numbers, their order lost
    assert float(naive.relative_variance.mean()) < 0.3 * float(found.relative_variance.mean())


def test_chains_that_disagree_raise_the_error() -> None:
    values = 0.1 * torch.randn(4, 200, 20, dtype=torch.float64)
    apart = values + torch.tensor([0.0, 0.5, 1.0, 1.5], dtype=torch.float64)[:, None, None]
    good = torch.ones(4, 20, dtype=torch.bool)
    assert bool((average(apart, good).relative_variance > 50 * average(values, good).relative_variance).all())


# --- options and refusals ----------------------------------------------------------------------------------------


def test_kernel_density_is_refused_in_five_dimensions() -> None:
    pair, x = FactorAnalysis(8, 5), torch.randn(4, 8)
    method = RIS(80, 3, "kernel", num_warmup=40)
    found = log_evidence(pair, x, method=method, progress=False)
    assert (found.outcome == Outcome.REFUSED_DIMENSION).all()
    assert found.log_evidence.isnan().all()
    assert math.isnan(found.mean)
    trusted = log_evidence(pair, x, method=replace(method, trust=True), progress=False)
    assert torch.isfinite(trusted.log_evidence).all()


def test_options() -> None:
    with pytest.raises(PpvaeError, match=r"unknown density 'gausian': did you mean 'gaussian'"):
        RIS(density="gausian")
    with pytest.raises(PpvaeError, match=r"shrink between 0 and 1, found 1.5"):
        GaussianDensity(1.5)
    with pytest.raises(PpvaeError, match=r"num_leapfrog of at least 1"):
        BridgeSampling(num_leapfrog=0)


def test_chains_that_fail_are_left_out() -> None:
    pair, x = factor_analysis(num_data=3)
    run, data = prepare(pair, x, 0, "cpu", "eager", 2**28, None)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = Posterior(run).draws(data, HMC(3), 4, 30, 20)
    assert draws.u.shape == (4, 20, 3, 3)
    assert bool(draws.good.all())
    assert set(draws.info) == {"acceptance", "divergences", "rhat", "ess"}


# --- the numbers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_digits() -> None:
    """Factor analysis of the digits, all 300 held-out data."""
    digits = load("digits")
    model = FactorAnalysis.maximum_likelihood(digits.x, 5)
    pair, x = model.with_wrong_guide(shift=0.8, stretch=1.5), digits.test.x
    exact = pair.log_evidence(x).detach()
    found = log_evidence(pair, x, method=RIS(1000), progress=False)
    error = found.log_evidence - exact
    assert ((error.abs() < 3 * found.standard_error).double().mean()) >= 0.99
    assert abs(float(error.mean())) < 0.02
    bridge = log_evidence(pair, x, method=BridgeSampling(1000), progress=False)
    assert float((bridge.log_evidence - exact).abs().mean()) < 0.02


@pytest.mark.slow
def test_the_papers_protocol() -> None:
    """1000 data, 50 draws, 4 leapfrogs, three latents, 100 units, 784 pixels; benchmarks/hmc.py has its time."""
    pair = bernoulli_vae(784, latent_dim=3, hidden=(100,))
    x = torch.bernoulli(torch.full((1000, 784), 0.2))
    found = log_evidence(pair, x, method=RIS.paper(), progress=False)
    assert len(found) == 1000 and bool(found.estimated.all())
    assert torch.isfinite(found.log_evidence).all()


def test_what_the_bridge_cannot_say_is_no_number() -> None:
    """A half without a good chain, and a density that is zero at all draws from the proposals."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(4, 30, 1, 1, generator=generator, dtype=torch.float64)
    log_p = -0.5 * u[..., 0].square() - 0.5 * math.log(2 * math.pi)
    good = torch.ones(4, 1, dtype=torch.bool)

    def density(u: Tensor) -> Tensor:
        return -0.5 * u[..., 0].square() - 0.5 * math.log(2 * math.pi)

    cases = [
        (good, density, Outcome.OK),
        (good & (torch.arange(4) > 1).unsqueeze(-1), density, Outcome.DIVERGED),
        (good, lambda u: density(u) - math.inf, Outcome.NOT_FINITE),
    ]
    for keep, function, outcome in cases:
        torch.manual_seed(0)
        found = both_ways(Draws(u, log_p, keep, {}), function, 100)
        assert found.outcome.tolist() == [outcome]
        nothing = outcome != Outcome.OK
        assert all(bool(item.isnan()) is nothing for item in found[:3]), found
