"""Exact evidence, draws from the prior, draws from the guide."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from contracts.evidence import Biased, EvidenceContract, assert_calibrated
from contracts.evidence_oracles import GammaPoisson, factor_analysis
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, PpvaeError, draw, log_joint
from ppvae.inference.evidence import (
    PSIS,
    Evidence,
    EvidenceMethod,
    Exact,
    ImportanceSampling,
    Outcome,
    PriorSampling,
    log_evidence,
)


class TestImportanceSampling(EvidenceContract):
    continuous = False

    def make(self) -> EvidenceMethod:
        return ImportanceSampling(500)

    def brief(self) -> EvidenceMethod:
        return ImportanceSampling(100)

    def test_exact_guide_has_no_error(self) -> None:
        pair, x = factor_analysis(shift=0.0, stretch=1.0, dtype=torch.float64)
        found = self.run(pair, x, method=ImportanceSampling(10))
        torch.testing.assert_close(found.log_evidence, pair.log_evidence(x).detach(), rtol=0, atol=1e-10)
        assert float(found.standard_error.max()) < 1e-6
        assert found.pareto_k.isnan().all()

    def test_is_the_elbo_at_one_sample(self) -> None:
        pair, x = factor_analysis(num_data=4000)
        found = self.run(pair, x, method=ImportanceSampling(1))
        gap = pair.log_evidence(x).detach() - found.log_evidence
        error = float(gap.std()) / 4000**0.5
        assert abs(float(gap.mean()) - pair.guide_divergence()) < 5 * error
        assert found.standard_error.isnan().all()

    def test_estimate_by_hand(self) -> None:
        log_w = 0.5 * torch.randn(7, 3, dtype=torch.float64)
        from ppvae.inference.evidence.weights import from_weights

        w = log_w.exp()
        found = from_weights(log_w)
        torch.testing.assert_close(found.log_evidence, w.mean(0).log())
        torch.testing.assert_close(found.standard_error, w.std(0) / w.mean(0) / math.sqrt(7))
        torch.testing.assert_close(found.effective_sample_size, w.sum(0) ** 2 / (w**2).sum(0))

    def test_equals_a_loop_over_draws(self) -> None:
        pair, x = factor_analysis(num_data=4, dtype=torch.float64)
        found = self.run(pair, x, method=ImportanceSampling(50))
        from ppvae.inference.execution.seeds import chunk_seed

        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(chunk_seed(0, 0))
            drawn = draw(pair, x, 50)
            log_w = log_joint(pair, x, drawn.latents).local - drawn.log_q
        torch.testing.assert_close(found.log_evidence, log_w.logsumexp(0) - math.log(50))

    def test_lower_by_the_known_amount(self) -> None:
        """The mean of log L_K over many data lies below the truth by half the variance, at large K."""
        pair, x = factor_analysis(shift=1.0, stretch=1.3, num_data=3000)
        found = self.run(pair, x, method=ImportanceSampling(20))
        error = found.log_evidence - pair.log_evidence(x).detach()
        spread = float(error.std()) / 3000**0.5
        assert float(error.mean()) < -5 * spread

    @pytest.mark.slow
    def test_large_work_in_bounded_memory(self) -> None:
        """K = 5000 on 10 000 data: latents alone would take 1.6 GB, log-weights 0.2 GB."""
        code = """
import resource, torch
from ppvae.models import FactorAnalysis
from ppvae.inference.evidence import ImportanceSampling, log_evidence
torch.set_num_threads(1)
torch.manual_seed(0)
pair = FactorAnalysis(16, 8)
x = pair.marginal().sample((10_000,)).detach()
log_evidence(pair, x[:100], method=ImportanceSampling(100), progress=False)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = log_evidence(pair, x, method=ImportanceSampling(5000), memory_budget=2**27, progress=False)
assert torch.isfinite(found.log_evidence).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert int(done.stdout) < 2**18  # KiB: 256 MiB where the budget is 128

    def test_interrupted(self) -> None:
        pair, x = factor_analysis(num_data=12)

        class Interrupted(ImportanceSampling):
            def estimate(self, run, x):  # type: ignore[no-untyped-def]
                if run.interrupts:
                    raise KeyboardInterrupt
                run.interrupts = True
                return super().estimate(run, x)

            def check(self, run):  # type: ignore[no-untyped-def]
                run.draws_at_once, run.interrupts = 5 * 64, self.at_once

        method = Interrupted(100)
        object.__setattr__(method, "at_once", False)
        found = self.run(pair, x, method=method)
        assert torch.isfinite(found.log_evidence).tolist() == [True] * 4 + [False] * 8
        assert found.outcome.tolist() == [0] * 4 + [Outcome.INTERRUPTED] * 8
        assert "8 data: not estimated: the run was interrupted" in found.summary()
        assert "mean over 4 of 12 data" in found.summary()
        object.__setattr__(method, "at_once", True)
        with pytest.raises(KeyboardInterrupt):
            self.run(pair, x, method=method)


