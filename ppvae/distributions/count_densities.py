r"""Distributions of counts whose log probability keeps its digits, as PyTorch's do not in float32.

All rest on one function, the log probability of a Poisson in the form of Loader (2000, Fast and accurate computation of
binomial probabilities), where nothing large cancels: :func:`poisson_log_prob`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

_HALF_LOG = 0.5 * math.log(2 * math.pi)


def stirling_remainder(x: Tensor) -> Tensor:
    r"""$s(x) = \log\Gamma(x) - (x - \tfrac12) \log x + x - \tfrac12 \log 2\pi$ for x > 0, about 1 / (12 x)."""
    exact = torch.lgamma(x) - (x - 0.5) * x.log() + x - _HALF_LOG
    inverse = x.clamp_min(8.0).reciprocal()
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    return torch.where(x < 8, exact, series)


def poisson_log_prob(x: Tensor, log_rate: Tensor) -> Tensor:
    r"""$x \log\lambda - \lambda - \log x!$, in nats.

    Computed as $x\,(u - (e^u - 1)) - \tfrac12 \log 2\pi x - s(x)$ with $u = \log(\lambda / x)$, and as $-\lambda$ at 0.

    Args:
        x: counts, [*S].
        log_rate: $\log\lambda$, [*S]; minus infinity for a rate of zero.
    """
    positive = x.clamp_min(1.0)
    log_x = positive.log()
    u = log_rate - log_x
    log_prob = positive * (u - torch.expm1(u)) - (0.5 * log_x + _HALF_LOG + stirling_remainder(positive))
    return torch.where(x == 0, -log_rate.exp(), log_prob)


class Poisson(dist.Poisson):
    r"""Pyro's Poisson by the logarithm of its rate, which may be as small or as large as it likes.

    Args:
        log_rate: $\log\lambda$.
    """

    def __init__(self, log_rate: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.exp(), validate_args=validate_args)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Poisson, _instance)  # type: ignore[no-untyped-call]
        new.log_rate = self.log_rate.expand(torch.Size(batch_shape))
        return super().expand(batch_shape, _instance=new)  # type: ignore[no-untyped-call]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return poisson_log_prob(value, self.log_rate)


class NegativeBinomial(dist.NegativeBinomial):
    r"""Pyro's negative binomial with a log probability that goes to the Poisson's as r goes to infinity.

    With mean $\mu = r e^{\text{logits}}$, dispersion $\alpha = 1 / r$ and
    $u = \log(1 + \alpha x) - \log(1 + \alpha\mu)$,

    $$\log p(x) = \log \mathrm{Poisson}(x; \mu e^u) + r\,(u - (e^u - 1)) - \tfrac12 \log(1 + \alpha x)
      + s(r + x) - s(r)$$
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        r: Tensor = self.total_count
        logits: Tensor = self.logits
        excess = torch.log1p(value / r)
        u = excess - torch.nn.functional.softplus(logits)
        remainder = stirling_remainder(r + value) - stirling_remainder(r)
        return poisson_log_prob(value, logits + r.log() + u) + r * (u - torch.expm1(u)) - 0.5 * excess + remainder


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Pyro's, whose log probability changes, and which no longer expands, once a mean or a draw was asked for.

    Args:
        base: the distribution of what is not dropped.
        gate_logits: log odds of a zero in its place.
    """

    def __init__(self, base: Any, *, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(base, gate_logits=gate_logits, validate_args=validate_args)  # type: ignore[no-untyped-call]

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        base, gate_logits = self.base_dist.expand(shape), self.gate_logits.expand(shape)
        new = ZeroInflated(base, gate_logits=gate_logits, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        log_gate, log_rest = (torch.nn.functional.logsigmoid(sign * self.gate_logits) for sign in (1, -1))
        log_prob: Tensor = log_rest + self.base_dist.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(log_gate, log_prob), log_prob)


class _Divided(constraints.Constraint):
    """Whole numbers that sum to a total over the last axis."""

    is_discrete = True
    event_dim = 1

    def __init__(self, total: Tensor) -> None:
        self.total = total

    def __repr__(self) -> str:
        return "whole numbers from 0 on that sum to the total of their datum"

    def check(self, value: Tensor) -> Tensor:
        whole = ((value >= 0) & (value == value.floor())).all(-1)
        return whole & (value.sum(-1) == self.total)


class Multinomial(dist.TorchDistribution):
    r"""A multinomial with a total for every datum, $\log p(x) = \log n! - \sum_v \log x_v! + \sum_v x_v \log p_v$.

    Computed as $\sum_v \log \mathrm{Poisson}(x_v; n p_v) - \log \mathrm{Poisson}(n; n)$; a value of another total has
    probability zero. Pyro's has one total for all of a batch.

    Args:
        total: n, [*S].
        logits: $\log p$ up to a constant, [*S, V].
    """

    arg_constraints: ClassVar = {"total": constraints.nonnegative_integer, "logits": constraints.real_vector}
    total: Tensor
    logits: Tensor

    def __init__(self, total: Tensor, logits: Tensor, *, validate_args: bool | None = None) -> None:
        batch_shape = torch.broadcast_shapes(total.shape, logits.shape[:-1])
        self.total = total.to(logits.dtype).expand(batch_shape)
        self.logits = logits.log_softmax(-1).expand(*batch_shape, -1)
        super().__init__(batch_shape, logits.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Counts of this total."""
        return _Divided(self.total)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        new = Multinomial(self.total.expand(shape), self.logits.expand(*shape, -1), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws [*sample_shape, *batch_shape, V]: the total is split in two, each part again, by binomials."""
        words = self.event_shape[0]
        depth = (words - 1).bit_length()
        with torch.no_grad():
            levels = [torch.nn.functional.pad(self.logits.exp(), (0, 2**depth - words))]
            for _ in range(depth):
                levels.append(levels[-1].unflatten(-1, (-1, 2)).sum(-1))
            counts = self.total[..., None].expand((*self._extended_shape(torch.Size(sample_shape))[:-1], 1))
            for parts, whole in zip(levels[-2::-1], levels[:0:-1], strict=True):
                share = parts[..., ::2] / whole.clamp_min(torch.finfo(whole.dtype).tiny)
                first = torch.binomial(counts, share.clamp_max(1.0).expand_as(counts).contiguous())
                counts = torch.stack([first, counts - first], -1).flatten(-2)
            return counts[..., :words]

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, in nats, with the multinomial coefficient."""
        if self._validate_args:
            self._validate_sample(value)
        log_total = self.total.log()
        words = poisson_log_prob(value, log_total[..., None] + self.logits).sum(-1)
        log_prob = words - poisson_log_prob(self.total, log_total)
        return torch.where(value.sum(-1) == self.total, log_prob, -math.inf)

    @property
    def mean(self) -> Tensor:
        """n p."""
        return self.total[..., None] * self.logits.exp()

    @property
    def variance(self) -> Tensor:
        """n p (1 - p)."""
        return self.mean * -torch.expm1(self.logits)
