r"""The adaptation in warm-up, as pure functions: a step size for every chain, a diagonal mass for every datum.

Step sizes are adapted chain by chain. The mass is pooled over the chains of a datum: with few chains and short
windows that divides the variance of the estimate by their number, and it includes the variance between chains
that have not converged yet. Data are independent of each other.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class DualAveraging(NamedTuple):
    """State of the step-size adaptation, each [*chains] but the last.

    Attributes:
        log_step: logarithm of the next step size.
        log_step_average: logarithm of the average, which is frozen in the end.
        error: running mean of target minus actual acceptance.
        centre: logarithm of the step size to shrink to.
        num_updates: updates so far, [].
    """

    log_step: Tensor
    log_step_average: Tensor
    error: Tensor
    centre: Tensor
    num_updates: Tensor

    @property
    def step_size(self) -> Tensor:
        """The next step size, [*chains]."""
        return self.log_step.exp()

    @property
    def final_step_size(self) -> Tensor:
        """The averaged step size, [*chains], to freeze when warm-up ends."""
        return self.log_step_average.exp()


def start_dual_averaging(step_size: Tensor) -> DualAveraging:
    """The first state, from positive step sizes [*chains]; its centre is three times larger."""
    log_step = step_size.log()
    zero = torch.zeros_like(log_step)
    return DualAveraging(log_step, log_step, zero, log_step + math.log(3), zero.new_zeros(()))


def update_dual_averaging(
    state: DualAveraging,
    acceptance: Tensor,
    target_acceptance: float,
    *,
    gamma: float = 0.2,
    offset: float = 10.0,
    decay: float = 0.75,
) -> DualAveraging:
    r"""One update of Nesterov's dual averaging towards a target acceptance $\delta$.

    $$\bar H_t = (1 - \tfrac{1}{t + t_0}) \bar H_{t-1} + \tfrac{1}{t + t_0} (\delta - \alpha_t),\quad
      \log \epsilon_{t+1} = \mu - \tfrac{\sqrt t}{\gamma} \bar H_t,\quad
      \log \bar\epsilon_{t+1} = t^{-\kappa} \log \epsilon_{t+1} + (1 - t^{-\kappa}) \log \bar\epsilon_t$$

    Hoffman & Gelman 2014 (arXiv 1111.4246), section 3.2.1. Their constants, $\gamma = 0.05$ and a centre ten times
    the first step, let the step of a chain vary so widely that its average is too small: acceptance 0.94 for a target
    of 0.8, in 2 dimensions after 500 transitions; with these it was 0.83.

    Args:
        state: of the chains.
        acceptance: $\alpha_t$ of the transition with ``state.step_size``, [*chains], in 0 to 1.
        target_acceptance: $\delta$.
        gamma: $\gamma$, shrinkage towards the centre.
        offset: $t_0$, damps the first updates.
        decay: $\kappa$, how quickly early steps are forgotten in the average.

    >>> state = start_dual_averaging(torch.tensor([0.1]))
    >>> for _ in range(1000):  # where the acceptance is exp(-step size), it is 0.8 at 0.223
    ...     state = update_dual_averaging(state, torch.exp(-state.step_size), 0.8)
    >>> round(state.final_step_size.item(), 2)
    0.22
    """
    count = state.num_updates + 1
    rate = 1 / (count + offset)
    error = (1 - rate) * state.error + rate * (target_acceptance - acceptance)
    log_step = state.centre - count.sqrt() / gamma * error
    weight = count**-decay
    average = weight * log_step + (1 - weight) * state.log_step_average
    return DualAveraging(log_step, average, error, state.centre, count)


class Moments(NamedTuple):
    """Running moments of draws, pooled over chains.

    Attributes:
        num_draws: draws so far, [*data].
        mean: [*data, d].
        deviation: sum of squared deviations from the mean, [*data, d].
    """

    num_draws: Tensor
    mean: Tensor
    deviation: Tensor


def start_moments(u: Tensor) -> Moments:
    """The moments of zero draws, for positions u [chain, *data, d]."""
    zero = torch.zeros_like(u[0])
    return Moments(zero[..., 0], zero, zero)


def update_moments(moments: Moments, u: Tensor, include: Tensor | None = None) -> Moments:
    """Welford's update by one draw of every chain (Chan, Golub & LeVeque 1983, for a group at a time).

    Args:
        moments: so far.
        u: positions, [chain, *data, d].
        include: which chains count, bool [chain, *data]; None for all.
    """
    weight = torch.ones_like(u[..., 0]) if include is None else include.to(u.dtype)
    num_new = weight.sum(0)
    group_mean = (weight.unsqueeze(-1) * u).sum(0) / num_new.clamp(min=1).unsqueeze(-1)
    group_deviation = (weight.unsqueeze(-1) * (u - group_mean).square()).sum(0)
    count = moments.num_draws + num_new
    share = (num_new / count.clamp(min=1)).unsqueeze(-1)
    delta = group_mean - moments.mean
    return Moments(
        count,
        moments.mean + delta * share,
        moments.deviation + group_deviation + delta.square() * share * moments.num_draws.unsqueeze(-1),
    )


def shrink_variance(moments: Moments, prior: Tensor, weight: float = 5.0) -> Tensor:
    """The variance of the draws, [*data, d], shrunk towards ``prior`` as if by ``weight`` further draws.

    Stan's rule, but towards the current inverse mass instead of a fixed 0.001, so that it does not depend on units.
    The prior itself where no chain moved or the variance is not finite.
    """
    count = moments.num_draws.unsqueeze(-1)
    variance = moments.deviation / (count - 1).clamp(min=1)
    estimate = (count * variance + weight * prior) / (count + weight)
    usable = (count > 1) & torch.isfinite(estimate) & (estimate > 0) & (variance > 0).any(-1, keepdim=True)
    return torch.where(usable, estimate, prior)


def mass_windows(num_warmup: int) -> list[tuple[int, int]]:
    """The windows of warm-up in which the mass is estimated, each twice as long as the last (Stan's scheme).

    The first 75 transitions find the typical set, the last 50 settle the step size for the last mass. Of a warm-up
    below 150 the last half does, or 50; below 20 the mass is not adapted. With the tenth that Stan leaves for it, 24
    transitions gave an acceptance of 0.2 for a target of 0.8, less than 10 did without a mass; with a half, 0.8.

    >>> mass_windows(500), mass_windows(100), mass_windows(10)
    ([(75, 100), (100, 150), (150, 250), (250, 450)], [(15, 50)], [])
    """
    if num_warmup < 20:
        return []
    first, base, last = 75, 25, 50
    if first + base + last > num_warmup:
        first, last = int(0.15 * num_warmup), min(last, num_warmup // 2)
        base = num_warmup - first - last
    windows, start, end = [], first, num_warmup - last
    while start < end:
        # If fewer than twice its length would remain for the next window, a window extends to the end.
        stop = start + base if start + 3 * base <= end else end
        windows.append((start, stop))
        start, base = stop, 2 * base
    return windows
