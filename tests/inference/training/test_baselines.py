"""Wake-sleep and Monte Carlo EM against the maximum of the likelihood, which scikit-learn knows."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from contracts.training import binary, small
from core.pairs import Discrete, GlobalWeight
from torch import Tensor
from torch.distributions import Normal

from ppvae.core import FitError, PpvaeError, log_guide, unconstrained
from ppvae.core.compile import state_of
from ppvae.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal
from ppvae.inference import TrainingState, fit, fit_mcem, wake_sleep
from ppvae.inference.hmc.integrator import leapfrog
from ppvae.inference.hmc.kernel import HMCParameters, draw_noise, hmc_kernel, initial_state
from ppvae.inference.hmc.target import posterior_target
from ppvae.inference.training.ascent import names_of_model
from ppvae.inference.training.mcem import JITTER, Chains, CompleteData
from ppvae.models import VAE, FactorAnalysis
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
    result = fit_mcem(pair, x, num_epochs=80, batch_size=200, learning_rate=0.1, progress=False)
    reached = pair.log_evidence(x).mean().item()
    assert best - 0.05 < reached <= best + 1e-3 and before < best - 1
    assert result.outcome.code == "completed" and len(result.history) == 80
    assert abs(sum(row["acceptance"] for row in result.history[-30:]) / 30 - 0.9) < 0.05
    assert "80 epochs, log_joint_train=-" in repr(result) and "log p(x, z), training" in result._repr_html_()


def test_the_mean_step_of_monte_carlo_em_is_the_gradient_of_the_evidence() -> None:
    r"""Fisher's identity, $\mathrm{E}_{p(z | x)} \nabla \log p(x, z) = \nabla \log p(x)$: hence its fixed points."""
    torch.manual_seed(2)
    pair = FactorAnalysis(4, 2).double()
    x = 2 * torch.randn(300, 4, dtype=torch.float64) + 1
    coordinates = unconstrained(pair, x)
    chains = Chains(pair, x, coordinates, 300, 8, 0.9, "graph")
    complete = CompleteData(pair, coordinates, names_of_model(pair, x), None, 300, "graph")

    def gradient(u: Tensor) -> Tensor:
        return -torch.cat([part.flatten() for part in complete(x, u).gradients.values()])

    exact = torch.autograd.grad(pair.log_evidence(x).mean(), list(complete.trainable.values()))
    truth = torch.cat([part.flatten() for part in exact])
    draws, wrong = [], []
    for transition in range(240):
        u, _ = chains.move(complete.inputs, x, torch.arange(300))
        if transition >= 40:
            draws.append(gradient(u))
            wrong.append(gradient(torch.randn_like(u)))  # draws from the prior

    def largest(gradients: list[Tensor]) -> float:
        blocks = torch.stack(gradients).reshape(20, 10, -1).mean(1)  # longer than the chains remember
        return float(((blocks.mean(0) - truth) / (blocks.std(0) / 20**0.5)).abs().max())

    assert largest(draws) < 6.5 < 20 < largest(wrong)  # of 16 Student's t of 19 degrees: false alarms 5e-5


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_captured_transition_is_that_of_the_plain_kernel(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pair, x = small(), binary(100)
    coordinates = unconstrained(pair, x)
    chains = Chains(pair, x, coordinates, 100, 4, 0.9, mode)
    chains.log_step_size.fill_(math.log(1.7))
    before, rows = chains.u.clone(), torch.arange(100)
    runs: list[int] = []
    original = type(pair).model
    monkeypatch.setattr(type(pair), "model", lambda *args, **kwargs: (runs.append(1), original(*args, **kwargs))[1])
    torch.manual_seed(5)
    u, acceptance = chains.move(state_of(pair), x, rows)
    assert len(runs) == 5  # the start and four leapfrogs
    torch.manual_seed(5)
    context = state_of(pair), x
    target = posterior_target(pair, coordinates)
    scales = HMCParameters(torch.full((1, 100), 1.7), torch.ones(1, 100, 2))
    start = initial_state(target, before[None], *context)
    kernel = hmc_kernel(leapfrog(target), 4, jitter=JITTER)
    state, info = kernel(start, draw_noise(before[None]), scales, *context)
    torch.testing.assert_close(u, state.u[0])
    torch.testing.assert_close(float(acceptance), float(info.acceptance.mean()))
    assert 0 < int(info.accepted.sum()) < 100 and torch.equal(chains.u, u)
    assert float(chains.log_step_size) == pytest.approx(math.log(1.7) + 0.5 * (float(acceptance) - 0.9))
    assert chains.captured.graphs == (mode == "graph")


@pytest.mark.parametrize("place", ["attribute", "buffer"])
def test_monte_carlo_em_takes_up_what_a_callback_changes(place: str) -> None:
    def change(state: TrainingState) -> None:
        prior: Any = state.pair.prior
        if place == "buffer":
            prior.shift.fill_(state.epoch)
        else:
            prior.offset = float(state.epoch)

    class Moved(ConditionalDistribution):
        def __init__(self) -> None:
            super().__init__(2)
            self.offset = 0.0
            self.register_buffer("shift", torch.zeros(()))

        def forward(self, *context: Tensor) -> Any:
            return dist.Normal(torch.zeros(2) + self.offset + self.shift, 1.0).to_event(1)

    found = {}
    for mode in ("eager", "graph", "unchanged"):
        torch.manual_seed(0)
        pair = VAE(prior=Moved(), likelihood=Bernoulli(MLP(2, [5]), 9), posterior=DiagonalNormal(MLP(9, [5]), 2))
        options: dict[str, Any] = {"num_epochs": 4, "batch_size": None, "num_leapfrog": 3, "progress": False}
        unchanged = mode == "unchanged"
        options |= {"compile": "eager" if unchanged else mode, "callbacks": [] if unchanged else [change]}
        found[mode] = [row["log_joint_train"] for row in fit_mcem(pair, binary(50), **options).history]
    assert found["graph"] == pytest.approx(found["eager"], rel=1e-4)
    assert found["unchanged"][0] == found["eager"][0] and found["unchanged"][1] > found["eager"][1] + 0.1


def test_monte_carlo_em_stops_before_a_number_is_not_finite() -> None:
    with pytest.raises(FitError, match=r"update 2 of step 1 \(epoch 1\).*not finite.*rows 0, 1") as caught:
        fit_mcem(small(), binary(50), optimizer="sgd", learning_rate=1e38, num_epochs=1, progress=False)
    assert caught.value.step == 1 and len(caught.value.indices) == 50


def test_monte_carlo_em_never_touches_the_guide(problem: tuple[Tensor, float]) -> None:
    pair = FactorAnalysis(6, 2, posterior=DiagonalNormal(MLP(6, [4]), 2))
    before = [p.detach().clone() for p in pair.encoder.parameters()]  # type: ignore[union-attr]
    fit_mcem(pair, problem[0], num_epochs=2, compile="eager", progress=False, weight_prior=Normal(0.0, 1.0))
    assert all(torch.equal(a, b) for a, b in zip(before, pair.encoder.parameters(), strict=True))  # type: ignore[union-attr]


def test_monte_carlo_em_is_seeded(problem: tuple[Tensor, float]) -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(1)
        pair = FactorAnalysis(6, 2)
        fit_mcem(pair, problem[0], num_epochs=2, seed=seed, compile="eager", progress=False)
        found.append(pair.loading.detach().clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_monte_carlo_em_refuses() -> None:
    with pytest.raises(PpvaeError, match="discrete"):
        fit_mcem(Discrete(), torch.randn(10, 2), batch_size=None, num_epochs=1)
    with pytest.raises(PpvaeError, match="'w' is global"):
        fit_mcem(GlobalWeight(), torch.randn(10, 3), batch_size=None, num_epochs=1)
    with pytest.raises(PpvaeError, match="target_acceptance: expected a number between 0 and 1"):
        fit_mcem(FactorAnalysis(3, 1), torch.randn(10, 3), target_acceptance=1.0)
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
