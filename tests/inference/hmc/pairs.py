"""Pairs whose posterior is known, one of them constrained, and what to ask of their draws."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair


class GammaPoisson(ModelGuidePair):
    """z ~ Gamma(3, 1), two counts ~ Poisson(z): z | x ~ Gamma(3 + sum x, 3), by conjugacy. The latent is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Gamma(torch.tensor(3.0), torch.tensor(1.0)))
            rate = z.unsqueeze(-1).expand(*z.shape, 2)
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.LogNormal(((3 + x.sum(-1)) / 3).log(), self.scale))


class GlobalShift(ModelGuidePair):
    """A global shift w ~ N(0, 1) beside z ~ N(w, 1), x ~ N(z, 1); the guide holds w at N(2, 0.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(2.0))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(w, torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.tensor(1.0)).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("w", dist.Normal(self.loc, torch.tensor(0.1)))
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x[..., 0], torch.tensor(1.0)))


class Switch(ModelGuidePair):
    """A discrete latent, which has no gradient."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
            pyro.sample("x", dist.Normal(k.unsqueeze(-1), torch.tensor(1.0)).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))


class Blow(ModelGuidePair):
    """z ~ N(0, 1), x ~ N(z, 1): at x = 1e30, whose square is infinite, log p is so wherever a chain starts."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.0))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), torch.tensor(1.0)).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.loc.expand(x.shape[0]), torch.tensor(1.0)))


def assert_within(found: Tensor, expected: Tensor, error: Tensor, false_alarm: float = 1e-4) -> None:
    """Every entry lies within its standard error's normal bounds, with one false alarm for all of them together."""
    count = found.numel()
    k = math.sqrt(2) * float(torch.erfinv(torch.tensor(1 - false_alarm / count, dtype=torch.float64)))
    score = ((found - expected) / error).abs().max()
    assert score < k, f"off by {score:.1f} standard errors, where {k:.1f} are allowed for {count} numbers"
