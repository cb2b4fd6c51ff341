"""Relaxed discrete distributions: continuous, reparameterised, and as discrete as the temperature is low."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .conditional import ConditionalDistribution, head_of, independent, require_context
from ..core.errors import PpvaeError


class _Relaxed(ConditionalDistribution):
    """A relaxed distribution given logits, of a network or, for a prior, free."""

    temperature: Tensor

    def __init__(
        self, trunk: nn.Module | None, event_shape: int | Sequence[int], *, temperature: float = 2 / 3
    ) -> None:
        super().__init__(event_shape)
        if not temperature > 0:
            raise PpvaeError(f"{type(self).__name__}: expected a positive temperature, found {temperature}")
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.head = head_of(trunk, self.event_shape, 1)

    def logits(self, context: tuple[Tensor, ...]) -> Tensor:
        """The logits, [*S, *event_shape], at a context [*S, *context event]."""
        logits: Tensor = self.head(*require_context(context, self))[0]
        return logits


class RelaxedBernoulli(_Relaxed):
    r"""$z_i = \mathrm{sigmoid}((\mathrm{logit}\,y_i(x) + l_i) / \tau)$ with $l_i$ logistic: $z_i \in (0, 1)$.

    The binary Concrete of Maddison, Mnih & Teh 2016 (arXiv 1611.00712). Model and guide must both be relaxed for the
    bound to be one, of the relaxed model; that of the discrete model is another number. In float32 a draw nearer than
    1e-7 to 0 or 1 is moved there, where its density is not that of the draw: at even logits one in 20 000 for
    $\tau = 2/3$, one in 60 for 0.3; lower temperatures are for float64.

    Args:
        trunk: a network from the context to features; None for free logits, as a prior has.
        event_shape: the number of elements, or a shape.
        temperature: $\tau$. The buffer ``temperature`` may be changed during training: a captured step reads it.

    Raises:
        PpvaeError: a temperature that is not positive.
    """

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        return independent(dist.RelaxedBernoulli(self.temperature, logits=self.logits(context)), self.event_shape)


class RelaxedOneHotCategorical(_Relaxed):
    r"""$z = \mathrm{softmax}((\log \pi(x) + g) / \tau)$ with Gumbel $g$: a point of the simplex of C corners.

    The Concrete or Gumbel-softmax distribution (Maddison, Mnih & Teh 2016, arXiv 1611.00712; Jang, Gu & Poole 2016,
    arXiv 1611.01144). What holds of the bound is said at :class:`RelaxedBernoulli`.

    Args:
        trunk: a network from the context to features; None for free logits, as a prior has.
        event_shape: C, or the elements and C, (\*elements, C).
        temperature: $\tau$, a buffer, see :class:`RelaxedBernoulli`.

    Raises:
        PpvaeError: a temperature that is not positive, or fewer than two categories.
    """

    def __init__(
        self, trunk: nn.Module | None, event_shape: int | Sequence[int], *, temperature: float = 2 / 3
    ) -> None:
        super().__init__(trunk, event_shape, temperature=temperature)
        if self.event_shape[-1] < 2:
            raise PpvaeError(
                f"RelaxedOneHotCategorical: expected at least two categories, found {self.event_shape[-1]}"
            )

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        relaxed = dist.RelaxedOneHotCategorical(self.temperature, logits=self.logits(context))
        return independent(relaxed, self.event_shape[:-1])
