"""Conditional distributions: a module whose forward returns a distribution.

Prior, likelihood and posterior of a latent-variable model are all this one thing; a prior has no context.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
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

    def start_at(self, index: int, value: float) -> None:
        """Set a parameter to a value for every context, from which it is trained.

        Raises:
            PpvaeError: the trunk puts out the parameters itself.
        """
        if self.per_event:
            raise PpvaeError(
                f"trunk {type(self.trunk).__name__} puts out the parameters itself, whose start is its own"
            )
        layer = cast("nn.Linear", self.layers[index])
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, value)

    def read(self, features: Tensor) -> tuple[Tensor, ...]:
        """The parameters, each [*S, *event_shape], from the trunk's features."""
        if self.per_event:
            values = [features[..., index] for index in range(self.parameters_per_element)]
        else:
            values = [layer(features) for layer in self.layers]
        return tuple(value.reshape(*value.shape[:-1], *self.event_shape) for value in values)


class Free(nn.Module):
    """Parameters of a distribution that depend on nothing: what stands in the place of a :class:`Head` of a prior.

    Args:
        event_shape: shape of each parameter.
        parameters: how many; each is free, and zero at first.
    """

    def __init__(self, event_shape: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.free = nn.ParameterList(nn.Parameter(torch.zeros(*event_shape)) for _ in range(parameters))

    def forward(self, *context: Tensor) -> tuple[Tensor, ...]:
        """The parameters, whatever the context."""
        return tuple(self.free)

    def start_at(self, index: int, value: float) -> None:
        """Set a parameter to a value, from which it is trained."""
        nn.init.constant_(self.free[index], value)


def head_of(trunk: nn.Module | None, event_shape: Sequence[int], parameters: int) -> Head | Free:
    """A head on a trunk; without a trunk, free parameters."""
    return Free(event_shape, parameters) if trunk is None else Head(trunk, event_shape, parameters)


def require_context(context: tuple[Tensor, ...], owner: nn.Module) -> tuple[Tensor, ...]:
    """The context of a conditional distribution; an error where there is none."""
    if not context and not isinstance(getattr(owner, "head", None), Free):
        raise PpvaeError(f"{type(owner).__name__} is conditional: expected a context tensor, found none")
    return context


def declare_positive(
    owner: nn.Module,
    name: str,
    choice: str | float,
    event_shape: Sequence[int],
    *,
    words: Sequence[str] = ("conditional", "per-dimension", "shared"),
) -> None:
    """Register ``log_<name>`` with a conditional distribution: a positive parameter that its head may give instead.

    Args:
        owner: the distribution.
        name: of the parameter, such as "scale".
        choice: "conditional" (nothing is registered: the head gives it), "per-dimension" (free, one an element),
            "shared" (free, one for all), or a number (fixed).
        event_shape: of the distribution.
        words: the choices that this parameter has.

    Raises:
        PpvaeError: another choice, or a number that is not positive.
    """
    kind, log_name = type(owner).__name__, f"log_{name}"
    if isinstance(choice, str):
        if choice not in words:
            listed = ", ".join(map(repr, words))
            raise PpvaeError(f"{kind}: expected {name} {listed} or a number, found {choice!r}")
        if choice != "conditional":
            shape = tuple(event_shape) if choice == "per-dimension" else ()
            owner.register_parameter(log_name, nn.Parameter(torch.zeros(shape)))
    elif 0 < choice < math.inf:
        owner.register_buffer(log_name, torch.tensor(math.log(choice)))
    else:
        raise PpvaeError(f"{kind}: expected a positive {name}, found {choice}")


def independent(distribution: Any, event_shape: Sequence[int]) -> TorchDistribution:
    """The distribution with its rightmost axes declared to be one event."""
    return cast(TorchDistribution, distribution.to_event(len(event_shape)))
