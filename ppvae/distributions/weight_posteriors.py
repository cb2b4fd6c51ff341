r"""Posteriors over weights: diagonal normal, and low rank plus diagonal, each with its KL in closed form.

A weight is $w = \mu + \sigma \odot \epsilon + \sum_r U_r \eta_r$ with standard normal $\epsilon$ and $\eta$; the
diagonal posterior has no $U$. Draws carry a mark, so that a model can tell a weight drawn from its posterior (whose
noise may then be drawn anew for every datum) from a weight at a given value.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent, constraints, register_kl
from torch.distributions.utils import lazy_property

from ..core.errors import PpvaeError

_NO_SHAPE = torch.Size()
_MARK = "_ppvae_posterior_draw"


def is_posterior_draw(value: Tensor) -> bool:
    """Whether this very tensor was drawn from a weight posterior; no tensor computed from it is."""
    return getattr(value, _MARK, False)


def _mark(value: Tensor) -> Tensor:
    setattr(value, _MARK, True)
    return value


class WeightNormal(dist.Normal):
    """A normal whose draws are marked."""

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """A draw, marked."""
        return _mark(super().rsample(sample_shape))


class MeanNormal(WeightNormal):
    """A normal that draws its mean, marked: for weights whose noise enters elsewhere."""

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """The mean, marked."""
        mean: Tensor = self.loc
        return _mark(mean.expand(self._extended_shape(sample_shape)))


class WeightLowRankNormal(dist.TorchDistribution):
    r"""$\mathcal{N}(\mu,\ U U^\top + \mathrm{diag}\,\sigma^2)$ over a tensor of any shape.

    Args:
        loc: $\mu$, [*batch, *event].
        factor: $U$, [*batch, *event, R].
        scale: $\sigma$, [*batch, *event], positive.
        event_dim: how many axes one event has.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = True

    def __init__(
        self, loc: Tensor, factor: Tensor, scale: Tensor, event_dim: int, validate_args: bool | None = None
    ) -> None:
        self.loc, self.factor, self.scale = loc, factor, scale
        batch_dim = loc.dim() - event_dim
        super().__init__(loc.shape[:batch_dim], loc.shape[batch_dim:], validate_args=validate_args)

    @property
    def support(self) -> Any:
        """All tensors of the event's shape."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """[*batch, *event]."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """[*batch, *event]."""
        return self.scale.square() + self.factor.square().sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> WeightLowRankNormal:
        """The same with another batch shape."""
        shape = torch.Size(batch_shape) + self.event_shape
        return type(self)(
            self.loc.expand(shape),
            self.factor.expand(*shape, self.factor.shape[-1]),
            self.scale.expand(shape),
            len(self.event_shape),
            validate_args=False,
        )

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """A draw, marked."""
        shape = self._extended_shape(sample_shape)
        narrow = (*shape[: len(shape) - len(self.event_shape)], *(1,) * len(self.event_shape), self.factor.shape[-1])
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        common = torch.randn(narrow, dtype=self.loc.dtype, device=self.loc.device)
        return _mark(self.loc + self.scale * noise + (self.factor * common).sum(-1))

    @lazy_property
    def _flat_factor(self) -> Tensor:
        return self.factor.reshape(*self.batch_shape, self.event_shape.numel(), -1)

    @lazy_property
    def _capacitance_tril(self) -> Tensor:
        """Cholesky factor of I + U' D^-1 U, [*batch, R, R]."""
        scaled_factor = self._flat_factor / self.scale.reshape(*self.batch_shape, -1, 1).square()
        capacitance = scaled_factor.mT @ self._flat_factor
        eye = torch.eye(capacitance.shape[-1], dtype=capacitance.dtype, device=capacitance.device)
        tril: Tensor = torch.linalg.cholesky_ex(capacitance + eye).L
        return tril

    def log_determinant(self) -> Tensor:
        """Of the covariance, [*batch]."""
        inner: Tensor = self._capacitance_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 2 * (inner + self.scale.log().reshape(*self.batch_shape, -1).sum(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """[*samples, *batch], nats."""
        noise = (value - self.loc) / self.scale
        noise = noise.reshape(*noise.shape[: noise.dim() - len(self.event_shape)], -1)
        projection = (self._flat_factor / self.scale.reshape(*self.batch_shape, -1, 1)).mT @ noise.unsqueeze(-1)
        solution = torch.linalg.solve_triangular(self._capacitance_tril, projection, upper=False).squeeze(-1)
        distance = noise.square().sum(-1) - solution.square().sum(-1)
        constant = self.event_shape.numel() * math.log(2 * math.pi)
        log_density: Tensor = -0.5 * (distance + self.log_determinant() + constant)
        return log_density


class MeanLowRankNormal(WeightLowRankNormal):
    """A low-rank normal that draws its mean, see :class:`MeanNormal`."""

    def rsample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """The mean, marked."""
        return _mark(self.loc.expand(self._extended_shape(sample_shape)))


@register_kl(WeightLowRankNormal, Independent)
def _kl_low_rank_independent(q: WeightLowRankNormal, p: Any) -> Tensor:
    base = p.base_dist
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, torch.distributions.Normal):
        raise NotImplementedError
    per_weight = (q.variance + (q.loc - base.loc).square()) / base.scale.square() + 2 * base.scale.log() - 1
    total = per_weight.reshape(*per_weight.shape[: per_weight.dim() - len(q.event_shape)], -1).sum(-1)
    return 0.5 * (total - q.log_determinant())


class GaussianWeight(NamedTuple):
    """The posterior of one tensor of weights.

    Attributes:
        loc: mean, [*shape].
        scale: standard deviation of the independent noise, [*shape].
        factor: of the noise common to all entries, [*shape, R], or None.
    """

    loc: Tensor
    scale: Tensor
    factor: Tensor | None = None


class WeightPosterior(nn.Module, ABC):
    """The posterior of one tensor of weights: a module whose forward returns its distribution."""

    @abstractmethod
    def forward(self, sample: bool = True) -> Any:
        """The distribution; its event is the tensor. Without ``sample``, its draws are its mean."""

    @abstractmethod
    def gaussian(self) -> GaussianWeight:
        """Its mean and scales."""


class DiagonalWeight(WeightPosterior):
    r"""$q(w) = \mathcal{N}(w; \mu, \mathrm{diag}\,\sigma^2)$, with $\log \sigma$ free."""

    def __init__(self, value: Tensor, scale: float) -> None:
        super().__init__()
        self.loc = nn.Parameter(value.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(value, math.log(scale)))

    def forward(self, sample: bool = True) -> Any:
        """A normal with marked draws."""
        normal: Any = (WeightNormal if sample else MeanNormal)(self.loc, self.log_scale.exp())
        return normal.to_event(self.loc.dim())

    def gaussian(self) -> GaussianWeight:
        """Its mean and scale."""
        return GaussianWeight(self.loc, self.log_scale.exp())


class LowRankWeight(WeightPosterior):
    r"""$q(w) = \mathcal{N}(w; \mu, U U^\top + \mathrm{diag}\,\sigma^2)$, over one tensor of weights."""

    def __init__(self, value: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.loc = nn.Parameter(value.detach().clone())
        self.log_scale = nn.Parameter(torch.full_like(value, math.log(scale)))
        noise = torch.randn(*value.shape, rank, dtype=value.dtype, device=value.device)
        self.factor = nn.Parameter(noise * (scale / math.sqrt(rank)))

    def forward(self, sample: bool = True) -> Any:
        """A low-rank normal with marked draws."""
        family = WeightLowRankNormal if sample else MeanLowRankNormal
        return family(self.loc, self.factor, self.log_scale.exp(), self.loc.dim())

    def gaussian(self) -> GaussianWeight:
        """Its mean, scale and factor."""
        return GaussianWeight(self.loc, self.log_scale.exp(), self.factor)


class LogNormalScale(nn.Module):
    r"""The posterior of a positive scale of a hierarchical prior: $\log \tau \sim \mathcal{N}(\mu, \sigma^2)$."""

    def __init__(self, value: Tensor, scale: float = 0.1) -> None:
        super().__init__()
        self.loc = nn.Parameter(value.detach().log())
        self.log_scale = nn.Parameter(torch.full_like(value, math.log(scale)))

    def forward(self) -> Any:
        """A log-normal."""
        return dist.LogNormal(self.loc, self.log_scale.exp()).to_event(self.loc.dim())


@dataclass(frozen=True)
class DiagonalPosterior:
    """The mean-field posterior, with the KL in closed form.

    Attributes:
        scale: standard deviation at the start.
    """

    scale: float = 0.02

    def __post_init__(self) -> None:
        _positive("DiagonalPosterior", self.scale)

    def build(self, value: Tensor) -> WeightPosterior:
        """The posterior of one tensor of weights, its mean at ``value``."""
        return DiagonalWeight(value, self.scale)


@dataclass(frozen=True)
class LowRankPosterior:
    """Low rank plus diagonal for every tensor of weights by itself, with the KL in closed form.

    Attributes:
        rank: R.
        scale: standard deviation at the start, of each of the two parts.
    """

    rank: int = 2
    scale: float = 0.02

    def __post_init__(self) -> None:
        _positive("LowRankPosterior", self.scale)
        if self.rank < 1:
            raise PpvaeError(f"LowRankPosterior: expected a rank of at least 1, found {self.rank}")

    def build(self, value: Tensor) -> WeightPosterior:
        """The posterior of one tensor of weights, its mean at ``value``."""
        return LowRankWeight(value, self.rank, self.scale)


def _positive(name: str, scale: float) -> None:
    if not scale > 0:
        raise PpvaeError(f"{name}: expected a positive scale (a standard deviation), found {scale}")
