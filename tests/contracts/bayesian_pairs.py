"""Pairs with one random layer, where the expected bound, the evidence and the posterior are known exactly."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.models import BayesianPair

NOISE = 0.5


class OneLayer(ModelGuidePair):
    """y ~ N(layer(input), 0.5^2): no latent but the weights, once they are lifted."""

    def __init__(self, layer: nn.Module, event_dim: int) -> None:
        super().__init__()
        self.layer = layer
        self.event_dim = event_dim

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            mean = self.layer(x["input"])
            pyro.sample("y", dist.Normal(mean, NOISE).to_event(self.event_dim), obs=x["y"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        pass


def linear(num_data: int = 6, features: int = 2, out: int = 2) -> tuple[OneLayer, dict[str, Tensor]]:
    """A linear layer and data, float64."""
    return _with_data(nn.Linear(features, out).double(), (features,), num_data)


def convolution(num_data: int = 6) -> tuple[OneLayer, dict[str, Tensor]]:
    """A strided convolution of two groups."""
    return _with_data(nn.Conv2d(2, 2, 2, stride=2, groups=2).double(), (2, 4, 4), num_data)


def transposed(num_data: int = 6) -> tuple[OneLayer, dict[str, Tensor]]:
    """A transposed convolution."""
    return _with_data(nn.ConvTranspose2d(2, 1, 2, stride=2).double(), (2, 2, 2), num_data)


def _with_data(layer: nn.Module, shape: tuple[int, ...], num_data: int) -> tuple[OneLayer, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        inputs = 0.3 + torch.randn(num_data, *shape, generator=generator, dtype=torch.float64)
        y = layer(inputs)
        y = y + 0.5 + 0.8 * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return OneLayer(layer, y.dim() - 1), {"input": inputs, "y": y}


def widen(pair: BayesianPair, scale: float = 0.3) -> BayesianPair:
    """Posterior scales of a size that matters, each another."""
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in pair.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("log_scale"):
                parameter.copy_(math.log(scale) + 0.3 * noise)
            elif name.endswith("factor"):
                parameter.copy_(0.7 * scale * noise)
    return pair


def flat_posterior(pair: BayesianPair) -> tuple[Tensor, Tensor]:
    """Mean [d] and covariance [d, d] of all weights, differentiable in the posterior's parameters."""
    means, blocks = [], []
    for weight in pair.gaussian_weights().values():
        means.append(weight.loc.flatten())
        block = torch.diag(weight.scale.flatten().square())
        if weight.factor is not None:
            factor = weight.factor.flatten(0, -2)
            block = block + factor @ factor.T
        blocks.append(block)
    return torch.cat(means), torch.block_diag(*blocks)


def jacobian(pair: BayesianPair, x: dict[str, Tensor]) -> Tensor:
    """What an affine layer multiplies its weights by, [B, outputs, d]; found by differentiation."""
    layer: Any = pair.pair.layer
    names = [name.removeprefix("layer.") for name in pair.weight_names]
    shapes = [pair.shapes[name] for name in pair.weight_names]

    def output(flat: Tensor) -> Tensor:
        values = dict(zip(names, _split(flat, shapes), strict=True))
        return torch.func.functional_call(layer, values, (x["input"],)).flatten(1)

    return torch.func.jacrev(output)(torch.zeros(sum(s.numel() for s in shapes), dtype=torch.float64))


def _split(flat: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    parts = torch.split(flat, [shape.numel() for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def exact_local(pair: BayesianPair, x: dict[str, Tensor]) -> Tensor:
    """E_q log p(y_b | w), [B], in closed form."""
    loc, covariance = flat_posterior(pair)
    design = jacobian(pair, x).detach()
    mean = design @ loc
    variance = torch.einsum("bod,de,boe->bo", design, covariance, design)
    error = (x["y"].flatten(1) - mean).square() + variance
    return (-0.5 * error / NOISE**2 - 0.5 * math.log(2 * math.pi * NOISE**2)).sum(-1)


def exact_kl(pair: BayesianPair, prior_scale: float = 1.0) -> Tensor:
    """KL(q || N(0, s^2 I)) of all weights."""
    loc, covariance = flat_posterior(pair)
    p = torch.distributions.MultivariateNormal(torch.zeros_like(loc), prior_scale**2 * torch.eye(len(loc)).to(loc))
    return torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(loc, covariance), p)


def conjugate(pair: BayesianPair, x: dict[str, Tensor], prior_scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior mean, posterior covariance and log evidence of the weights under N(0, s^2 I)."""
    design = jacobian(pair, x).detach().flatten(0, 1)
    y = x["y"].flatten()
    precision = design.T @ design / NOISE**2 + torch.eye(design.shape[1]).to(y) / prior_scale**2
    covariance = torch.linalg.inv(precision)
    marginal = prior_scale**2 * design @ design.T + NOISE**2 * torch.eye(len(y)).to(y)
    evidence = torch.distributions.MultivariateNormal(torch.zeros_like(y), marginal).log_prob(y)
    return covariance @ design.T @ y / NOISE**2, covariance, evidence
