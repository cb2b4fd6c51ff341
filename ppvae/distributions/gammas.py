"""The gamma distribution of a given mean, of latents that are positive."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from .conditional import ConditionalDistribution, declare_positive, head_of, independent, require_context


class Gamma(ConditionalDistribution):
    r"""$z_i \mid c \sim \mathrm{Gamma}(\alpha, \alpha / \mu_i)$ of mean $\mu_i = e^{h_i(c)}$ with the head's output h.

    Its standard deviation is $\mu_i / \sqrt{\alpha}$. A concentration below 1 is sparse: most of the mass is near zero.

    Args:
        trunk: a network from the context to features, with ``out_features``, or
            :class:`ppvae.networks.LogPositiveLinear`; None for a free mean, as a prior has.
        event_shape: the number of dimensions, or a shape.
        concentration: $\alpha$: a number (fixed), "per-dimension" (free, one an element), "shared" (free, one for all)
            or "conditional" (the head gives it too).

    Raises:
        PpvaeError: an unknown concentration, or one that is not positive.

    >>> Gamma(None, 2, concentration=0.1)().variance
    tensor([10.0000, 10.0000], grad_fn=<DivBackward0>)
    """

    log_concentration: Tensor

    def __init__(
        self, trunk: nn.Module | None, event_shape: int | Sequence[int], *, concentration: str | float = 1.0
    ) -> None:
        super().__init__(event_shape)
        self.head = head_of(trunk, self.event_shape, 1 + (concentration == "conditional"))
        declare_positive(self, "concentration", concentration, self.event_shape)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given a context [*S, *context event]."""
        log_mean, *conditional = self.head(*require_context(context, self))
        log_concentration = conditional[0] if conditional else self.log_concentration
        rate = (log_concentration - log_mean).exp()
        return independent(dist.Gamma(log_concentration.exp().expand_as(rate), rate), self.event_shape)
