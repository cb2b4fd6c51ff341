"""Units of 0 and 1 as a network may read them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Signs(nn.Module):
    r"""A trunk that is given $2 z - 1$ in the place of z in [0, 1]: units of -1 and 1.

    Args:
        trunk: the trunk.

    Attributes:
        out_features: those of the trunk.
        init: that of the trunk, if it has one.

    >>> import torch
    >>> from ppvae.networks import MLP
    >>> Signs(MLP(3, []))(torch.tensor([0.0, 0.5, 1.0]))
    tensor([-1.,  0.,  1.])
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.out_features = trunk.out_features
        self.init = getattr(trunk, "init", None)

    def forward(self, units: Tensor) -> Any:
        """The trunk's features of units [*S, *event]."""
        return self.trunk(2 * units - 1)
