"""Normal priors and posteriors: standard, diagonal, low rank plus diagonal, full covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent

from .conditional import ConditionalDistribution, Head, head_of, independent, require_context
from ..core.errors import PpvaeError, try_one_of


class StandardNormal(ConditionalDistribution):
    r"""$p(z) = \mathcal{N}(z; 0, I)$, the prior of AEVB (section 3). It has no context and no parameters.

    Args:
        event_shape: the number of latent dimensions, or a shape.

    >>> StandardNormal(2)().log_prob(torch.zeros(2))
    tensor(-1.8379)
    """

    zero: Tensor

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The standard normal, whatever the context."""
        return independent(dist.Normal(self.zero, torch.ones_like(self.zero)), self.event_shape)


class DiagonalNormal(ConditionalDistribution):
    r"""$q(z \mid x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\,\sigma^2(x))$ (AEVB eq. 9).

    Args:
        trunk: a network from the context to features, with ``out_features``; None for a free mean and scale, as a
            prior has.
        event_shape: the number of dimensions, or a shape.
        log_scale_range: where log sigma is cut off below and above, which keeps a stack of layers from running away at
            the start; (-3, 1) is Tomczak & Welling's (2018), whose log-variances end at -6 and 2. None for no end.
        log_variance: the network puts out log sigma^2, as AEVB's appendix C writes it, in place of log sigma. The
            family is the same; weights of the same size start with half the spread of log sigma, and steps of the same
            size move it half as far.
        init_scale: sigma at the start, whatever the context: the weights of its layer start at zero. None for weights
            that start as those of the other layers.

    Raises:
        PpvaeError: a range that is no range, an initial scale that is not positive, or that the trunk's own layers set.
    """

    def __init__(
        self,
        trunk: nn.Module | None,
        event_shape: int | Sequence[int],
        *,
        log_scale_range: Sequence[float] | None = None,
        log_variance: bool = False,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(event_shape)
        if log_scale_range is not None and not (len(log_scale_range) == 2 and log_scale_range[0] < log_scale_range[1]):
            raise PpvaeError(f"log_scale_range: expected (low, high) with low < high, found {log_scale_range}")
        self.log_scale_range, self.log_variance = log_scale_range, log_variance
        self.head = head_of(trunk, self.event_shape, 2)
        if init_scale is not None:
            if not 0 < init_scale < math.inf:
                raise PpvaeError(f"init_scale: expected a positive, finite number, found {init_scale}")
            self.head.start_at(1, math.log(init_scale) * (2 if log_variance else 1))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        loc, log_scale = self.head(*require_context(context, self))
        if self.log_variance:
            log_scale = 0.5 * log_scale
        if self.log_scale_range is not None:
            log_scale = log_scale.clamp(*self.log_scale_range)
        return independent(dist.Normal(loc, log_scale.exp()), self.event_shape)


class LinearNormal(ConditionalDistribution):
    r"""$p(v \mid c_1, c_2, \ldots) = \mathcal{N}(v; b + \sum_i W_i c_i, \mathrm{diag}\,\sigma^2)$, all of it free.

    Args:
        in_features: dimensions of each context, in their order.
        event_shape: D, the number of dimensions.

    Raises:
        PpvaeError: no context, or one without dimensions.
    """

    def __init__(self, in_features: Sequence[int], event_shape: int) -> None:
        super().__init__(event_shape)
        if not in_features or min(in_features) < 1:
            raise PpvaeError(f"LinearNormal: expected dimensions of each context, found {list(in_features)}")
        total = sum(in_features)
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(event_shape, n) / total**0.5) for n in in_features)
        self.bias = nn.Parameter(torch.zeros(event_shape))
        self.log_scale = nn.Parameter(torch.zeros(event_shape))

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given contexts [*S, in_features_i].

        Raises:
            PpvaeError: another number of contexts.
        """
        values = require_context(context, self)
        if len(values) != len(self.weights):
            raise PpvaeError(f"LinearNormal: expected {len(self.weights)} contexts, found {len(values)}")
        terms = [value @ weight.mT for value, weight in zip(values, self.weights, strict=True)]
        loc = sum(terms[1:], terms[0] + self.bias)
        return independent(dist.Normal(loc, self.log_scale.exp().expand_as(loc)), self.event_shape)


class LowRankNormal(ConditionalDistribution):
    r"""$q(z \mid x) = \mathcal{N}(z; \mu(x), U(x) U(x)^\top + \mathrm{diag}\,\sigma^2(x))$.

    Args:
        trunk: a network from the context to features, with ``out_features``.
        event_shape: d, the number of dimensions.
        rank: R, the number of columns of U; correlations beyond the diagonal cost d R numbers a datum, not d^2 / 2.

    Raises:
        PpvaeError: a rank below 1.
    """

    def __init__(self, trunk: nn.Module, event_shape: int, *, rank: int = 2) -> None:
        super().__init__(event_shape)
        if rank < 1:
            raise PpvaeError(f"LowRankNormal: expected a rank of at least 1, found {rank}")
        self.head = Head(trunk, self.event_shape, 2)
        self.factor = nn.Linear(int(getattr(trunk, "out_features", 0)), math.prod(self.event_shape) * rank)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        features: Tensor = self.head.trunk(*require_context(context, self))
        loc, log_scale = self.head.read(features)
        factor = self.factor(features).unflatten(-1, (*self.event_shape, -1))
        return dist.LowRankMultivariateNormal(loc, factor, (2 * log_scale).exp())


class FullCovarianceNormal(ConditionalDistribution):
    r"""$q(z \mid x) = \mathcal{N}(z; \mu(x), L(x) L(x)^\top)$ with $L$ lower triangular, $\log \mathrm{diag}\,L$ free.

    Args:
        trunk: a network from the context to features, with ``out_features``.
        event_shape: d, the number of dimensions.
    """

    flat_index: Tensor

    def __init__(self, trunk: nn.Module, event_shape: int) -> None:
        super().__init__(event_shape)
        below = torch.tril_indices(event_shape, event_shape, offset=-1)
        self.register_buffer("flat_index", below[0] * event_shape + below[1], persistent=False)
        self.head = Head(trunk, self.event_shape, 2)
        self.below = nn.Linear(int(getattr(trunk, "out_features", 0)), below.shape[1]) if event_shape > 1 else None

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        features: Tensor = self.head.trunk(*require_context(context, self))
        loc, log_diagonal = self.head.read(features)
        scale_tril = torch.diag_embed(log_diagonal.exp())
        if self.below is not None:
            dim = self.event_shape[0]
            below: Tensor = self.below(features)
            scale_tril = scale_tril.flatten(-2).index_add(-1, self.flat_index, below).unflatten(-1, (dim, dim))
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


def mean_and_scale(owner: nn.Module, posterior: nn.Module, *context: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, [*S, *event], of a posterior at its context, where it is a diagonal normal.

    Raises:
        PpvaeError: it is another distribution; the message is the owner's.
    """
    found = posterior(*context)
    base = found.base_dist if isinstance(found, Independent) else found
    if not isinstance(base, dist.Normal):
        raise PpvaeError(
            f"{type(owner).__name__}: expected a diagonal normal, found {type(posterior).__name__}, whose distribution "
            f"is a {type(base).__name__}" + try_one_of("DiagonalNormal")
        )
    return base.loc, base.scale
