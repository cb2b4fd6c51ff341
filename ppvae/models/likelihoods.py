"""Likelihoods by name, each a function of what can be stated in numbers and words: for the models and for recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from ..distributions import (
    Bernoulli,
    ConditionalDistribution,
    ContinuousBernoulli,
    DiscretisedLogistic,
    Multinomial,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from ..networks import MLP, LogCounts

LikelihoodMaker: TypeAlias = Callable[[nn.Module, int | Sequence[int]], ConditionalDistribution]
"""From the decoder's trunk and the shape of a datum to the likelihood."""

Spread: TypeAlias = Literal["conditional", "per-dimension", "shared"] | float
"""Where a standard deviation comes from, or its value."""

__all__ = ["bernoulli", "continuous_bernoulli", "discretised_logistic", "gaussian", "student_t"]


def bernoulli(allow_grey: bool = False) -> LikelihoodMaker:
    """Zeros and ones."""
    return lambda trunk, event_shape: Bernoulli(trunk, event_shape, allow_grey=allow_grey)


def continuous_bernoulli() -> LikelihoodMaker:
    """Shares in [0, 1]."""
    return ContinuousBernoulli


def gaussian(scale: Spread = "conditional", mean: Literal["identity", "sigmoid"] = "identity") -> LikelihoodMaker:
    """Real values."""
    return lambda trunk, event_shape: Normal(trunk, event_shape, scale=scale, mean=mean)


def student_t(df: Literal["shared"] | float = 5.0, scale: Spread = "conditional") -> LikelihoodMaker:
    """Real values, some far out."""
    return lambda trunk, event_shape: StudentT(trunk, event_shape, df=df, scale=scale)


def discretised_logistic(num_levels: int = 256, scale: Spread = "conditional") -> LikelihoodMaker:
    """Levels, such as bytes, as :mod:`ppvae.data` reads them: 0, 1 / (L - 1), ..., 1."""
    return lambda trunk, event_shape: DiscretisedLogistic(
        trunk, event_shape, num_levels=num_levels, scale=scale, unit=True
    )


def of_one_element(likelihood: LikelihoodMaker) -> Any:
    """Of one element, given one number: for what is to be known of it before there are networks. Nothing is drawn."""
    with torch.random.fork_rng(devices=[]):
        return likelihood(MLP(1, ()), 1)


def numbers_per_element(likelihood: LikelihoodMaker) -> int:
    """How many numbers it asks of a network for each element of a datum, which a convolutional one puts out itself."""
    return int(of_one_element(likelihood).head.parameters_per_element)


def reading(trunk: nn.Module, likelihood: LikelihoodMaker) -> nn.Module:
    """The trunk of an encoder of such data: it is given log(1 + x) of counts."""
    return LogCounts(trunk) if range_of(of_one_element(likelihood)) == (0.0, math.inf) else trunk


def range_of(likelihood: ConditionalDistribution) -> tuple[float, float] | None:
    """The range of the values that it is for, where they are bounded; None for any."""
    if isinstance(likelihood, Bernoulli | ContinuousBernoulli):
        return (0.0, 1.0)
    if isinstance(likelihood, DiscretisedLogistic):
        return (0.0, (likelihood.num_levels - 1) * likelihood.step)
    if isinstance(likelihood, Poisson | NegativeBinomial | ZeroInflatedNegativeBinomial | Multinomial):
        return (0.0, math.inf)
    found: tuple[float, float] | None = getattr(likelihood, "mean_range", None)
    return found
