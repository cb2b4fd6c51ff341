"""Likelihoods of real values with heavy tails and of values in levels p(x | z): Student t, discretised logistic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor, nn

from . import value_densities as densities
from .conditional import ConditionalDistribution, Head, declare_positive, independent, require_context
from ..core.errors import PpvaeError


class StudentT(ConditionalDistribution):
    r"""$x_i \mid z \sim \mathrm{Student}_\nu(\mu_i(z), \sigma_i)$: real values, some of them far out.

    $$p(x_i \mid z) = \frac{\Gamma(\frac{\nu + 1}{2})}{\Gamma(\frac{\nu}{2})\,\sqrt{\pi\nu}\,\sigma_i}
      \left(1 + \frac{(x_i - \mu_i)^2}{\nu\,\sigma_i^2}\right)^{-(\nu + 1) / 2}$$

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape.
        df: nu, the degrees of freedom: a number (fixed; the mean is finite above 1, the variance above 2), or "shared"
            (free, one for all elements, above 2: $\nu = 2 + e^\eta$, from 5).
        scale: sigma, as that of :class:`Normal`; the standard deviation is $\sigma \sqrt{\nu / (\nu - 2)}$.

    Raises:
        PpvaeError: an unknown df or scale, or one that is not positive.
    """

    log_scale: Tensor
    log_df: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        event_shape: int | Sequence[int],
        *,
        df: Literal["shared"] | float = 5.0,
        scale: Literal["conditional", "per-dimension", "shared"] | float = "conditional",
    ) -> None:
        super().__init__(event_shape)
        self.conditional = scale == "conditional"
        self.head = Head(trunk, self.event_shape, 2 if self.conditional else 1)
        declare_positive(self, "scale", scale, self.event_shape)
        declare_positive(self, "df", df, self.event_shape, words=("shared",))
        self.least_df = 0.0
        if df == "shared":
            self.least_df = 2.0
            nn.init.constant_(self.log_df, math.log(3.0))

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, a scalar."""
        return self.least_df + self.log_df.exp()

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        loc, *others = self.head(*require_context(context, self))
        (log_scale,) = others or (self.log_scale,)
        return independent(densities.StudentT(self.df, loc, log_scale.exp()), self.event_shape)


class DiscretisedLogistic(ConditionalDistribution):
    r"""Values in levels, such as bytes: $P(x_i \mid z) = F(x_i + \tfrac12) - F(x_i - \tfrac12)$, F a logistic.

    $$F(t) = \sigma\left(\frac{t - \mu_i(z)}{s_i}\right),\qquad \mu_i(z) = \tfrac{L - 1}{2} (1 + h_i(z)),\qquad
      s_i = \tfrac{L - 1}{2}\,e^{\eta_i}$$

    with the head's output h; the first and the last level have the tails. The log probability is that of the
    levels, in nats for each element, whatever they are called. (Kingma et al. 2016, arXiv 1606.04934; Salimans et al.
    2017, arXiv 1701.05517.)

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of elements, or a shape.
        num_levels: L.
        scale: $s / \tfrac{L - 1}{2}$, in halves of the range: "conditional" (a function of z, for every element),
            "per-dimension" (free, one an element), "shared" (free, one for all), or a number (fixed). The standard
            deviation of a logistic is $\pi s / \sqrt 3$.
        unit: the data are 0, 1 / (L - 1), ..., 1, as bytes are when :mod:`ppvae.data` has read them, instead of whole
            numbers 0, ..., L - 1.

    Raises:
        PpvaeError: fewer than two levels, an unknown scale, or one that is not positive.
    """

    log_scale: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        event_shape: int | Sequence[int],
        *,
        num_levels: int = 256,
        scale: Literal["conditional", "per-dimension", "shared"] | float = "conditional",
        unit: bool = False,
    ) -> None:
        super().__init__(event_shape)
        if num_levels < 2:
            raise PpvaeError(f"DiscretisedLogistic: expected num_levels of at least 2, found {num_levels}")
        self.num_levels = num_levels
        self.step = 1 / (num_levels - 1) if unit else 1.0
        self.head = Head(trunk, self.event_shape, 2 if scale == "conditional" else 1)
        declare_positive(self, "scale", scale, self.event_shape)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event]."""
        position, *others = self.head(*require_context(context, self))
        (log_scale,) = others or (self.log_scale,)
        half = 0.5 * (self.num_levels - 1)
        found = densities.DiscretisedLogistic(half * (1 + position), half * log_scale.exp(), self.num_levels, self.step)
        return independent(found, self.event_shape)
