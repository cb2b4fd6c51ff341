"""Densities of real and of discretised values whose log probability keeps its digits in the tails."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from .count_densities import stirling_remainder
from .inverse_cdf import open_uniform


class StudentT(dist.StudentT):
    r"""Pyro's Student t with a log density that goes to the normal's as the degrees of freedom go to infinity.

    With $a = \nu / 2$ and $y = (x - \mu) / \sigma$,

    $$\log p(x) = a \log(1 + \tfrac{1}{2a}) - \tfrac12 + s(a + \tfrac12) - s(a) - \log \sigma \sqrt{2\pi}
      - (a + \tfrac12) \log(1 + \tfrac{y^2}{2a})$$
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 * self.df
        kernel = (half + 0.5) * torch.log1p(((value - self.loc) / self.scale).square() / self.df)
        norm = half * torch.log1p(0.5 / half) + stirling_remainder(half + 0.5) - stirling_remainder(half)
        log_prob: Tensor = norm - 0.5 - self.scale.log() - 0.5 * math.log(2 * math.pi) - kernel
        return log_prob

    @property
    def mean(self) -> Tensor:
        """The location; NaN where there is no mean, for one degree of freedom or fewer."""
        return torch.where(self.df > 1, self.loc, math.nan)  # PyTorch writes in place by value: no graph can hold that

    @property
    def variance(self) -> Tensor:
        """The variance; infinite for two degrees of freedom or fewer, NaN for one or fewer."""
        finite = self.scale.square() * self.df / (self.df - 2).clamp_min(torch.finfo(self.df.dtype).tiny)
        return torch.where(self.df > 2, finite, torch.where(self.df > 1, math.inf, math.nan))


class _Levels(constraints.Constraint):
    """The values 0, step, ..., (num_levels - 1) step, up to rounding."""

    is_discrete = True
    event_dim = 0

    def __init__(self, num_levels: int, step: float) -> None:
        self.num_levels, self.step = num_levels, step

    def __repr__(self) -> str:
        last = self.num_levels - 1
        return f"levels 0, 1, ..., {last}" if self.step == 1 else f"levels 0, 1/{last}, ..., 1"

    def check(self, value: Tensor) -> Tensor:
        place = value / self.step
        level = place.round()
        return ((place - level).abs() < 1e-2) & (level >= 0) & (level < self.num_levels)


class DiscretisedLogistic(dist.TorchDistribution):
    r"""A logistic in boxes of width one about whole numbers; the first and the last take the tails.

    $$P(x) = \sigma(b_x) - \sigma(a_x) = \sigma(b_x)\,\sigma(-a_x)\,(1 - e^{-1/s}),\qquad
      a_x = \frac{x - \tfrac12 - \mu}{s},\quad b_x = \frac{x + \tfrac12 - \mu}{s}$$

    for $0 < x < L - 1$; $P(0) = \sigma(b_0)$ and $P(L - 1) = \sigma(-a_{L - 1})$. The product has no difference in
    which digits are lost, however far x is in a tail.

    Args:
        loc: $\mu$, in levels.
        scale: s, in levels; the standard deviation of the logistic is $\pi s / \sqrt 3$.
        num_levels: L.
        step: the values are 0, step, ..., (L - 1) step; the density is that of levels, whatever the step.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    loc: Tensor
    scale: Tensor

    def __init__(
        self, loc: Tensor, scale: Tensor, num_levels: int, step: float = 1.0, *, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.num_levels, self.step = num_levels, step
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """The levels."""
        return _Levels(self.num_levels, self.step)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        new = DiscretisedLogistic(loc, scale, self.num_levels, self.step, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws [*sample_shape, *batch_shape]: those of the logistic, by its inverse CDF, in their boxes."""
        with torch.no_grad():
            noise = open_uniform(self.loc, self._extended_shape(torch.Size(sample_shape)))
            levels = (self.loc + self.scale * noise.logit()).round()
            return self.step * levels.clamp(0, self.num_levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        level = (value / self.step).round()
        first, last = level <= 0, level >= self.num_levels - 1
        below = torch.where(last, 0.0, logsigmoid((level + 0.5 - self.loc) / self.scale))
        above = torch.where(first, 0.0, logsigmoid((self.loc - level + 0.5) / self.scale))
        box = (-torch.expm1(-self.scale.reciprocal())).log()
        return below + above + torch.where(first | last, 0.0, box)

    @property
    def mean(self) -> Tensor:
        r"""$\sum_{k=1}^{L-1} P(x \ge k)$, in steps."""
        return self.step * self._moments()[0]

    @property
    def variance(self) -> Tensor:
        r"""From $\mathrm{E}\,x^2 = \sum_{k=1}^{L-1} (2k - 1) P(x \ge k)$."""
        mean, square = self._moments()
        return self.step**2 * (square - mean.square()).clamp_min(0.0)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square in levels, by blocks of levels: all of them at once would take L times the memory."""
        size = math.isqrt(self.num_levels) + 1
        mean = square = torch.zeros_like(self.loc)
        for start in range(1, self.num_levels, size):
            k = torch.arange(start, min(start + size, self.num_levels), dtype=self.loc.dtype, device=self.loc.device)
            reaches = ((self.loc[..., None] - k + 0.5) / self.scale[..., None]).sigmoid()
            mean, square = mean + reaches.sum(-1), square + reaches @ (2 * k - 1)
        return mean, square
