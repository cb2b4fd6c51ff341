"""poutine.scale in a guide whose discrete sites take all of their values: the objective is that of TraceEnum_ELBO."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, check_pair, draw_all_values, local_parameters
from ppvae.inference import elbo

PARALLEL: Any = {"enumerate": "parallel"}


class Weighted(ModelGuidePair):
    """A class and a style of every datum; one factor around everything."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight, self.classifier, self.loc = weight, nn.Linear(2, 3), nn.Parameter(torch.randn(3, 2))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data), poutine.scale(scale=self.weight):
            y = pyro.sample("y", dist.Categorical(logits=torch.arange(3.0)), infer=PARALLEL)
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.loc[y] + z.unsqueeze(-1), 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data), poutine.scale(scale=self.weight):
            y = pyro.sample("y", dist.Categorical(logits=self.classifier(x)), infer=PARALLEL)
            pyro.sample("z", dist.Normal(0.3 * y - 0.1, 0.8))


@pytest.mark.parametrize("particles", [1, 3])
def test_the_objective_is_weighted_and_the_bound_is_not(particles: int) -> None:
    """Noise for noise: value and gradients of Pyro's own."""
    pair, x = Weighted(0.1), torch.randn(4, 2)
    check_pair(pair, x)
    ours: Any = elbo.TraceELBO(num_particles=particles)
    ours.check(pair, x)
    stock = TraceEnum_ELBO(max_plate_nesting=1, num_particles=particles, vectorize_particles=True)
    outcomes = []
    for own in (False, True):
        pair.zero_grad()
        torch.manual_seed(7)
        if own:
            terms = ours.terms(pair, x)
            loss = -terms.objective_local.sum()
            torch.testing.assert_close(terms.objective_local, 0.1 * terms.local)
        else:
            with local_parameters(pair):
                loss = stock.differentiable_loss(pair.model, pair.guide, x)
        loss.backward()
        outcomes.append([loss.detach(), *(p.grad.clone() for p in pair.parameters() if p.grad is not None)])
    torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("vectorizes", [True, False])
def test_draws_say_what_the_weights_add(vectorizes: bool) -> None:
    pair, x = Weighted(0.1), torch.randn(4, 2)
    pair.vectorizes = vectorizes
    draws = draw_all_values(pair, x, 2)
    assert draws.tilt is not None
    torch.testing.assert_close(draws.tilt, -0.9 * draws.log_q)
    assert draw_all_values(Weighted(1.0), x, 2).tilt is None
