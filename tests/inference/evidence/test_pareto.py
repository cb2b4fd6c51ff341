"""The Pareto k of all data at once is ArviZ's of each."""

from __future__ import annotations

import arviz
import pytest
import torch
from contracts.evidence_oracles import GammaPoisson

from ppvae.inference.evidence import PSIS, ImportanceSampling, log_evidence, pareto_k, pareto_smoothed


@pytest.mark.parametrize("draws", [26, 30, 100, 1000, 5000])
def test_equals_arviz(draws: int) -> None:
    columns = [scale * torch.randn(draws, dtype=torch.float64) for scale in (0.01, 0.1, 1.0, 2.0, 5.0, 30.0, 3000.0)]
    columns += [torch.distributions.StudentT(torch.tensor(3.0, dtype=torch.float64)).sample((draws,)) + 300]
    columns += [-0.8 * torch.rand(draws, dtype=torch.float64).log()]  # exactly Pareto, k = 0.8
    log_w = torch.stack(columns, 1)
    expected = torch.from_numpy(arviz.psislw(log_w.T.numpy())[1])
    torch.testing.assert_close(pareto_k(log_w), expected, rtol=1e-6, atol=1e-6)


def test_ties_equal_arviz() -> None:
    log_w = torch.randn(500, 3, dtype=torch.float64).mul(2).round().div(2)
    expected = torch.from_numpy(arviz.psislw(log_w.T.numpy())[1])
    torch.testing.assert_close(pareto_k(log_w), expected, rtol=1e-6, atol=1e-6)


def test_finds_the_index_of_a_pareto_tail() -> None:
    for k in (0.3, 0.9):
        log_w = -k * torch.rand(4000, 50, dtype=torch.float64).log()
        found = pareto_k(log_w)
        assert abs(float(found.mean()) - k) < 5 * float(found.std()) / 50**0.5 + 0.03  # the prior pulls towards 0.5


def test_undefined() -> None:
    equal, few = torch.full((100, 2), 3.0), torch.randn(20, 2)
    rounding = 300 + 1e-5 * torch.randn(100, 2)
    broken = torch.randn(100, 2)
    broken[5, 0] = torch.nan
    assert pareto_k(equal).isnan().all()
    assert pareto_k(few).isnan().all()
    assert pareto_k(rounding).isnan().all()
    assert pareto_k(broken).isnan().tolist() == [True, False]
    lonely = torch.full((100, 1), -1e5)
    lonely[:3] = 0.0
    assert pareto_k(lonely).tolist() == [torch.inf]
    flat = torch.randn(500, 1)
    flat[:200] = 3.5  # a latent of few values: so many draws share the largest weight that there is no tail
    assert pareto_k(flat).isnan().all()


def test_constant_does_not_matter_and_dtype_is_kept() -> None:
    log_w = torch.randn(300, 4)
    torch.testing.assert_close(pareto_k(log_w), pareto_k(log_w.double() + 700).float(), rtol=1e-3, atol=1e-3)
    assert pareto_k(log_w).dtype == torch.float32


def test_blocks_change_nothing() -> None:
    log_w = torch.randn(1000, 3000, dtype=torch.float64)
    torch.testing.assert_close(pareto_k(log_w)[-5:], pareto_k(log_w[:, -5:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("draws", [26, 100, 1000])
def test_smoothed_weights_equal_arviz(draws: int) -> None:
    columns = [scale * torch.randn(draws, dtype=torch.float64) for scale in (0.01, 0.1, 1.0, 2.0, 5.0, 30.0)]
    columns += [-0.8 * torch.rand(draws, dtype=torch.float64).log() - 500]
    log_w = torch.stack(columns, 1)
    smoothed, k = arviz.psislw(log_w.T.numpy())  # normalised
    found, found_k = pareto_smoothed(log_w)
    expected = torch.from_numpy(smoothed).T
    torch.testing.assert_close(found - found.logsumexp(0), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found_k, torch.from_numpy(k), rtol=1e-6, atol=1e-6)
    lonely = torch.full((100, 1), -1e5)
    lonely[:3] = 0.0
    assert torch.equal(pareto_smoothed(lonely)[0], lonely)  # nothing to fit


def test_smoothing_lowers_the_error_where_tails_are_heavy() -> None:
    # Weights (k = 0.6) of infinite variance, whose mean is known: 1 / (1 - k) = 2.5.
    log_w = -0.6 * torch.rand(200, 2000, dtype=torch.float64).log()
    plain, smooth = (w.logsumexp(0) - torch.tensor(200.0).log() for w in (log_w, pareto_smoothed(log_w)[0]))
    errors = [float((found.exp() - 2.5).square().mean().sqrt()) for found in (plain, smooth)]
    assert errors[1] < 0.5 * errors[0]


def test_method_is_no_bound_and_near_the_truth() -> None:
    pair, x = GammaPoisson(), GammaPoisson.data(60)
    found = log_evidence(pair, x, method=PSIS(2000), progress=False)
    plain = log_evidence(pair, x, method=ImportanceSampling(2000), progress=False)
    assert (found.method, found.bound, plain.bound) == ("PSIS", "consistent", "lower")
    assert not torch.equal(found.log_evidence, plain.log_evidence)  # of the same draws
    torch.testing.assert_close(found.pareto_k, plain.pareto_k)
    error = (found.log_evidence - pair.log_evidence(x).detach())[found.trusted]
    assert float((error / found.standard_error[found.trusted]).square().mean().sqrt()) < 1.5
