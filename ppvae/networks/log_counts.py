"""Counts as an encoder reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class LogCounts(nn.Module):
    r"""A trunk that is given $\log(1 + x)$ in the place of counts x, which would drive its units into saturation.

    Args:
        trunk: the trunk.

    Attributes:
        out_features: those of the trunk.
        init: that of the trunk, if it has one.

    >>> from ppvae.networks import MLP
    >>> LogCounts(MLP(2, []))(torch.tensor([0.0, 999.0]))
    tensor([0.0000, 6.9078])
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.out_features = trunk.out_features
        self.init = getattr(trunk, "init", None)

    def forward(self, counts: Tensor, *others: Tensor) -> Any:
        """The trunk's features of counts [*S, *event]; other inputs reach it as they are."""
        return self.trunk(torch.log1p(counts), *others)
