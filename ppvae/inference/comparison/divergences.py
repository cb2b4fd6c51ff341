"""Forward and reverse Kullback-Leibler divergence: fit one normal to a density by either."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ...core.errors import PpvaeError, try_one_of

LogDensity = Callable[[Tensor], Tensor]
"""Normalised log density at points [G]: [G]."""

Divergence = Literal["reverse", "forward"]


@dataclass(frozen=True)
class NormalFit:
    r"""One normal $q = \mathcal{N}(\text{loc}, \text{scale}^2)$ fitted to a density p.

    Attributes:
        divergence: the objective: "reverse" is KL(q || p), the ELBO's; "forward" is KL(p || q), wake-sleep's.
        loc: mean of q.
        scale: standard deviation of q.
        reverse: KL(q || p) of the result, nats.
        forward: KL(p || q) of the result, nats.
        optima: local optima, (loc, scale, divergence), best first; the forward divergence has one.
    """

    divergence: Divergence
    loc: float
    scale: float
    reverse: float
    forward: float
    optima: tuple[tuple[float, float, float], ...]


def fit_normal(
    log_density: LogDensity,
    *,
    divergence: Divergence,
    interval: tuple[float, float],
    starts: Sequence[tuple[float, float]] = (),
    num_points: int = 20_001,
) -> NormalFit:
    r"""Fit one normal q to a density p on the line, by $\mathrm{KL}(q \| p)$ or by $\mathrm{KL}(p \| q)$.

    $$\mathrm{KL}(q \| p) = \int q \log \frac{q}{p},\qquad \mathrm{KL}(p \| q) = \int p \log \frac{p}{q}$$

    The reverse divergence is infinite where q has mass and p has none, so its minimiser seeks a mode; the forward one
    is infinite where p has mass and q has none, so its minimiser covers all of p: it has p's mean and standard
    deviation (Bishop 2006, section 10.1.2; Minka 2005). Integrals are sums over a grid; the reverse fit is by L-BFGS
    from several places, because its divergence has a local minimum at every mode.

    Args:
        log_density: normalised log p at points [G], differentiable.
        divergence: "reverse" for KL(q || p), "forward" for KL(p || q).
        interval: an interval that contains all of p, up to rounding.
        starts: (loc, scale) to start the reverse fit at; empty for nine places over the interval.
        num_points: G, points of the grid.

    Raises:
        PpvaeError: an unknown divergence, or a density that does not integrate to one on the interval.
    """
    low, high = interval
    grid = torch.linspace(low, high, num_points, dtype=torch.float64)
    with torch.no_grad():
        log_p = log_density(grid)
    mass = float(torch.trapezoid(log_p.exp(), grid))
    if not abs(mass - 1) < 1e-3:
        raise PpvaeError(
            f"log_density integrates to {mass:.4g} on [{low:g}, {high:g}], expected 1"
            + try_one_of("a wider interval", "a normalised density", "more points")
        )
    if divergence == "forward":
        p = log_p.exp()
        loc = torch.trapezoid(p * grid, grid) / mass
        scale = (torch.trapezoid(p * (grid - loc).square(), grid) / mass).sqrt()
        optima = [(float(loc), float(scale))]
    elif divergence == "reverse":
        width = high - low
        places = starts or [(low + width * (i + 0.5) / 9, width / 20) for i in range(9)]
        optima = [_descend(log_density, grid, *place) for place in places]
    else:
        raise PpvaeError(f"divergence: expected 'reverse' or 'forward', found {divergence!r}")
    candidates = {}
    for loc_, scale_ in optima:
        reverse, forward = divergences(log_density, loc_, scale_, interval=interval, num_points=num_points)
        value = reverse if divergence == "reverse" else forward
        key = (round(loc_ / scale_, 3), round(math.log(scale_), 3))
        if math.isfinite(value) and key not in candidates:
            candidates[key] = (loc_, scale_, value, reverse, forward)
    best = sorted(candidates.values(), key=lambda entry: entry[2])
    loc_, scale_, _, reverse, forward = best[0]
    return NormalFit(divergence, loc_, scale_, reverse, forward, tuple(entry[:3] for entry in best))


def divergences(
    log_density: LogDensity, loc: float, scale: float, *, interval: tuple[float, float], num_points: int = 20_001
) -> tuple[float, float]:
    """KL(q || p) and KL(p || q) between q = N(loc, scale^2) and p, in nats.

    Args:
        log_density: normalised log p at points [G].
        loc: mean of q.
        scale: standard deviation of q.
        interval: an interval that contains all of p, up to rounding; q is integrated over ten of its scales.
        num_points: points of the grid.
    """
    with torch.no_grad():
        around = torch.linspace(loc - 10 * scale, loc + 10 * scale, num_points, dtype=torch.float64)
        log_q = _log_normal(around, loc, scale)
        reverse = torch.trapezoid(log_q.exp() * (log_q - log_density(around)), around)
        grid = torch.linspace(*interval, num_points, dtype=torch.float64)
        log_p = log_density(grid)
        gap = log_p - _log_normal(grid, loc, scale)
        forward = torch.trapezoid(torch.where(log_p > -math.inf, log_p.exp() * gap, 0.0), grid)
    return float(reverse), float(forward)


def _descend(log_density: LogDensity, grid: Tensor, loc: float, scale: float) -> tuple[float, float]:
    """A local minimum of KL(q || p), by reparameterisation: z = loc + scale * noise over a grid of noise."""
    noise = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    weight = torch.exp(-0.5 * noise.square())
    weight = weight / weight.sum()
    parameters = torch.tensor([loc, math.log(scale)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        z = parameters[0] + parameters[1].exp() * noise
        objective = -parameters[1] - (weight * log_density(z)).sum()
        objective.backward()
        return objective

    with torch.enable_grad():
        optimizer.step(closure)
    return float(parameters[0].detach()), float(parameters[1].detach().exp())


def _log_normal(x: Tensor, loc: float, scale: float) -> Tensor:
    return -0.5 * ((x - loc) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)
