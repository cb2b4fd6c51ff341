"""Distributions drawn by their inverse CDF that PyTorch and Pyro lack or do not draw safely."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


def open_uniform(like: Tensor, shape: torch.Size) -> Tensor:
    """Uniform noise strictly inside (0, 1), where an inverse CDF is finite."""
    limits = torch.finfo(like.dtype)
    return torch.rand(shape, dtype=like.dtype, device=like.device).clamp(limits.tiny, 1 - limits.eps / 2)


class InverseCDF(dist.TorchDistribution):
    r"""A univariate distribution drawn as $z = F^{-1}(\epsilon),\ \epsilon \sim U(0, 1)$ (AEVB section 2.4, route 1).

    Subclasses state ``arg_constraints``, ``support``, :meth:`log_prob`, :meth:`cdf` and :meth:`icdf`; their
    parameters are the keys of ``arg_constraints``, in order.
    """

    has_rsample = True

    def __init__(
        self, *parameters: Tensor | float, validate_args: bool | None = None, **others: Tensor | float
    ) -> None:
        names = list(self.arg_constraints)
        arguments = dict(zip(names, parameters, strict=False)) | others
        if len(parameters) + len(others) != len(names) or set(arguments) != set(names):
            raise TypeError(f"{type(self).__name__}: expected the parameters {', '.join(names)}")
        values = broadcast_all(*(arguments[name] for name in names))
        for name, value in zip(names, values, strict=True):
            self.__dict__[name] = value
        super().__init__(values[0].shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = type(self).__new__(type(self))
        for name in self.arg_constraints:
            new.__dict__[name] = getattr(self, name).expand(torch.Size(batch_shape))
        dist.TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape [*sample_shape, *batch_shape]; gradients flow to the parameters."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(open_uniform(getattr(self, next(iter(self.arg_constraints))), shape))

    @abstractmethod
    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function."""


class Rayleigh(InverseCDF):
    r"""$F(x) = 1 - \exp(-x^2 / 2 \sigma^2)$ for x > 0: the length of a two-dimensional normal vector.

    Args:
        scale: $\sigma$, the standard deviation of each component.
    """

    arg_constraints: ClassVar = {"scale": constraints.positive}
    support = constraints.positive
    scale: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        return value.log() - 2 * self.scale.log() - 0.5 * (value / self.scale).square()

    def cdf(self, value: Tensor) -> Tensor:
        """F."""
        return -torch.expm1(-0.5 * (value / self.scale).square())

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function."""
        return self.scale * (-2 * torch.log1p(-value)).sqrt()

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.scale * math.sqrt(math.pi / 2)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return (2 - math.pi / 2) * self.scale.square()


class Reciprocal(InverseCDF):
    r"""$p(x) \propto 1/x$ on [low, high]: uniform in log x.

    $$F(x) = \log(x / \text{low}) / \log(\text{high} / \text{low})$$

    Args:
        low: smallest value, positive.
        high: largest value, above ``low``.
    """

    arg_constraints: ClassVar = {"low": constraints.positive, "high": constraints.positive}
    low: Tensor
    high: Tensor

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval [low, high]."""
        return constraints.interval(self.low, self.high)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        inside = (value >= self.low) & (value <= self.high)
        density = -value.log() - (self.high / self.low).log().log()
        return torch.where(inside, density, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        """F."""
        return ((value / self.low).log() / (self.high / self.low).log()).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function."""
        return self.low * (self.high / self.low).pow(value)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return (self.high - self.low) / (self.high / self.low).log()


class Gompertz(InverseCDF):
    r"""$F(x) = 1 - \exp(-\eta\,(e^{b x} - 1))$ for x > 0: a hazard that grows exponentially.

    Args:
        concentration: $\eta$.
        rate: b.
    """

    arg_constraints: ClassVar = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.positive
    concentration: Tensor
    rate: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        exponent = self.rate * value
        return self.concentration.log() + self.rate.log() + exponent - self.concentration * torch.expm1(exponent)

    def cdf(self, value: Tensor) -> Tensor:
        """F."""
        return -torch.expm1(-self.concentration * torch.expm1(self.rate * value))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function."""
        return torch.log1p(-torch.log1p(-value) / self.concentration) / self.rate


class Logistic(dist.Logistic):
    """Pyro's logistic distribution with noise that is never exactly 0, where its own draw is infinite.

    Float32 noise is 0 once in 16.8 million draws: a few training steps of a wide latent.
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape [*sample_shape, *batch_shape]; gradients flow to loc and scale."""
        draws: Tensor = self.icdf(  # type: ignore[no-untyped-call]
            open_uniform(self.loc, self._extended_shape(torch.Size(sample_shape)))
        )
        return draws


class Triangular(dist.TorchDistribution):
    r"""The symmetric triangular distribution $p(x) = (1 - |x - \mu| / s) / s$ on $[\mu - s, \mu + s]$.

    Drawn by location and scale, $x = \mu + s\,(\epsilon_1 + \epsilon_2 - 1)$ with uniform noise.

    Args:
        loc: $\mu$, the mean.
        scale: s, half of the width; the standard deviation is $s / \sqrt 6$.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    has_rsample = True
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval."""
        return constraints.interval(self.loc - self.scale, self.loc + self.scale)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        new = Triangular(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape [*sample_shape, *batch_shape]; gradients flow to loc and scale."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = open_uniform(self.loc, shape) + open_uniform(self.loc, shape) - 1
        return self.loc + self.scale * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        distance = (value - self.loc).abs() / self.scale
        # Rounding may put a draw on the very edge, where the density is zero.
        density = (1 - distance).clamp_min(torch.finfo(distance.dtype).tiny).log() - self.scale.log()
        return torch.where(distance <= 1, density, -math.inf)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.scale.square() / 6