class TestPSIS(EvidenceContract):
    continuous = False

    def make(self) -> EvidenceMethod:
        return PSIS(500)

    def brief(self) -> EvidenceMethod:
        return PSIS(100)


class TestPriorSampling(EvidenceContract):
    continuous = False
    trusted = False
    spread = (0.6, 1.5)

    def make(self) -> EvidenceMethod:
        return PriorSampling(20_000)

    def brief(self) -> EvidenceMethod:
        return PriorSampling(1000)

    def test_weights_are_likelihoods_of_draws_from_the_prior(self) -> None:
        pair, x = GammaPoisson(), torch.zeros(1, 1)  # p(x = 0 | z) = exp(-z): a mean of a known Laplace transform
        found = self.run(pair, x, method=PriorSampling(50_000))
        exact = float((pair.shape * (pair.rate / (pair.rate + 1)).log()).detach())
        assert abs(float(found.log_evidence) - exact) < 5 * float(found.standard_error)
        assert float(found.standard_error) < 0.02

    def test_the_tail_tells_where_it_fails(self) -> None:
        pair, _ = factor_analysis(num_data=20)
        sharp = pair.from_parameters(pair.loc, 6 * pair.loading, pair.scale)
        found = self.run(sharp, sharp.marginal().sample((20,)).detach(), method=PriorSampling(200))
        assert not bool(found.trusted.any())
        assert found.worst_pareto_k > 0.7


class TestExact(EvidenceContract):
    random = False
    continuous = False

    def make(self) -> EvidenceMethod:
        return Exact()

    def test_factor_analysis(self) -> None:
        pair, x = factor_analysis()
        found = self.run(pair, x)
        assert torch.equal(found.log_evidence, pair.log_evidence(x).detach())
        assert found.bound == "exact"
        assert found.mean_standard_error == 0
        assert "±" not in found.summary().split("(± ")[0]

    def test_constrained_latent(self) -> None:
        pair, x = GammaPoisson(), GammaPoisson.data(5)
        assert torch.equal(self.run(pair, x).log_evidence, pair.log_evidence(x).detach())

    @pytest.mark.parametrize("what", ["global", "explosive", "discrete"])
    def test_needs_a_closed_form(self, what: str) -> None:
        from contracts.evidence_oracles import DiscreteLatent, Explosive

        pair: ModelGuidePair = Explosive() if what == "explosive" else DiscreteLatent()
        with pytest.raises(PairError, match=rf"{type(pair).__name__} offers no log_evidence(?s:.*)Try one of"):
            self.run(pair, torch.randn(3, 2))

    def test_wrong_shape(self) -> None:
        pair, x = factor_analysis(num_data=4)
        pair.log_evidence = lambda x: torch.zeros(3)  # type: ignore[method-assign]
        with pytest.raises(PairError, match=r"expected log_evidence\(x\) of shape \[4\], found \[3\]"):
            self.run(pair, x)

    test_global_sites_are_held = None  # type: ignore[assignment]
    test_a_datum_of_infinite_density_stops_no_other = None  # type: ignore[assignment]
    test_discrete_latent = None  # type: ignore[assignment]


def _biased(by: float, error: float = 1.0) -> tuple[Evidence, Tensor]:
    pair, x = factor_analysis()
    method = Biased(ImportanceSampling(500), by, error=error)
    return log_evidence(pair, x, method=method, progress=False, compile="graph"), pair.log_evidence(x).detach()


def test_the_contract_has_power() -> None:
    assert_calibrated(*_biased(0.0), spread=EvidenceContract.spread)
    for by, error in ((0.1, 1.0), (-0.1, 1.0), (0.0, 0.5), (0.0, 2.0)):
        with pytest.raises(AssertionError):
            assert_calibrated(*_biased(by, error), spread=EvidenceContract.spread)


@pytest.mark.parametrize("method", [ImportanceSampling, PriorSampling])
def test_no_samples(method: type[EvidenceMethod]) -> None:
    with pytest.raises(PpvaeError, match=r"num_samples: expected at least 1, found 0"):
        method(0)
