"""The product of experts: one posterior from several modalities, of which any may be missing."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .conditional import ConditionalDistribution, independent, require_context
from .normals import mean_and_scale
from ..core.errors import PpvaeError, try_one_of
from ..core.wrappers import with_axes


class ProductOfExperts(ConditionalDistribution):
    r"""A product of normals, $q(z \mid x_1, \ldots, x_M) \propto p(z) \prod_m \mathcal{N}(z; \mu_m, \sigma_m^2)^{r_m}$.

    Wu & Goodman 2018 (arXiv 1802.05335, section 2.2), with $p(z) = \mathcal{N}(0, I)$, and $\mu_m$ and $\sigma_m$ those
    of $x_m$: a normal of precision $1 + \sum_m r_m \sigma_m^{-2}$ whose mean is the precision-weighted one, where $r_m$
    is 0 for a modality that is missing and 1 for one that is there. With nothing there it is the prior.

    The contexts are the modalities in the order of the experts, and after them, if any may be missing, one
    mask [*S] each: ``ProductOfExperts([q1, q2]).given("image", "label", "has_image", "has_label")``. What stands in the
    place of a missing modality, NaN among it, is not read and gets no gradient.

    Args:
        experts: one posterior a modality, whose distributions are diagonal normals of the same event shape.

    Raises:
        PpvaeError: no expert, experts that differ in event shape, an expert that is no diagonal normal, or contexts
            that are neither M nor 2 M.
    """

    zero: Tensor

    def __init__(self, experts: Sequence[ConditionalDistribution]) -> None:
        if not experts:
            raise PpvaeError("ProductOfExperts: expected at least one expert, found none")
        shapes = [expert.event_shape for expert in experts]
        if len(set(shapes)) > 1:
            raise PpvaeError(f"ProductOfExperts: expected experts of one event shape, found {shapes}")
        super().__init__(shapes[0])
        self.experts = nn.ModuleList(experts)
        self.register_buffer("zero", torch.zeros(self.event_shape), persistent=False)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given M contexts [*S, *context event], or these and M masks [*S]."""
        count = len(self.experts)
        given = require_context(context, self)
        if len(given) not in (count, 2 * count):
            raise PpvaeError(
                f"ProductOfExperts: expected {count} contexts, or {count} and as many masks, found {len(given)}"
                + try_one_of("the modalities in the order of the experts", "then one mask for each of them")
            )
        precision, weighted = torch.ones_like(self.zero), self.zero
        for place, expert in enumerate(self.experts):
            value, present = given[place], None
            if len(given) == 2 * count:
                present = given[count + place].bool()
                value = torch.where(with_axes(present, value.dim()), value, torch.zeros_like(value))
            loc, scale = mean_and_scale(self, expert, value)
            of_expert = scale.square().reciprocal()
            if present is not None:
                of_expert = of_expert * with_axes(present, of_expert.dim())
            precision, weighted = precision + of_expert, weighted + loc * of_expert
        return independent(dist.Normal(weighted / precision, precision.rsqrt()), self.event_shape)
