"""Priors over weights: any univariate distribution, a learned scale, Blundell's scale mixture, the horseshoe."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..core.errors import PpvaeError, try_one_of


class TensorPrior(nn.Module):
    """The prior of one tensor of weights.

    Args:
        shape: of the tensor.
        constants: numbers or tensors of the prior; buffers here, so that they follow the pair's dtype and device.
        make: from the constants and the hierarchy's scales, by name, to the distribution.
        scales: names of positive scales above the weights, and how each is distributed given the constants.
        log_scale: start of the log of a scale that is trained; None for a prior without one.
    """

    def __init__(
        self,
        shape: torch.Size,
        like: Tensor,
        constants: Mapping[str, Any],
        make: Callable[[Mapping[str, Tensor]], Any],
        *,
        scales: Mapping[str, Callable[[Mapping[str, Tensor]], Any]] | None = None,
        scale_shapes: Mapping[str, torch.Size] | None = None,
        log_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.names = tuple(constants)
        for name, value in constants.items():
            self.register_buffer(name, torch.as_tensor(value).detach().to(like), persistent=False)
        if log_scale is not None:
            self.log_scale = nn.Parameter(like.new_tensor(log_scale))
        self.learns = log_scale is not None
        self._make = make
        self._scales = dict(scales or {})
        self.scale_shapes = dict(scale_shapes or {})

    def constants(self) -> dict[str, Tensor]:
        """The prior's numbers, and its learned log scale."""
        numbers = {name: getattr(self, name) for name in self.names}
        return {**numbers, "log_scale": self.log_scale} if self.learns else numbers

    def scale_distribution(self, name: str) -> Any:
        """The distribution of a scale above the weights."""
        shape = self.scale_shapes[name]
        return self._scales[name](self.constants()).expand(shape).to_event(len(shape))

    def forward(self, scales: Mapping[str, Tensor] | None = None) -> Any:
        """The distribution of the weights, given the scales above them; its event is the tensor."""
        values = {**self.constants(), **(scales or {})}
        distribution = self._make(values)
        lead = distribution.batch_shape[: max(0, len(distribution.batch_shape) - len(self.shape))]
        return distribution.expand((*lead, *self.shape)).to_event(len(self.shape))


class WeightPrior(ABC):
    """A prior over weights that knows how to be built for a tensor of any shape; subclasses are frozen dataclasses."""

    @abstractmethod
    def build(self, value: Tensor) -> TensorPrior:
        """The prior for weights of the shape, dtype and device of ``value``."""


@dataclass(frozen=True)
class NormalPrior(WeightPrior):
    r"""$w \sim \mathcal{N}(0, \sigma^2)$.

    Attributes:
        scale: $\sigma$, a standard deviation.
        learn: whether the scale of every tensor is trained, by the bound (type-II maximum likelihood).
    """

    scale: float = 1.0
    learn: bool = False

    def __post_init__(self) -> None:
        _positive("NormalPrior", scale=self.scale)

    def build(self, value: Tensor) -> TensorPrior:
        """See :class:`WeightPrior`."""
        if self.learn:
            return TensorPrior(value.shape, value, {"loc": 0.0}, _normal_with_log_scale, log_scale=math.log(self.scale))
        return TensorPrior(value.shape, value, {"loc": 0.0, "sd": self.scale}, _normal)


@dataclass(frozen=True)
class ScaleMixturePrior(WeightPrior):
    r"""$w \sim \pi \mathcal{N}(0, \sigma_1^2) + (1 - \pi) \mathcal{N}(0, \sigma_2^2)$.

    Blundell et al. 2015 (arXiv 1505.05424, eq. 7). No closed-form KL is known: use
    ``TraceMeanFieldELBO(on_missing_kl="sample")`` or ``TraceELBO``.

    Attributes:
        weight: $\pi$.
        scale: $\sigma_1$, the wider.
        narrow_scale: $\sigma_2$.
    """

    weight: float = 0.5
    scale: float = 1.0
    narrow_scale: float = 0.0025

    def __post_init__(self) -> None:
        _positive("ScaleMixturePrior", scale=self.scale, narrow_scale=self.narrow_scale)
        if not 0 < self.weight < 1:
            raise PpvaeError(f"ScaleMixturePrior: expected a weight in (0, 1), found {self.weight}")

    def build(self, value: Tensor) -> TensorPrior:
        """See :class:`WeightPrior`."""
        constants = {"mixture": [self.weight, 1 - self.weight], "sd": [self.scale, self.narrow_scale]}
        return TensorPrior(value.shape, value, constants, _mixture)


