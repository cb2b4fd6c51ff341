"""Sums of positive parts: the trunk of a layer whose weights are positive."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .mlp import require_units


class LogPositiveLinear(nn.Module):
    r"""$\log(W z)$ of positive z, with $W = \mathrm{softplus}(\omega) > 0$: of a mean that parts add up to.

    It puts out one parameter of every element itself (``per_event``), for :class:`ppvae.distributions.Poisson` and
    :class:`ppvae.distributions.Gamma`, whose heads give logarithms of means.

    Args:
        in_features: Z.
        event_shape: of what the means are of, or its number of elements D.

    Attributes:
        weight: W, [D, Z].
        out_features: 1.

    Raises:
        PpvaeError: no input or no element.

    >>> layer = LogPositiveLinear(2, 3)
    >>> z = torch.tensor([1.0, 2.0])
    >>> torch.allclose(layer(z)[:, 0].exp(), layer.weight @ z)
    True
    """

    per_event = True
    out_features = 1

    def __init__(self, in_features: int, event_shape: int | Sequence[int]) -> None:
        super().__init__()
        size = event_shape if isinstance(event_shape, int) else math.prod(event_shape)
        require_units("in_features", [in_features])
        require_units("event_shape", [size])
        # Weights of some 1 / Z, so that a mean of ones has a mean of about one, no two of them alike.
        at_one = math.log(math.expm1(1 / in_features))
        self.free = nn.Parameter(at_one + 0.3 * torch.randn(size, in_features))

    @property
    def weight(self) -> Tensor:
        """W, [D, Z]; positive."""
        return functional.softplus(self.free)

    def forward(self, z: Tensor) -> Tensor:
        """Logarithms [*S, D, 1] at positive z [*S, Z]."""
        mean = functional.linear(z, self.weight)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()[..., None]
