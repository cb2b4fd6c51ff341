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
        hidden: units of each hidden layer; an empty sequence makes the concatenation.
        activation: as for :class:`MLP`.
        init: as for :class:`MLP`.

    Attributes:
        out_features: units of the last layer.

    Raises:
        PpvaeError: no input, a layer without units, an unknown activation.
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
        if not in_features:
            raise PpvaeError("JoinedMLP: expected at least one input, found none")
        self.in_features = tuple(in_features)
        self.mlp = MLP(sum(in_features), hidden, activation=activation, init=init)
        self.out_features, self.init = self.mlp.out_features, init

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features [*S, out_features] of inputs [*S_i, in_features_i], where S are their leading axes broadcast.

        Raises:
            PpvaeError: another number of inputs, or of features.
        """
        found = tuple(x.shape[-1] for x in inputs)
        if found != self.in_features:
            raise PpvaeError(f"JoinedMLP: expected inputs of {self.in_features} features, found {found}")
        if not len(self.mlp.layers):
            return concatenated(inputs)
        first, *rest = self.mlp.layers
        assert isinstance(first, nn.Linear)
        weights = torch.split(first.weight, list(self.in_features), dim=1)
        terms = [functional.linear(x, weight) for x, weight in zip(inputs, weights, strict=True)]
        hidden = sum(terms[1:], terms[0] + first.bias)
        for layer in rest:
            hidden = layer(hidden)
        return hidden


class Branches(nn.Module):
    r"""A perceptron whose first hidden layer is apart for each input: as in the two-level VampPrior model.

    $$h_1 = \bigl(a(W_1 x_1 + b_1),\ a(W_2 x_2 + b_2),\ \ldots\bigr),\qquad h_l = a(W_l h_{l-1} + b_l)$$

    Tomczak & Welling 2018 (arXiv 1705.07120), the authors' code.

    Args:
        in_shapes: shape of each input, or its number of features.
        hidden: units of each hidden layer, of the first for every input; an empty sequence makes the concatenation.
        activation: as for :class:`MLP`.
        init: as for :class:`MLP`.

    Attributes:
        out_features: units of the last layer.

    Raises:
        PpvaeError: no input, a layer without units, an unknown activation.
    """

    def __init__(
        self,
        in_shapes: Sequence[int | Sequence[int]],
        hidden: Sequence[int],
        *,
        activation: str = "tanh",
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        branches = [MLP(shape, hidden[:1], activation=activation, init=init) for shape in in_shapes]
        self.branches = nn.ModuleList(branches)
        self.joined = JoinedMLP([b.out_features for b in branches], hidden[1:], activation=activation, init=init)
        self.out_features, self.init = self.joined.out_features, init

    def forward(self, *inputs: Tensor) -> Tensor:
        """Features [*S, out_features] of inputs [*S_i, *in_shape_i], where S are their leading axes broadcast.

        Raises:
            PpvaeError: another number of inputs.
        """
        if len(inputs) != len(self.branches):
            raise PpvaeError(f"Branches: expected {len(self.branches)} inputs, found {len(inputs)}")
        features: Tensor = self.joined(*(branch(x) for branch, x in zip(self.branches, inputs, strict=True)))
        return features


def concatenated(inputs: Sequence[Tensor]) -> Tensor:
    """Inputs [*S_i, n_i] side by side, [*S, sum of n_i], their leading axes broadcast."""
    lead = torch.broadcast_shapes(*(x.shape[:-1] for x in inputs))
    return torch.cat([x.expand(*lead, -1) for x in inputs], -1)
