"""Adaptation of the trajectory's length: ChEES-HMC, over the chains of all data, which run in lockstep."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel import HMCInfo, HMCParameters, HMCState


class Trajectory(NamedTuple):
    """State of the adaptation of L.

    Attributes:
        log_length: log L, [].
        log_average: running average of log L, which is frozen in the end, [].
        first: Adam's first moment of the gradient, [].
        second: its second moment, [].
        centre: running mean of the positions, pooled over chains, [*data, d].
        num_updates: so far.
    """

    log_length: Tensor
    log_average: Tensor
    first: Tensor
    second: Tensor
    centre: Tensor
    num_updates: int


def start_trajectory(u: Tensor, initial_leapfrog: int) -> Trajectory:
    """The first state, from a number of leapfrogs, for positions u [chain, *data, d]."""
    log_length = torch.tensor(math.log(initial_leapfrog), dtype=torch.float64)
    zero = torch.zeros_like(log_length)
    return Trajectory(log_length, log_length, zero, zero, u.mean(0), 0)


def update_trajectory(
    trajectory: Trajectory,
    before: HMCState,
    info: HMCInfo,
    parameters: HMCParameters,
    *,
    learning_rate: float,
    max_leapfrog: int,
) -> Trajectory:
    r"""One ascent step of Adam on the gradient of ChEES with respect to $\log L$.

    $$\mathrm{ChEES} = \tfrac14 \mathrm{E}\left[\left(\|w' - m\|^2 - \|w - m\|^2\right)^2\right],\qquad
      \frac{\partial}{\partial \log L} \approx \alpha \left(\|w' - m\|^2 - \|w - m\|^2\right)
      \langle w' - m, \dot w' \rangle\, L \epsilon$$

    with $w = M^{1/2} u$, its mean m over the chains of a datum so far, and the acceptance $\alpha$ as weight.
    Hoffman, Radul & Sountsov 2021, algorithm 1.
    """
    num_updates = trajectory.num_updates + 1
    root = parameters.inverse_mass.sqrt()
    rate = max(1 / num_updates, 0.02)
    centre = trajectory.centre + rate * (before.u.mean(0) - trajectory.centre)
    w, w_end = (before.u - centre) / root, (info.proposal.u - centre) / root
    change = w_end.square().sum(-1) - w.square().sum(-1)
    speed = (w_end * root * info.proposal.momentum).sum(-1)
    length = info.num_leapfrog * parameters.step_size
    # Per chain, in units of a standard normal's value, so that no datum dominates.
    signal = change * speed * length / w.shape[-1]
    weight = torch.where(torch.isfinite(signal), info.acceptance, 0)
    gradient = (weight * signal.nan_to_num(0.0, 0.0, 0.0)).sum() / weight.sum().clamp(min=1e-3)
    gradient = gradient.to(trajectory.first)

    first = 0.9 * trajectory.first + 0.1 * gradient
    second = 0.95 * trajectory.second + 0.05 * gradient.square()
    step = (first / (1 - 0.9**num_updates)) / ((second / (1 - 0.95**num_updates)).sqrt() + 1e-12)
    log_length = (trajectory.log_length + learning_rate * step).clamp(0.0, math.log(max_leapfrog))
    weight_new = num_updates**-0.5
    average = weight_new * log_length + (1 - weight_new) * trajectory.log_average
    return Trajectory(log_length, average, first, second, centre, num_updates)


def jitter_leapfrogs(length: float, index: int) -> int:
    """The number of leapfrogs of transition ``index``: 2 L h for a Halton sequence h, so L on average.

    >>> [jitter_leapfrogs(10.0, i) for i in range(8)]
    [10, 5, 15, 3, 13, 8, 18, 2]
    """
    fraction, base, rest = 0.0, 0.5, index + 1
    while rest:
        fraction += base * (rest & 1)
        rest >>= 1
        base /= 2
    return max(1, math.ceil(2 * length * fraction))
