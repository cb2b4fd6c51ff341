"""Priors by name, each a function of what can be stated in numbers and words: for the presets and for recipes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from ..distributions import ConditionalDistribution, FlowPrior, MixtureOfNormals, StandardNormal, VampPrior

PriorMaker: TypeAlias = Callable[
    [ConditionalDistribution, int | Sequence[int], tuple[float, float] | None], ConditionalDistribution
]
"""From the posterior, the shape of a datum and the range of its values (None: any) to the prior."""

__all__ = ["flow", "mixture", "standard", "vamp"]


def standard() -> PriorMaker:
    """The standard normal."""
    return lambda posterior, event_shape, bounds: StandardNormal(posterior.event_shape)


def mixture(num_components: int = 10) -> PriorMaker:
    """A mixture of normals with free weights, means and scales."""
    return lambda posterior, event_shape, bounds: MixtureOfNormals(num_components, posterior.event_shape)


def vamp(num_components: int = 500) -> PriorMaker:
    """The mixture of the posteriors of trained pseudo-inputs, VampPrior."""
    return lambda posterior, event_shape, bounds: VampPrior(posterior, num_components, event_shape, bounds=bounds)


def flow(
    kind: Literal["maf", "coupling", "spline"] = "coupling", num_transforms: int = 4, hidden: Sequence[int] = (64, 64)
) -> PriorMaker:
    """A normalising flow."""
    return lambda posterior, event_shape, bounds: FlowPrior(
        posterior.event_shape, flow=kind, num_transforms=num_transforms, hidden=hidden
    )
