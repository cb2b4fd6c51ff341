"""The gap of the bound and its two parts, on a model where all three are known."""

from __future__ import annotations

import pytest
import torch
from contracts.evidence_oracles import DiscreteLatent, GammaPoisson, factor_analysis
from torch import Tensor

from ppvae.core import DataError, PairError, PpvaeError
from ppvae.inference.criticism.gaps import Gaps, inference_gaps
from ppvae.inference.evidence import Evidence, ImportanceSampling, log_evidence
from ppvae.models import FactorAnalysis


def mean_field_divergence(pair: FactorAnalysis, x: Tensor) -> float:
    """KL of the best diagonal normal to the posterior: its precisions are the diagonal of the posterior's."""
    precision = pair.posterior(x[:1]).precision_matrix[0].detach()
    return float(0.5 * (precision.diagonal().log().sum() - precision.logdet()))


def run(pair: FactorAnalysis, x: Tensor, **options: object) -> Gaps:
    given = {"log_evidence": pair.log_evidence(x)} | options
    return inference_gaps(pair, x, **{"progress": False, "compile": "graph"} | given)  # type: ignore[arg-type]


def test_diagonal_family() -> None:
    pair, x = factor_analysis(shift=0.8, stretch=1.4)
    gaps = run(pair, x)
    total, approximation = pair.guide_divergence(), mean_field_divergence(pair, x)
    assert approximation > 0.1
    for value, error, truth in (
        (gaps.inference, gaps.inference_error, total),
        (gaps.approximation, gaps.approximation_error, approximation),
        (gaps.amortization, gaps.amortization_error, total - approximation),
    ):
        scaled = (value - truth) / error
        assert abs(float(scaled.mean())) < 5 / len(x) ** 0.5
        assert 0.7 < float(scaled.square().mean().sqrt()) < 1.4
    torch.testing.assert_close(gaps.inference, gaps.approximation + gaps.amortization, rtol=1e-5, atol=1e-5)


def test_full_family_holds_the_posterior() -> None:
    pair, x = factor_analysis(shift=0.8, stretch=1.4, dtype=torch.float64, num_data=20)
    gaps = run(pair, x, family="full")
    assert float(gaps.approximation.abs().max()) < 1e-3
    assert bool(((gaps.inference - pair.guide_divergence()).abs() < 5 * gaps.inference_error).all())


def test_exact_guide_has_no_gap_but_what_the_diagonal_lacks() -> None:
    pair, x = factor_analysis(shift=0.0, stretch=1.0, dtype=torch.float64, num_data=20)
    gaps = run(pair, x)
    assert float(gaps.inference.abs().max()) < 1e-9
    assert float(gaps.amortization.mean()) == pytest.approx(-mean_field_divergence(pair, x), abs=0.05)


def test_evidence_by_a_method() -> None:
    pair, x = GammaPoisson(), GammaPoisson.data(20)
    exact = pair.log_evidence(x).detach()
    method = ImportanceSampling(500)
    given = inference_gaps(pair, x, log_evidence=method, progress=False, seed=3)
    assert bool(((given.log_evidence - exact).abs() < 6 * given.log_evidence_error).all())
    evidence = log_evidence(pair, x, method=method, seed=3, progress=False)
    assert torch.equal(given.log_evidence, evidence.log_evidence)
    handed: Evidence = evidence
    again = inference_gaps(pair, x, log_evidence=handed, progress=False, seed=3)
    assert torch.equal(again.best_elbo, given.best_elbo)
    assert float(given.approximation.mean()) > -5 * float(given.approximation_error.mean()) / 20**0.5
    assert float(given.amortization.mean()) > 0  # the guide is shifted and too wide


def test_chunks_and_seeds() -> None:
    pair, x = factor_analysis(num_data=7)
    first, again = run(pair, x, num_steps=15), run(pair, x, num_steps=15)
    assert torch.equal(first.best_elbo, again.best_elbo)
    assert not torch.equal(first.elbo, run(pair, x, num_steps=15, seed=1).elbo)
    parts = run(pair, x, memory_budget=2**16, num_steps=15, compile="eager")
    assert parts.elbo.shape == (7,)
    assert bool(((parts.elbo - first.elbo).abs() < 6 * (parts.elbo_error + first.elbo_error)).all())


def test_summary() -> None:
    pair, x = factor_analysis(num_data=3)
    text = repr(run(pair, x, num_steps=5))
    assert "mean over 3 of 3 data (diagonal Gaussian)" in text
    assert all(name in text for name in ("inference", "approximation", "amortization"))


def test_bad_input() -> None:
    pair, x = factor_analysis(num_data=3)
    with pytest.raises(DataError, match=r"an evidence for each of 3 data, found 2"):
        run(pair, x, log_evidence=torch.zeros(2))
    with pytest.raises(PpvaeError, match=r"expected family 'diagonal' or 'full'"):
        run(pair, x, family="round")
    with pytest.raises(PairError, match=r"latent site 'k' is discrete"):
        inference_gaps(DiscreteLatent(), torch.randn(3, 1), log_evidence=torch.zeros(3), progress=False)
