"""Every evidence method, HMC and the bounds on models whose discrete sites are summed out: the exact twins' answers."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, simulate
from ppvae.inference import elbo, log_evidence, sample_posterior
from ppvae.inference.evidence import AIS, BDMC, PSIS, RIS, BridgeSampling, ImportanceSampling, PriorSampling
from ppvae.inference.evidence import simulate_data as simulate_from
from ppvae.models import HiddenMarkovModel, MixtureOfFactorAnalysers

DATA = 12


class Wide(ModelGuidePair):
    """The twin's model under a guide that is too wide: a normal about the exact mean."""

    def __init__(self, twin: Any, factor: float = 1.4) -> None:
        super().__init__()
        self.twin, self.factor = twin, factor

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        self.twin.model(x, num_data)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        mean, variance = moments(self.twin, x)
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(mean, self.factor * variance.sqrt()).to_event(mean.dim() - 1))


def moments(twin: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the latents, [B, *event]."""
    exact = twin.marginal_posterior(x) if isinstance(twin, HiddenMarkovModel) else twin.posterior(x)
    return exact.mean.detach(), exact.variance.detach()


def mixture() -> tuple[Any, Tensor]:
    """Three components in four dimensions, two factors."""
    torch.manual_seed(2)
    twin = MixtureOfFactorAnalysers.from_parameters(
        torch.tensor([0.5, 0.3, 0.2]), 1.5 * torch.randn(3, 4), torch.randn(3, 4, 2), torch.full((3, 4), 0.8)
    )
    return twin, simulate(twin, torch.zeros(DATA, 4)).observed["x"].detach()


def chain() -> tuple[Any, Tensor]:
    """Two states, three steps of two numbers, one factor a step."""
    torch.manual_seed(3)
    twin = HiddenMarkovModel.from_parameters(
        torch.tensor([0.6, 0.4]),
        torch.tensor([[0.8, 0.2], [0.3, 0.7]]),
        loc=torch.tensor([[1.0, 0.0], [-1.0, 0.5]]),
        scale=torch.full((2, 2), 0.7),
        loading=torch.tensor([[[0.8], [0.4]], [[-0.3], [0.9]]]),
    )
    drawn = simulate(twin, torch.zeros(DATA, 3, 2)).observed
    return twin, torch.stack([drawn[f"x_{t}"] for t in range(3)], 1).detach()


TWINS = {"mixture": mixture, "chain": chain}
SAMPLERS = [PriorSampling(6000), ImportanceSampling(1500), PSIS(1500)]
OTHERS = [AIS(num_temperatures=60), BridgeSampling(), RIS()]


def cases() -> list[Any]:
    """Every method on every twin; two of them are long."""
    found = []
    for name in TWINS:
        for method in (*SAMPLERS, *OTHERS):
            marks = [pytest.mark.slow] if method in OTHERS[1:] else []
            found.append(pytest.param(name, method, id=f"{name}-{type(method).__name__}", marks=marks))
    return found


@pytest.mark.parametrize(("name", "method"), cases())
def test_every_method_gives_the_exact_evidence(name: str, method: Any) -> None:
    twin, x = TWINS[name]()
    mode: Any = "eager" if method in SAMPLERS else "auto"
    found = log_evidence(Wide(twin), x, method=method, seed=1, progress=False, compile=mode)
    good = found.outcome == 0
    assert float(good.float().mean()) >= (0.5 if isinstance(method, RIS) else 0.75)  # two modes, one normal
    score = ((found.log_evidence - twin.log_evidence(x).detach()) / found.standard_error)[good]
    assert float(score.abs().max()) < 4
    assert float(found.standard_error[good].max()) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", TWINS)
def test_bounds_on_simulated_data_enclose_the_exact_evidence(name: str) -> None:
    twin, x = TWINS[name]()
    pair = Wide(twin)
    data = simulate_from(pair, like=x, num_data=12, seed=0)
    found = log_evidence(pair, data, method=BDMC(), seed=1, progress=False)
    truth = twin.log_evidence(data.x).detach()
    score = (found.log_evidence - truth) / found.standard_error
    assert float(score.abs().max()) < 4


@pytest.mark.parametrize("name", ["mixture", pytest.param("chain", marks=pytest.mark.slow)])
def test_hmc_has_the_moments_of_the_exact_posterior(name: str) -> None:
    twin, x = TWINS[name]()
    x = x[:6]
    draws = sample_posterior(Wide(twin), x, num_samples=400, num_warmup=200, num_chains=4, seed=1, progress=False)
    values = draws.samples["z"].double()
    mean, variance = moments(twin, x)
    by_chain = values.mean(1)  # chains are independent
    score = (by_chain.mean(0) - mean) / (by_chain.std(0) / 2).clamp_min(0.03 * variance.sqrt())
    assert float(score.square().mean().sqrt()) < 2
    ratio = values.flatten(0, 1).var(0) / variance
    assert bool(((ratio > 0.7) & (ratio < 1.4)).float().mean() > 0.95)


@pytest.mark.parametrize("name", TWINS)
def test_importance_weighted_bounds_rise_to_the_truth(name: str) -> None:
    twin, x = TWINS[name]()
    pair, truth = Wide(twin, 2.0), float(twin.log_evidence(x).detach().mean())
    torch.manual_seed(0)
    bounds = []
    for count in (1, 10, 100, 2000):
        with torch.no_grad():
            values = [elbo.ImportanceWeightedELBO(count).terms(pair, x).local.mean() for _ in range(60)]
        bounds.append((float(torch.stack(values).mean()), float(torch.stack(values).std()) / 60**0.5))
    for (low, error), (high, other) in itertools.pairwise(bounds):
        assert low < high + 4 * (error**2 + other**2) ** 0.5
    assert bounds[0][0] < truth - 0.1
    assert abs(bounds[-1][0] - truth) < 0.02 + 4 * bounds[-1][1]
