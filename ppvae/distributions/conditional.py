"""Conditional distributions: a module whose forward returns a distribution.

Prior, likelihood and posterior of a latent-variable model are all this one thing; a prior has no context.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from ..core.errors import PpvaeError


class ConditionalDistribution(nn.Module, ABC):
    """$c \\mapsto p(\\cdot \\mid c)$: a module whose forward returns a Pyro distribution.

    The context is what stands behind the bar: nothing, one tensor, or several, which the trunk then takes side by side
    (:class:`ppvae.networks.JoinedMLP`).

    Attributes:
        event_shape: shape of one draw.
    """

    event_shape: tuple[int, ...]

    def __init__(self, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        self.event_shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        if math.prod(self.event_shape) < 1:
            raise PpvaeError(
                f"{type(self).__name__}: expected at least one dimension in event_shape, found {self.event_shape}"
            )

    @abstractmethod
    def forward(self, *context: Tensor) -> TorchDistribution:
        """The distribution given a context [*S, *context event] or several; its batch shape is [*S]."""

    @property
    def borrowed(self) -> tuple[nn.Module, ...]:
        """Modules of the pair that it reads without holding them: none, but for a prior that reads the posterior."""
        return ()

    def given(self, *parents: str) -> Given:
        """This distribution with the names of what stands behind its bar, for :class:`ppvae.models.LatentModel`.

        >>> from ppvae.distributions import StandardNormal
        >>> StandardNormal(2).given("y").parents
        ('y',)
        """
        return Given(self, parents)


@dataclass(frozen=True)
class Given:
    """A conditional distribution and its parents by name: p(. | parents).

    Attributes:
        distribution: takes the values of the parents, in their order.
        parents: their names.
    """

    distribution: ConditionalDistribution
    parents: tuple[str, ...]


class Head(nn.Module):
    """Affine maps from a trunk's features to the parameters of a distribution.

    Args:
        trunk: a module that states its ``out_features``. One with ``per_event = True``
            (:class:`ppvae.networks.ConvDecoder`) puts out the parameters of every element itself,
            [*S, elements, out_features].
        event_shape: shape of each parameter.
        parameters: how many parameters; each is its own affine layer, as in AEVB appendix C.
    """

    def __init__(self, trunk: nn.Module, event_shape: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.event_shape = tuple(event_shape)
        self.parameters_per_element = parameters
        self.per_event = bool(getattr(trunk, "per_event", False))
        features = getattr(trunk, "out_features", None)
        if not isinstance(features, int):
            raise PpvaeError(
                f"trunk {type(trunk).__name__} does not say how many features it puts out: expected an integer "
                f"attribute out_features, found {features!r}"
            )
        if self.per_event:
            if features != parameters:
                raise PpvaeError(
                    f"trunk {type(trunk).__name__} puts out {features} parameters per element, expected {parameters}: "
                    f"give it outputs_per_pixel={parameters}"
                )
            self.layers = nn.ModuleList()
        else:
            size = math.prod(event_shape)
            self.layers = nn.ModuleList(nn.Linear(features, size) for _ in range(parameters))
            init = getattr(trunk, "init", None)
            if init is not None:
                for layer in self.layers:
                    init(layer)

    def forward(self, *context: Tensor) -> tuple[Tensor, ...]:
        """The parameters, each [*S, *event_shape], at a context [*S, *context event] or several."""
        return self.read(self.trunk(*context))

    def read(self, features: Tensor) -> tuple[Tensor, ...]:
        """The parameters, each [*S, *event_shape], from the trunk's features."""
        if self.per_event:
            values = [features[..., index] for index in range(self.parameters_per_element)]
        else:
            values = [layer(features) for layer in self.layers]
        return tuple(value.reshape(*value.shape[:-1], *self.event_shape) for value in values)


def require_context(context: tuple[Tensor, ...], owner: nn.Module) -> tuple[Tensor, ...]:
    """The context of a conditional distribution; an error where there is none."""
    if not context:
        raise PpvaeError(f"{type(owner).__name__} is conditional: expected a context tensor, found none")
    return context


def independent(distribution: Any, event_shape: Sequence[int]) -> TorchDistribution:
    """The distribution with its rightmost axes declared to be one event."""
    return cast(TorchDistribution, distribution.to_event(len(event_shape)))
