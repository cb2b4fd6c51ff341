"""Pairs on which the expected value of every estimator is known: by quadrature, by enumeration, in closed form."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, Normal, StandardNormal
from ppvae.models import VAE
from ppvae.networks import MLP

Bound = Callable[[Tensor], Tensor]
"""From log weights [K, ...] to the bound [...]."""


def mean(log_w: Tensor) -> Tensor:
    """SGVB."""
    return log_w.mean(0)


def log_mean_exp(log_w: Tensor) -> Tensor:
    """The importance-weighted bound."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def power_mean(alpha: float) -> Bound:
    """The Rényi bound."""
    return lambda log_w: log_mean_exp((1 - alpha) * log_w) / (1 - alpha)


# --- a linear Gaussian VAE with one latent: quadrature -----------------------------------------------------------


def linear_vae(data_dim: int = 3, *, wrong: float = 1.0) -> VAE:
    """A linear Gaussian VAE with one latent, in float64, with an asymmetric guide that is exact where wrong = 0."""
    latent_dim = 1
    generator = torch.Generator().manual_seed(5)
    pair = VAE(
        StandardNormal(latent_dim),
        Normal(MLP(latent_dim, []), data_dim, scale="per-dimension"),
        DiagonalNormal(MLP(data_dim, []), latent_dim),
    ).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.15 + 0.45 * noise)
        loading, mu = pair.likelihood.head.layers[0].weight, pair.likelihood.head.layers[0].bias
        weighted = loading[:, 0] * (-2 * pair.likelihood.log_scale).exp()
        variance = 1 / (1 + weighted @ loading[:, 0])
        loc, log_scale = pair.posterior.head.layers
        for parameter, exact in (
            (loc.weight, variance * weighted),
            (loc.bias, -variance * weighted @ mu),
            (log_scale.weight, 0.0),
            (log_scale.bias, 0.5 * variance.log()),
        ):
            parameter.mul_(wrong).add_(exact)
    return pair


