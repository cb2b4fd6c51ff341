"""Posteriors by name, each a function of what can be stated in numbers and words: for the presets and for recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from torch import nn

from ..distributions import (
    ConditionalDistribution,
    DiagonalNormal,
    FlowPosterior,
    FullCovarianceNormal,
    LowRankNormal,
)
from ..distributions.flows import PosteriorFlow

PosteriorMaker: TypeAlias = Callable[[nn.Module, int], ConditionalDistribution]
"""From the encoder's trunk and the number of latent dimensions to the posterior."""

__all__ = ["coupling", "diagonal", "full", "iaf", "low_rank", "planar", "spline"]


def diagonal(
    log_scale_range: Sequence[float] | None = None, log_variance: bool = False, init_scale: float | None = None
) -> PosteriorMaker:
    """A normal with independent dimensions."""
    return lambda trunk, latent_dim: DiagonalNormal(
        trunk, latent_dim, log_scale_range=log_scale_range, log_variance=log_variance, init_scale=init_scale
    )


def low_rank(rank: int = 2) -> PosteriorMaker:
    """A normal whose covariance is diagonal plus low rank."""
    return lambda trunk, latent_dim: LowRankNormal(trunk, latent_dim, rank=rank)


def full() -> PosteriorMaker:
    """A normal of full covariance."""
    return FullCovarianceNormal


def planar(num_transforms: int = 10) -> PosteriorMaker:
    """A flow of planar transforms."""
    return _flow("planar", num_transforms, ())


def iaf(num_transforms: int = 4, hidden: Sequence[int] = (64, 64)) -> PosteriorMaker:
    """An inverse autoregressive flow."""
    return _flow("iaf", num_transforms, hidden)


def coupling(num_transforms: int = 4, hidden: Sequence[int] = (64, 64)) -> PosteriorMaker:
    """A flow of affine couplings."""
    return _flow("coupling", num_transforms, hidden)


def spline(num_transforms: int = 4, hidden: Sequence[int] = (64, 64)) -> PosteriorMaker:
    """A flow of couplings by monotonic splines."""
    return _flow("spline", num_transforms, hidden)


def _flow(flow: PosteriorFlow, num_transforms: int, hidden: Sequence[int]) -> PosteriorMaker:
    return lambda trunk, latent_dim: FlowPosterior(
        trunk, latent_dim, flow=flow, num_transforms=num_transforms, hidden=hidden
    )
