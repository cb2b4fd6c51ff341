"""The planar transform, with an inverse at any point."""

from __future__ import annotations

import torch
from pyro.distributions.transforms.planar import ConditionedPlanar
from torch import Tensor, nn

_STEPS = 24


class InvertiblePlanar(ConditionedPlanar):
    r"""$y = x + \hat u \tanh(w \cdot x + b)$ (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 10), inverted too.

    Pyro's inverts its own last output alone; annealed paths and bridges ask for the density anywhere. The inverse is a
    root in one dimension: $a = w \cdot x$ solves $a + (w \cdot \hat u) \tanh(a + b) = w \cdot y$, whose left side
    rises, since $w \cdot \hat u > -1$.
    """

    def _inverse(self, y: Tensor) -> Tensor:
        bias, u, w = self._params
        u_hat: Tensor = self.u_hat(u, w)  # type: ignore[no-untyped-call]
        gain, target = (w * u_hat).sum(-1, keepdim=True), (w * y).sum(-1, keepdim=True)

        def newton(root: Tensor) -> Tensor:
            height = torch.tanh(root + bias)
            slope = (1 + gain * (1 - height.square())).detach()
            improved: Tensor = root - (root + gain * height - target) / slope
            return improved

        with torch.no_grad():
            low, high = target - gain.abs(), target + gain.abs()
            for _ in range(_STEPS):
                middle = 0.5 * (low + high)
                below = middle + gain * torch.tanh(middle + bias) < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            root = newton(0.5 * (low + high))
        root = newton(root)  # through which the gradient of the root flows
        x = y - u_hat * torch.tanh(root + bias)
        self._call(x)  # type: ignore[no-untyped-call] # which keeps its log-determinant
        return x


class AmortizedPlanar(nn.Module):
    """A planar transform whose parameters are affine in a context.

    Args:
        features: Z.
        context: number of features of the context.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.sizes = (1, features, features)
        self.layer = nn.Linear(context, sum(self.sizes))

    def forward(self, context: Tensor) -> InvertiblePlanar:
        """The transform at a context [*S, features]."""
        return InvertiblePlanar(self.layer(context).split(self.sizes, -1))  # type: ignore[no-untyped-call]
