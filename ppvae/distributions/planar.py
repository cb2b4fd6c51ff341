"""The planar transform, with an inverse at any point and a determinant that rounding leaves positive."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints
from torch.nn.functional import softplus

_BISECTIONS = 24
_IDENTITY = math.log(math.e - 1)


class Planar(Transform):
    r"""$y = x + \hat u\, a$ with $a = \tanh(w \cdot x + b)$ (Rezende & Mohamed 2015, arXiv 1505.05770, eq. 10).

    $$\hat u = u + (m - w \cdot u) \frac{w}{\lVert w \rVert^2},\quad m = \log(1 + e^{c + w \cdot u}) - 1 > -1,\qquad
      \left| \det \frac{\partial y}{\partial x} \right| = a^2 + (1 - a^2)(1 + m)$$

    so that $w \cdot \hat u = m$ whatever u, which makes it one to one. Published with $c = 0$; with $c = \log(e - 1)$
    it is the identity where $u = 0$. Written as a sum of positive terms, the determinant is right where $m$ is close to
    -1: there $1 + (1 - a^2)\, w \cdot \hat u$, as Pyro's transform has it, is rounded to nothing or below, and training
    diverges.

    The inverse is a root in one dimension: $s = w \cdot x$ solves $s + m \tanh(s + b) = w \cdot y$, whose left side
    rises.

    Args:
        bias: b [*S, 1].
        u: [*S, Z].
        w: [*S, Z].
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, bias: Tensor, u: Tensor, w: Tensor) -> None:
        super().__init__()
        along = (w * u).sum(-1, keepdim=True)
        self.bias, self.w = bias, w
        self.one_plus_m = softplus(along + _IDENTITY)
        squared = w.square().sum(-1, keepdim=True).clamp_min(torch.finfo(w.dtype).eps ** 2)
        self.u_hat = u + (self.one_plus_m - 1 - along) * w / squared

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """y, and the log of the determinant at x [*S], in nats."""
        height = self._height((self.w * x).sum(-1, keepdim=True))
        return x + self.u_hat * height, self._slope(height).log().squeeze(-1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The log of the determinant at x [*S], in nats."""
        return self.call_and_ladj(x)[1]

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        m, target = self.one_plus_m - 1, (self.w * y).sum(-1, keepdim=True)

        def newton(root: Tensor) -> Tensor:
            height = self._height(root)
            improved: Tensor = root - (root + m * height - target) / self._slope(height).detach()
            return improved

        with torch.no_grad():
            low, high = target - m.abs(), target + m.abs()
            for _ in range(_BISECTIONS):
                middle = 0.5 * (low + high)
                below = middle + m * self._height(middle) < target
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
            root = newton(0.5 * (low + high))
        root = newton(root)  # through which the gradient of the root flows
        return y - self.u_hat * self._height(root)

    def _height(self, along: Tensor) -> Tensor:
        return torch.tanh(along + self.bias)

    def _slope(self, height: Tensor) -> Tensor:
        """The derivative of w y by w x."""
        square = height.square()
        return square + (1 - square) * self.one_plus_m


class AmortizedPlanar(nn.Module):
    """A planar transform whose parameters are affine in a context, and which starts as the identity.

    Args:
        features: Z.
        context: number of features of the context.
    """

    def __init__(self, features: int, context: int) -> None:
        super().__init__()
        self.sizes = (1, features, features)
        self.affine = nn.Linear(context, sum(self.sizes))
        for parameter in self.affine.parameters():
            nn.init.zeros_(parameter[1 : 1 + features])  # u

    def forward(self, context: Tensor) -> Any:
        """The transform at a context [*S, features]."""
        return Planar(*self.affine(context).split(self.sizes, -1))
