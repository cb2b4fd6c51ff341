"""Densities fitted to posterior draws of every datum, to be evaluated at other draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .posterior import Posterior
from ...core import Data, PpvaeError

LogDensity = Callable[[Tensor], Tensor]
"""``log_density(u [m, B, d]) -> [m, B]``, nats."""


class FittedDensity:
    """A normalised density of every datum, and draws from it.

    Args:
        log_density: u [m, B, d] to [m, B], nats.
        sample: from a number m to draws [m, B, d]; those where the density is zero do not count.
    """

    def __init__(self, log_density: LogDensity, sample: Callable[[int], Tensor]) -> None:
        self.log_density, self.sample = log_density, sample

    def __call__(self, u: Tensor) -> Tensor:
        return self.log_density(u)


_BLOCK = 2**23  # distances that the kernel density holds at once


class Density(ABC):
    """A way to fit a normalised density to draws; subclasses are frozen dataclasses of options.

    Attributes:
        fitted: whether it is fitted to draws.
        max_dim: the most dimensions in which it can be trusted; None for no limit.
    """

    fitted: ClassVar[bool] = True
    max_dim: ClassVar[int | None] = None

    def fewest_draws(self, dim: int) -> int:
        """How many draws a fit needs at the least."""
        return 2 * (dim + 1)

    @abstractmethod
    def fit(self, posterior: Posterior, x: Data, u: Tensor, keep: Tensor) -> FittedDensity:
        """The density of every datum.

        Args:
            posterior: whose draws these are.
            x: the data, [B, *event].
            u: draws, [n, B, d].
            keep: which of them count, bool [n, B].
        """


@dataclass(frozen=True)
class GaussianDensity(Density):
    r"""$\mathcal{N}(m, s^2 S)$ with the draws' mean and full covariance, shrunk.

    The reciprocal weights need a density with lighter tails than the posterior. For a posterior N(0, I_d) their squared
    coefficient of variation is $(s \sqrt{2 - s^2})^{-d} - 1$: finite for $s^2 < 2$, but a fitted S is too wide in some
    direction, for which $s^2 = 0.8$ leaves a margin.

    Args:
        shrink: s^2, between 0 and 1.
    """

    shrink: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.shrink <= 1:
            raise PpvaeError(f"GaussianDensity: expected shrink between 0 and 1, found {self.shrink}")

    def fit(self, posterior: Posterior, x: Data, u: Tensor, keep: Tensor) -> FittedDensity:
        """A normal of the draws' mean and shrunk covariance."""
        normal = FittedNormal.of_draws(u, keep, self.shrink)
        return FittedDensity(normal.log_prob, lambda num: normal.sample(num, u))


@dataclass(frozen=True)
class TruncatedGaussianDensity(Density):
    r"""$\mathcal{N}(m, S)$ of the draws, cut off outside an ellipsoid: light tails by construction.

    $$(u - m)^\top S^{-1} (u - m) \le r^2,\qquad r = \sqrt{d + 1}$$

    the radius that Metodiev, Perrot-Dockès, Ouadah, Irons, Latouche & Raftery (2023, THAMES, arXiv 2305.08952)
    recommend.

    Args:
        radius: r; None for sqrt(d + 1).
    """

    radius: float | None = None

    def fit(self, posterior: Posterior, x: Data, u: Tensor, keep: Tensor) -> FittedDensity:
        """A normal of the draws' mean and covariance inside the ellipsoid, minus infinity in nats outside."""
        normal, dim = FittedNormal.of_draws(u, keep, 1.0), u.shape[-1]
        square = dim + 1.0 if self.radius is None else self.radius**2
        half = torch.tensor([dim / 2, square / 2], dtype=torch.float64)
        log_mass = float(torch.special.gammainc(half[0], half[1]).log())

        def log_density(u: Tensor) -> Tensor:
            distance = normal.distance(u)
            return torch.where(distance <= square, normal.log_norm - 0.5 * distance - log_mass, -math.inf)

        return FittedDensity(log_density, lambda num: normal.sample(num, u))


