"""Wake-sleep and Monte Carlo EM against the maximum of the likelihood, which scikit-learn knows."""

from __future__ import annotations

import pytest
import torch
from core.pairs import Discrete, GlobalWeight
from torch import Tensor
from torch.distributions import Normal

from ppvae.core import PpvaeError, log_guide
from ppvae.distributions import DiagonalNormal
from ppvae.inference import fit, fit_mcem, wake_sleep
from ppvae.models import FactorAnalysis
from ppvae.networks import MLP


@pytest.fixture
def problem() -> tuple[Tensor, float]:
    torch.manual_seed(0)
    truth = FactorAnalysis.from_parameters(torch.randn(6), torch.randn(6, 2), torch.rand(6) + 0.3)
    x = truth.marginal().sample((400,)).detach()
    return x, FactorAnalysis.maximum_likelihood(x, 2).log_evidence(x).mean().item()


def test_monte_carlo_em_reaches_the_maximum_of_the_likelihood(problem: tuple[Tensor, float]) -> None:
    x, best = problem
    torch.manual_seed(1)
    pair = FactorAnalysis(6, 2)
    before = pair.log_evidence(x).mean().item()
    rows, outcome = fit_mcem(pair, x, num_epochs=80, batch_size=200, learning_rate=0.1, progress=False)
    reached = pair.log_evidence(x).mean().item()
    assert best - 0.05 < reached <= best + 1e-3 and before < best - 1
    assert outcome.code == "completed" and len(rows) == 80
    assert abs(sum(row["acceptance"] for row in rows[-30:]) / 30 - 0.9) < 0.05


def test_monte_carlo_em_never_touches_the_guide(problem: tuple[Tensor, float]) -> None:
    pair = FactorAnalysis(6, 2, posterior=DiagonalNormal(MLP(6, [4]), 2))
    before = [p.detach().clone() for p in pair.encoder.parameters()]  # type: ignore[union-attr]
    fit_mcem(pair, problem[0], num_epochs=2, progress=False, weight_prior=Normal(0.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, pair.encoder.parameters(), strict=True))  # type: ignore[union-attr]


def test_monte_carlo_em_is_seeded(problem: tuple[Tensor, float]) -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(1)
        pair = FactorAnalysis(6, 2)
        fit_mcem(pair, problem[0], num_epochs=2, seed=seed, progress=False)
        found.append(pair.loading.detach().clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_monte_carlo_em_refuses() -> None:
    with pytest.raises(PpvaeError, match="discrete"):
        fit_mcem(Discrete(), torch.randn(10, 2), batch_size=None, num_epochs=1)
    with pytest.raises(PpvaeError, match="'w' is global"):
        fit_mcem(GlobalWeight(), torch.randn(10, 3), batch_size=None, num_epochs=1)
    with pytest.raises(PpvaeError, match="num_leapfrog"):
        fit_mcem(FactorAnalysis(3, 1), torch.randn(10, 3), num_leapfrog=0)


def test_wake_sleep_learns_the_posterior_of_its_dreams(problem: tuple[Tensor, float]) -> None:
    """With a guide that contains the posterior wake-sleep reaches the maximum too, and log q the exact posterior."""
    x, best = problem
    torch.manual_seed(1)
    pair = FactorAnalysis(6, 2)
    pair = pair.with_posterior(pair.exact_encoder())
    result = fit(
        pair,
        x,
        elbo=wake_sleep(),
        num_epochs=200,
        batch_size=200,
        learning_rate=0.04,
        schedule=lambda made: torch.optim.lr_scheduler.CosineAnnealingLR(made, 200),
        progress=False,
    )
    assert pair.log_evidence(x).mean().item() > best - 0.05
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"] + 1
    z = torch.randn(400, 2)
    log_q, _ = log_guide(pair, x, {"z": z})
    exact = pair.posterior(x).log_prob(z)
    assert float((log_q - exact).detach().abs().median()) < 0.2