@dataclass(frozen=True)
class HorseshoePrior(WeightPrior):
    r"""The horseshoe.

    $$w_i \sim \mathcal{N}(0, \lambda_i^2 \tau^2),\quad \lambda_i \sim \mathrm{C}^+(0, 1),\quad
      \tau \sim \mathrm{C}^+(0, \sigma)$$

    Carvalho, Polson & Scott 2010. The scales become global sites of their own, ``<weight>.global_scale`` (one for a
    tensor) and ``<weight>.local_scale`` (one for a weight), with log-normal posteriors; the KL of the weights given
    the scales has a closed form, that of the scales is sampled (``on_missing_kl="sample"``).

    Attributes:
        scale: $\sigma$ of the global scale's half-Cauchy.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        _positive("HorseshoePrior", scale=self.scale)

    def build(self, value: Tensor) -> TensorPrior:
        """See :class:`WeightPrior`."""
        return TensorPrior(
            value.shape,
            value,
            {"loc": 0.0, "one": 1.0, "sd": self.scale},
            _HorseshoeWeights(value.dim()),
            scales={"global_scale": _half_cauchy_global, "local_scale": _half_cauchy_local},
            scale_shapes={"global_scale": torch.Size(), "local_scale": value.shape},
        )


@dataclass(frozen=True)
class DistributionPrior(WeightPrior):
    """Any univariate distribution over the real line, the same for every weight.

    Attributes:
        distribution: for instance ``torch.distributions.Normal(0.0, 1.0)`` or a Laplace.
    """

    distribution: Distribution

    def __post_init__(self) -> None:
        law = self.distribution
        if law.batch_shape or law.event_shape:
            raise PpvaeError(
                f"prior: expected a distribution of single weights, found one of batch shape {list(law.batch_shape)} "
                f"and event shape {list(law.event_shape)}" + try_one_of("Normal(0.0, 1.0)")
            )
        if law.support is not torch.distributions.constraints.real:
            raise PpvaeError(
                f"prior: expected a distribution over the real line, found {type(law).__name__} over {law.support}"
                + try_one_of("Normal(0.0, 1.0)", "NormalPrior, ScaleMixturePrior or HorseshoePrior")
            )

    def build(self, value: Tensor) -> TensorPrior:
        """See :class:`WeightPrior`."""
        family: Any = type(self.distribution)
        constants = {name: getattr(self.distribution, name) for name in self.distribution.arg_constraints}
        family = getattr(dist, family.__name__, family)  # Pyro's class of this name has Pyro's methods
        return TensorPrior(value.shape, value, constants, _Family(family))


def as_weight_prior(prior: Any) -> WeightPrior:
    """A prior over weights from a prior or a distribution.

    Raises:
        PpvaeError: something else.
    """
    if isinstance(prior, WeightPrior):
        return prior
    if isinstance(prior, Distribution):
        return DistributionPrior(prior)
    raise PpvaeError(
        f"prior: expected a distribution or a weight prior, found {type(prior).__name__}"
        + try_one_of("Normal(0.0, 1.0)", "ScaleMixturePrior()", '{"likelihood.head.trunk": Normal(0.0, 0.5), ...}')
    )


# --- the densities; classes and functions of modules, so that a pair can be copied -------------------------------


class _Family:
    def __init__(self, family: Any) -> None:
        self.family = family

    def __call__(self, values: Mapping[str, Tensor]) -> Any:
        return self.family(**values)


class _HorseshoeWeights:
    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __call__(self, values: Mapping[str, Tensor]) -> Any:
        above = values["global_scale"]
        return dist.Normal(values["loc"], values["local_scale"] * above.reshape(*above.shape, *(1,) * self.rank))


def _normal(values: Mapping[str, Tensor]) -> Any:
    return dist.Normal(values["loc"], values["sd"])


def _normal_with_log_scale(values: Mapping[str, Tensor]) -> Any:
    return dist.Normal(values["loc"], values["log_scale"].exp())


def _mixture(values: Mapping[str, Tensor]) -> Any:
    components = dist.Normal(torch.zeros_like(values["sd"]), values["sd"])
    return dist.MixtureSameFamily(dist.Categorical(values["mixture"]), components)


def _half_cauchy_global(values: Mapping[str, Tensor]) -> Any:
    return dist.HalfCauchy(values["sd"])


def _half_cauchy_local(values: Mapping[str, Tensor]) -> Any:
    return dist.HalfCauchy(values["one"])


def _positive(owner: str, **scales: float) -> None:
    for name, value in scales.items():
        if not value > 0:
            raise PpvaeError(f"{owner}: expected a positive {name} (a standard deviation), found {value}")
