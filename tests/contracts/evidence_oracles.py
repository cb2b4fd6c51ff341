"""Pairs whose evidence is known in closed form: linear Gaussian, Gamma-Poisson, with global sites, with trouble."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.models import FactorAnalysis


def factor_analysis(
    *, shift: float = 0.5, stretch: float = 1.2, num_data: int = 60, dtype: torch.dtype = torch.float32
) -> tuple[FactorAnalysis, Tensor]:
    """Factor analysis of 9 dimensions and 3 correlated factors under an asymmetric, wrong guide; data of its own."""
    generator = torch.Generator().manual_seed(11)
    loading = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    loading = loading + 0.7 * loading[:, :1]
    scale = 0.5 + torch.rand(9, generator=generator, dtype=torch.float64)
    loc = torch.randn(9, generator=generator, dtype=torch.float64)
    noise = torch.randn(num_data, 9, generator=generator, dtype=torch.float64)
    z = torch.randn(num_data, 3, generator=generator, dtype=torch.float64)
    x = loc + z @ loading.mT + scale * noise
    pair = FactorAnalysis.from_parameters(loc.to(dtype), loading.to(dtype), scale.to(dtype))
    return pair.with_wrong_guide(shift=shift, stretch=stretch), x.to(dtype)


class GammaPoisson(ModelGuidePair):
    """z ~ Gamma(a, b), x | z ~ Poisson(z): a positive latent; x is negative binomial. The guide is wide and shifted."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = nn.Parameter(torch.tensor(2.5))
        self.rate = nn.Parameter(torch.tensor(0.6))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Gamma(self.shape, self.rate))
            pyro.sample("x", dist.Poisson(z), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            loc = ((self.shape + x[:, 0]) / (self.rate + 1)).log()
            pyro.sample("z", dist.LogNormal(loc - 0.1, 1.2 * (self.shape + x[:, 0]).rsqrt()))

    def log_evidence(self, x: Tensor) -> Tensor:
        return dist.NegativeBinomial(self.shape, logits=-self.rate.log()).log_prob(x[:, 0])

    @staticmethod
    def data(num_data: int = 40) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return torch.poisson(6 * torch.rand(num_data, 1, generator=generator), generator=generator)


class GlobalMean(ModelGuidePair):
    """w ~ N(0, 1) outside the plate; z ~ N(0, 1), x | z, w ~ N(w + z, 0.5): log p(x | w) is normal."""

    def __init__(self) -> None:
        super().__init__()
        self.guide_loc = nn.Parameter(torch.tensor([0.3, -1.0]))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w + z, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(self.guide_loc, 0.1).to_event(1))
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.7 * (x - w), 0.6).to_event(1))

    @staticmethod
    def log_evidence_at(x: Tensor, w: Tensor) -> Tensor:
        return dist.Normal(w, math.sqrt(1.25)).log_prob(x).sum(-1)


class DiscreteLatent(ModelGuidePair):
    """k ~ Bernoulli(0.3), x | k ~ N(k, 1)."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("k", dist.Bernoulli(torch.sigmoid(x[:, 0] - 1.0)))

    @staticmethod
    def log_evidence_of(x: Tensor) -> Tensor:
        one = math.log(0.3) + dist.Normal(1.0, 1.0).log_prob(x[:, 0])
        zero = math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(x[:, 0])
        return torch.logaddexp(one, zero)


class Explosive(ModelGuidePair):
    """A normal model whose density is infinite, or not a number, for data above ten."""

    def __init__(self, value: float = math.inf) -> None:
        super().__init__()
        self.value = value

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("trouble", torch.where(x[:, 0] > 10, self.value, 0.0))
            pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.7 * x.clamp(max=10.0), 0.5).to_event(1))

    @staticmethod
    def log_evidence_of(x: Tensor) -> Tensor:
        return dist.Normal(0.0, math.sqrt(1.25)).log_prob(x).sum(-1)