def some_data(count: int = 3, data_dim: int = 3) -> Tensor:
    """A few data, [count, data_dim]."""
    return 0.3 + torch.randn(count, data_dim, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def log_weight(pair: VAE, x: Tensor, z: Tensor, kl_weight: float = 1.0) -> Tensor:
    """log p(x | z) + beta (log p(z) - log q(z | x)) of a linear VAE, written out, at z [..., B, Z]."""
    q, p = pair.posterior.head.layers, pair.likelihood
    loc, log_scale = q[0](x), q[1](x)
    log_q = (-0.5 * ((z - loc) / log_scale.exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_prior = (-0.5 * z.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
    residual = (x - p.head.layers[0](z)) / p.log_scale.exp()
    likelihood = (-0.5 * residual.square() - p.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    return likelihood + kl_weight * (log_prior - log_q)


def log_evidence(pair: VAE, x: Tensor) -> Tensor:
    """log p(x) of a linear VAE, [B]."""
    layer = pair.likelihood.head.layers[0]
    marginal = dist.LowRankMultivariateNormal(layer.bias, layer.weight, (2 * pair.likelihood.log_scale).exp())
    return marginal.log_prob(x)


def quadrature(
    pair: VAE, x: Tensor, bound: Bound, num_particles: int, nodes: int = 60, *, kl_weight: float = 1.0
) -> Tensor:
    """The expected bound of every datum, [B]: Gauss-Hermite over the noise of every particle; one latent only.

    Differentiable: its gradient is the gradient of the expected bound.
    """
    points, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    weights = weights / weights.sum()
    grid = torch.cartesian_prod(*[points] * num_particles).reshape(-1, num_particles).T  # [K, G]
    mass = torch.cartesian_prod(*[weights] * num_particles).reshape(-1, num_particles).prod(-1)  # [G]
    q = pair.posterior.head.layers
    z = q[0](x) + q[1](x).exp() * grid[..., None, None]  # [K, G, B, 1]
    return (mass[:, None] * bound(log_weight(pair, x, z, kl_weight))).sum(0)


# --- a VAE with binary latents: enumeration ----------------------------------------------------------------------


class BernoulliPrior(ConditionalDistribution):
    """p(z): independent coins with learned probabilities."""

    def __init__(self, event_shape: int) -> None:
        super().__init__(event_shape)
        self.logits = nn.Parameter(torch.linspace(-0.5, 0.8, event_shape))

    def forward(self, *context: Tensor) -> Any:
        return dist.Bernoulli(logits=self.logits).to_event(1)


def binary_vae(data_dim: int = 3, latent_dim: int = 2) -> VAE:
    """A VAE with Bernoulli latents in float64."""
    generator = torch.Generator().manual_seed(8)
    pair = VAE(
        BernoulliPrior(latent_dim),
        Normal(MLP(latent_dim, []), data_dim, scale="per-dimension"),
        Bernoulli(MLP(data_dim, []), latent_dim),
    ).double()
    with torch.no_grad():
        for parameter in pair.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.1 + 0.5 * noise)
    return pair


def enumeration(pair: VAE, x: Tensor, bound: Bound, num_particles: int) -> Tensor:
    """The expected bound of every datum, [B], over all states of all particles of a binary VAE."""
    latent_dim = pair.prior.event_shape[0]
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=latent_dim)), dtype=x.dtype)  # [S, Z]
    log_q = pair.posterior(x).log_prob(states[:, None])  # [S, B]
    log_p = pair.prior().log_prob(states)[:, None] + pair.likelihood(states[:, None]).log_prob(x)
    total = torch.zeros_like(log_q[0])
    for chosen in itertools.product(range(len(states)), repeat=num_particles):
        index = list(chosen)
        total = total + log_q[index].sum(0).exp() * bound((log_p - log_q)[index])
    return total


# --- noise that belongs to the datum: exact invariance under partitions -------------------------------------------


class Told(ModelGuidePair):
    """Another pair, and which N its programs were told: in a queue, which is not part of what the programs read."""

    def __init__(self, pair: ModelGuidePair) -> None:
        super().__init__()
        self.pair = pair
        self.told: SimpleQueue[tuple[str, int | None]] = SimpleQueue()

    def model(self, x: Any, num_data: int | None = None) -> Any:
        self.told.put(("model", num_data))
        return self.pair.model(x, num_data)

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        self.told.put(("guide", num_data))
        return self.pair.guide(x, num_data)

    def heard(self) -> set[tuple[str, int | None]]:
        """All since this was last asked."""
        return {self.told.get() for _ in range(self.told.qsize())}


class Outside(Told):
    """Another pair, and one observation outside the data plate, of log density log N(1.3; 0, 1)."""

    def model(self, x: Any, num_data: int | None = None) -> Any:
        pyro.sample("y", dist.Normal(torch.zeros_like(x[0, 0]), 1.0), obs=torch.full_like(x[0, 0], 1.3))
        return super().model(x, num_data)


class ReplayNormal(dist.Normal):
    """A normal whose noise is a fixed function of its mean and of the particle's number, whatever the batch."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        key = 37.7 * self.loc.detach().expand(shape) + 0.9 * torch.arange(shape[-1])
        if len(shape) == 3:
            key = key + 1.7 * torch.arange(shape[0])[:, None, None]
        return self.loc + self.scale * (1.4 * key.sin())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)


class ReplayPair(ModelGuidePair):
    """A linear Gaussian pair with replayed noise, optionally with a global latent, the mean of the data."""

    def __init__(self, *, with_global: bool, data_dim: int = 2, latent_dim: int = 2) -> None:
        super().__init__()
        self.with_global, self.latent_dim, self.data_dim = with_global, latent_dim, data_dim
        generator = torch.Generator().manual_seed(9)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.2 + 0.4 * torch.randn(shape, generator=generator, dtype=torch.float64))

        self.loading, self.log_noise = parameter(data_dim, latent_dim), parameter(data_dim)
        self.gain, self.log_scale = parameter(latent_dim, data_dim), parameter(latent_dim)
        self.w_loc, self.w_log_scale = parameter(data_dim), parameter(data_dim)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = torch.zeros_like(self.w_loc)
        if self.with_global:
            w = pyro.sample("w", ReplayNormal(torch.full_like(w, 0.3), torch.ones_like(w)).to_event(1))
        with self.data_plate(x, num_data):
            zero = torch.zeros_like(self.log_scale)
            z = pyro.sample("z", ReplayNormal(zero, torch.ones_like(zero)).to_event(1))
            loc = w + z @ self.loading.mT
            pyro.sample("x", ReplayNormal(loc, self.log_noise.exp().expand_as(loc)).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        if self.with_global:
            pyro.sample("w", ReplayNormal(self.w_loc, self.w_log_scale.exp()).to_event(1))
        with self.data_plate(x, num_data):
            loc = x @ self.gain.mT
            pyro.sample("z", ReplayNormal(loc, self.log_scale.exp().expand_as(loc)).to_event(1))


class GlobalPair(ReplayPair):
    """The same pair with real noise; its expected ELBO is known in closed form."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.full_like(self.w_loc, 0.3), 1.0).to_event(1))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.log_scale), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w + z @ self.loading.mT, self.log_noise.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("w", dist.Normal(self.w_loc, self.w_log_scale.exp()).to_event(1))
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x @ self.gain.mT, self.log_scale.exp()).to_event(1))

    def expected_elbo(self, x: Tensor) -> Tensor:
        """The ELBO of all data, a scalar in nats."""
        loc, var = x @ self.gain.mT, (2 * self.log_scale).exp()
        w_var, precision = (2 * self.w_log_scale).exp(), (-2 * self.log_noise).exp()
        spread = (x - self.w_loc - loc @ self.loading.mT).square() + w_var + self.loading.square() @ var
        likelihood = (-0.5 * precision * spread - self.log_noise - 0.5 * math.log(2 * math.pi)).sum()
        kl = 0.5 * (loc.square() + var - 1).sum() - len(x) * self.log_scale.sum()
        kl_w = 0.5 * ((self.w_loc - 0.3).square() + w_var - 1).sum() - self.w_log_scale.sum()
        return likelihood - kl - kl_w
