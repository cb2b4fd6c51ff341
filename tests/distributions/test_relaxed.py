"""Relaxed discrete distributions: limits, a temperature that reaches a captured step, and what is refused."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from contracts.conditional import ConditionalContract, trunk

from ppvae.core import PpvaeError
from ppvae.core.compile import bind, capture, state_of
from ppvae.distributions import ConditionalDistribution, RelaxedBernoulli, RelaxedOneHotCategorical

FAMILIES: list[Any] = [RelaxedBernoulli, RelaxedOneHotCategorical]


class TestRelaxedBernoulli(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return RelaxedBernoulli(trunk(), event_shape)


class TestRelaxedBernoulliPrior(ConditionalContract):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return RelaxedBernoulli(None, event_shape)


class TestRelaxedOneHotCategorical(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return RelaxedOneHotCategorical(trunk(), event_shape)


class TestRelaxedOneHotCategoricalPrior(ConditionalContract):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return RelaxedOneHotCategorical(None, event_shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_density_integrates_to_one(family: Any) -> None:
    made = family(trunk(), 2, temperature=0.8).double()
    found = made(torch.randn(3, dtype=torch.float64))
    cells = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    if family is RelaxedBernoulli:
        value = torch.stack(torch.meshgrid(cells[::4], cells[::4], indexing="ij"), -1)
    else:
        value = torch.stack([cells, 1 - cells], -1)  # the density with respect to the first of the two
    with pyro.validation_enabled(False), torch.no_grad():
        density = found.log_prob(value).exp()
    assert float(density.mean()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_low_temperatures_are_discrete_and_have_the_discrete_means(family: Any) -> None:
    made = family(trunk(), 4, temperature=0.02)
    context = torch.randn(3)
    draws = made(context).sample((20_000,))
    assert float(((draws - draws.round()).abs() < 1e-3).float().mean()) > 0.8
    logits = made.logits((context,))
    means = logits.sigmoid() if family is RelaxedBernoulli else logits.softmax(-1)
    assert bool(((draws.mean(0) - means).abs() < 5 * (means * (1 - means) / 20_000).sqrt() + 0.01).all())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_captured_step_reads_the_temperature(family: Any) -> None:
    made, context = family(trunk(), 4), torch.randn(5, 3)
    run = capture(bind(made, lambda module, c: module(c).rsample()), mode="graph")
    results = []
    for temperature in (2 / 3, 0.01):
        made.temperature.fill_(temperature)
        torch.manual_seed(0)
        with pyro.validation_enabled(False):
            results.append(run(state_of(made), context))
        torch.manual_seed(0)
        torch.testing.assert_close(results[-1], made(context).rsample())
    assert run.fallback == "" and run.graphs == 1
    assert not torch.allclose(*results, atol=0.01)
    assert "temperature" in made.state_dict()  # saved and resumed with the run


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_is_refused(family: Any) -> None:
    with pytest.raises(PpvaeError, match=f"{family.__name__}: expected a positive temperature, found 0"):
        family(trunk(), 4, temperature=0)
    with pytest.raises(PpvaeError, match="expected at least two categories, found 1"):
        RelaxedOneHotCategorical(trunk(), (3, 1))