@dataclass(frozen=True)
class KernelDensity(Density):
    r"""A Gaussian kernel on every draw, of the draws' covariance times $h^2$; the authors of AEVB used such a one.

    $$h = n^{-1 / (d + 4)}$$

    Scott's rule. Limitations: in five dimensions and more the kernels no longer overlap, and the estimate has a
    variance to match; AEVB restricts it to fewer.

    Args:
        bandwidth: h; None for Scott's rule.
    """

    bandwidth: float | None = None
    max_dim: ClassVar[int | None] = 4

    def fit(self, posterior: Posterior, x: Data, u: Tensor, keep: Tensor) -> FittedDensity:
        """The mean of the kernels."""
        count = keep.sum(0).clamp(min=1)  # [B]
        dim = u.shape[-1]
        scott = count.double() ** (-1 / (dim + 4))
        h = scott if self.bandwidth is None else torch.full_like(scott, self.bandwidth)
        normal = FittedNormal.of_draws(u, keep, 1.0)
        centres = normal.whiten(u) / h[:, None]
        log_norm = normal.log_norm - dim * h.log() - count.log()
        outside = (~keep).T.unsqueeze(1)  # [B, 1, n]

        def log_density(u: Tensor) -> Tensor:
            points = normal.whiten(u) / h[:, None]
            size = max(1, _BLOCK // (len(points) * len(centres)))
            parts = []
            for i in range(0, points.shape[1], size):
                square = torch.cdist(points[:, i : i + size].transpose(0, 1), centres[:, i : i + size].transpose(0, 1))
                kernels = (-0.5 * square.square()).masked_fill(outside[i : i + size], -math.inf)
                parts.append(kernels.logsumexp(-1).T)
            return torch.cat(parts, 1) + log_norm

        def sample(num: int) -> Tensor:
            indices = torch.multinomial(keep.T.double() + 1e-300, num, replacement=True).T  # [num, B]
            origin = u.gather(0, indices.unsqueeze(-1).expand(-1, -1, dim))
            return origin + (h[:, None] * (normal.sample(num, u).double() - normal.loc)).to(u.dtype)

        return FittedDensity(log_density, sample)


@dataclass(frozen=True)
class EncoderDensity(Density):
    """The guide's own density, fitted to no draws.

    Limitations: a guide wider than the posterior in any direction gives unbounded weights; draws from it show this.
    """

    fitted: ClassVar[bool] = False

    def fewest_draws(self, dim: int) -> int:
        """Any number will do."""
        return 1

    def fit(self, posterior: Posterior, x: Data, u: Tensor, keep: Tensor) -> FittedDensity:
        """log q(z | x) with the log-Jacobian."""
        return FittedDensity(lambda u: posterior.log_encoder(x, u), lambda num: posterior.start(x, num))


class FittedNormal:
    """A multivariate normal for every datum.

    Args:
        loc: mean, [B, d].
        scale_tril: Cholesky factor of the covariance, [B, d, d].
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        diagonal = scale_tril.diagonal(dim1=-2, dim2=-1)
        self.log_norm = -diagonal.log().sum(-1) - 0.5 * loc.shape[-1] * math.log(2 * math.pi)

    @staticmethod
    def of_draws(u: Tensor, keep: Tensor, shrink: float) -> FittedNormal:
        """Of the mean and ``shrink`` times the covariance of draws u [n, B, d]; NaN where that is singular."""
        u, weight = u.double(), keep.double().unsqueeze(-1)
        count = weight.sum(0).clamp(min=2)
        loc = (u * weight).sum(0) / count
        deviations = ((u - loc) * weight).transpose(0, 1)  # [B, n, d]
        covariance = shrink * deviations.mT @ deviations / (count - 1).unsqueeze(-1)
        scale_tril, info = torch.linalg.cholesky_ex(covariance)
        singular = (info > 0)[:, None, None]
        eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
        return FittedNormal(loc.masked_fill(singular[..., 0], math.nan), torch.where(singular, eye, scale_tril))

    def whiten(self, u: Tensor) -> Tensor:
        """L^-1 (u - m), [m, B, d]."""
        deviations = (u.double() - self.loc).movedim(0, -1)  # [B, d, m]
        white: Tensor = torch.linalg.solve_triangular(self.scale_tril, deviations, upper=False)
        return white.movedim(-1, 0)

    def distance(self, u: Tensor) -> Tensor:
        """Squared Mahalanobis distance, [m, B]."""
        return self.whiten(u).square().sum(-1)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density, [m, B], nats."""
        return self.log_norm - 0.5 * self.distance(u)

    def sample(self, num: int, like: Tensor) -> Tensor:
        """Draws, [num, B, d], in the dtype of ``like``."""
        noise = torch.randn(num, *self.loc.shape, dtype=like.dtype, device=like.device).double()
        return (self.loc + (self.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)).to(like.dtype)


DENSITIES: dict[str, Density] = {
    "gaussian": GaussianDensity(),
    "truncated": TruncatedGaussianDensity(),
    "kernel": KernelDensity(),
    "encoder": EncoderDensity(),
}
