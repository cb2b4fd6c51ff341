"""The multilayer perceptron of AEVB appendix C."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from .initialization import Initializer, initialize
from ..core.errors import PpvaeError, did_you_mean

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
}


def make_activation(name: str) -> nn.Module:
    """The activation of this name.

    Raises:
        PpvaeError: an unknown name; suggests the nearest.
    """
    if name not in ACTIVATIONS:
        raise PpvaeError(f"unknown activation {name!r}: {did_you_mean(name, [*ACTIVATIONS, 'gated'])}")
    return ACTIVATIONS[name]()


def layer(affine: Callable[[int], nn.Module], units: int, activation: str, axis: int = -1) -> list[nn.Module]:
    r"""An affine layer of so many units and its activation.

    "gated" is $h \odot \sigma(g)$ of two affine maps h and g side by side (Dauphin et al. 2016, arXiv 1612.08083).

    Args:
        affine: makes the layer of so many outputs.
        units: after the activation.
        activation: a name.
        axis: of the units.

    Raises:
        PpvaeError: an unknown activation.
    """
    if activation == "gated":
        return [affine(2 * units), nn.GLU(axis)]
    return [affine(units), make_activation(activation)]


def require_units(name: str, sizes: Sequence[int]) -> None:
    """Raise a PpvaeError where a layer has no unit: nothing would pass through it."""
    if any(size < 1 for size in sizes):
        raise PpvaeError(f"{name}: expected at least one unit in every layer, found {list(sizes)}")


class MLP(nn.Module):
    r"""Affine layers with an activation after each: a trunk, whose output a distribution reads.

    $$h_0 = x,\qquad h_l = a(W_l h_{l-1} + b_l)$$

    Kingma & Welling 2013 (arXiv 1312.6114), appendix C: one hidden layer, tanh.

    Args:
        in_shape: shape of one input, or its number of features; its axes are flattened.
        hidden: units of each hidden layer; an empty sequence makes the identity.
        activation: "tanh", "relu", "softplus", "silu", "elu", "sigmoid", or "gated", see :func:`layer`: two affine maps
            h and g a layer, of which $h \odot \sigma(g)$ goes on.
        init: an :class:`Initializer`; ``paper()`` is the paper's N(0, 0.01) (a standard deviation of 0.1).

    Attributes:
        out_features: units of the last layer.

    Raises:
        PpvaeError: a layer without units, an unknown activation.
    """

    def __init__(
        self,
        in_shape: int | Sequence[int],
        hidden: Sequence[int],
        *,
        activation: str = "tanh",
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        features = math.prod(self.in_shape)
        require_units("hidden", hidden)
        layers: list[nn.Module] = []
        for units in hidden:
            layers += layer(partial(nn.Linear, features), units, activation)
            features = units
        self.layers = nn.Sequential(*layers)
        self.out_features = features
        self.init = init
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Features [*S, out_features] of x [*S, *in_shape]."""
        if len(self.in_shape) != 1:
            x = x.flatten(-len(self.in_shape))
        hidden: Tensor = self.layers(x)
        return hidden
