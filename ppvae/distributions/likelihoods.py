"""Likelihoods p(x | z): Bernoulli, continuous Bernoulli, Normal, categorical (AEVB appendix C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .conditional import ConditionalDistribution, Head, declare_positive, head_of, independent, require_context
from ..core.errors import PpvaeError


class Bernoulli(ConditionalDistribution):
    r"""$\log p(x \mid z) = \sum_i x_i \log y_i + (1 - x_i) \log(1 - y_i)$ (AEVB appendix C.1).

    Args:
        trunk: a network from the latent to features, with ``out_features``; None for free logits, as a prior has.
        event_shape: the number of pixels, or a shape.
        allow_grey: accept grey values in [0, 1], as the paper's experiments do. The result is then a cross-entropy
            and no normalised density of x; :class:`ContinuousBernoulli` is the density.
    """

    def __init__(self, trunk: nn.Module | None, event_shape: int | Sequence[int], *, allow_grey: bool = False) -> None:
        super().__init__(event_shape)
        self.head = head_of(trunk, self.event_shape, 1)
        self.allow_grey = allow_grey

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        (logits,) = self.head(*require_context(context, self))
        validate = False if self.allow_grey else None
        return independent(dist.Bernoulli(logits=logits, validate_args=validate), self.event_shape)


class ContinuousBernoulli(ConditionalDistribution):
    r"""The normalised density on [0, 1] whose kernel is the Bernoulli's (Loaiza-Ganem & Cunningham 2019).

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of pixels, or a shape.
    """

    def __init__(self, trunk: nn.Module, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        self.head = Head(trunk, self.event_shape, 1)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        (logits,) = self.head(*require_context(context, self))
        return independent(dist.ContinuousBernoulli(logits=logits), self.event_shape)


class Normal(ConditionalDistribution):
    r"""$\log p(x \mid z) = \log \mathcal{N}(x; \mu(z), \mathrm{diag}\,\sigma^2)$ (AEVB appendix C.2).

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape.
        scale: the standard deviation: "conditional" (a function of z, for every element, as in the paper),
            "per-dimension" (free, one an element), "shared" (free, one for all), or a number (fixed).
        mean: "identity", or "sigmoid" to keep the mean in (0, 1), as the paper does for Frey faces.

    Raises:
        PpvaeError: an unknown scale or mean, or a scale that is not positive.
    """

    log_scale: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        event_shape: int | Sequence[int],
        *,
        scale: Literal["conditional", "per-dimension", "shared"] | float = "conditional",
        mean: Literal["identity", "sigmoid"] = "identity",
    ) -> None:
        super().__init__(event_shape)
        if mean not in ("identity", "sigmoid"):
            raise PpvaeError(f"Normal: expected mean 'identity' or 'sigmoid', found {mean!r}")
        self.mean = mean
        self.mean_range = (0.0, 1.0) if mean == "sigmoid" else None
        self.conditional = scale == "conditional"
        self.head = Head(trunk, self.event_shape, 2 if self.conditional else 1)
        declare_positive(self, "scale", scale, self.event_shape)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        parameters = self.head(*require_context(context, self))
        loc = parameters[0].sigmoid() if self.mean == "sigmoid" else parameters[0]
        log_scale = parameters[1] if self.conditional else self.log_scale
        return independent(dist.Normal(loc, log_scale.exp().expand_as(loc)), self.event_shape)


class _Indicators(dist.OneHotCategorical):
    """Pyro's, with draws that a graph can hold: PyTorch's one_hot looks at values."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws [*sample_shape, *batch_shape, C]."""
        indicators = torch.eye(self.event_shape[-1], dtype=self.logits.dtype, device=self.logits.device)
        return indicators[self._categorical.sample(torch.Size(sample_shape))]


_Indicators.__name__ = "OneHotCategorical"  # as messages call it


class OneHotCategorical(ConditionalDistribution):
    r"""$p(y = k \mid x) = \pi_k(x)$, where y is a row of 0 with one 1: a class, as networks take it.

    Args:
        trunk: a network from the context to features, with ``out_features``; None for free logits, as a prior has
            (``.requires_grad_(False)`` keeps them uniform).
        num_categories: K.
    """

    def __init__(self, trunk: nn.Module | None, num_categories: int) -> None:
        super().__init__(num_categories)
        if num_categories < 2:
            raise PpvaeError(f"OneHotCategorical: expected num_categories of at least 2, found {num_categories}")
        self.head = head_of(trunk, self.event_shape, 1)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        (logits,) = self.head(*require_context(context, self))
        return _Indicators(logits=logits)


class Categorical(ConditionalDistribution):
    r"""$\log p(x \mid z) = \sum_i \log \pi_{i, x_i}(z)$: every element one of ``num_categories`` classes 0, 1, ...

    Classes are names and have no mean. As indicators they have: it is their probability, which is then what
    ``reconstruct``, ``decode`` and the report show.

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of elements, or a shape.
        num_categories: C.
        one_hot: the data are indicators of the classes, [*event_shape, C], instead of their numbers.
    """

    def __init__(
        self, trunk: nn.Module, event_shape: int | Sequence[int], num_categories: int, *, one_hot: bool = False
    ) -> None:
        super().__init__(event_shape)
        if num_categories < 2:
            raise PpvaeError(f"Categorical: expected num_categories of at least 2, found {num_categories}")
        self.head = Head(trunk, (*self.event_shape, num_categories), 1)
        self.one_hot, self.elements = one_hot, self.event_shape
        if one_hot:
            self.event_shape = (*self.event_shape, num_categories)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        (logits,) = self.head(*require_context(context, self))
        family = _Indicators if self.one_hot else dist.Categorical
        return independent(family(logits=logits), self.elements)
