"""A perceptron of several inputs, side by side, that need not have the same leading axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .initialization import Initializer
from .mlp import MLP, require_units
from ..core.errors import PpvaeError


class JoinedMLP(nn.Module):
    r"""The :class:`MLP` of several inputs side by side, each of which stays as small as it is.

    $$h_1 = a\left(\sum_i W_i x_i + b\right),\qquad [W_1, W_2, \ldots] = W$$

    equals the MLP of the concatenation with the same parameters. Where inputs broadcast against each other (data
    [B, D] beside all K values of a class, [K, 1, K]), each product is taken at the input's own size, and the product
    with the data is not repeated K times.

    Args:
        in_features: features of each input.
        hidden: units of each hidden layer, at least one layer.
        activation: as for :class:`MLP`.
        init: as for :class:`MLP`.

    Attributes:
        out_features: units of the last layer.

    Raises:
        PpvaeError: no input or no hidden layer, a layer without units, an unknown activation.
    """

    def __init__(
        self,
        in_features: Sequence[int],
        hidden: Sequence[int],
        *,
        activation: str = "tanh",
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        require_units("in_features", in_features)
        if not in_features or not hidden:
            raise PpvaeError(
                "JoinedMLP: expected at least one input and one hidden layer, found "
                f"{list(in_features)} and {list(hidden)}"
            )
        self.in_features = tuple(in_features)
        self.mlp = MLP(sum(in_features), hidden, activation=activation, init=init)
        self.out_features = self.mlp.out_features

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features [*S, out_features] of inputs [*S_i, in_features_i], where S are their leading axes broadcast.

        Raises:
            PpvaeError: another number of inputs, or of features.
        """
        found = tuple(x.shape[-1] for x in inputs)
        if found != self.in_features:
            raise PpvaeError(f"JoinedMLP: expected inputs of {self.in_features} features, found {found}")
        first, *rest = self.mlp.layers
        assert isinstance(first, nn.Linear)
        weights = torch.split(first.weight, list(self.in_features), dim=1)
        terms = [functional.linear(x, weight) for x, weight in zip(inputs, weights, strict=True)]
        hidden = sum(terms[1:], terms[0] + first.bias)
        for layer in rest:
            hidden = layer(hidden)
        return hidden
