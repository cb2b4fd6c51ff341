"""All chains of one chunk of data: warm-up, then draws with frozen parameters."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .adaptation import (
    mass_windows,
    shrink_variance,
    start_dual_averaging,
    start_moments,
    update_dual_averaging,
    update_moments,
)
from .kernel import HMCInfo, HMCParameters, HMCState, Kernel, draw_noise
from .options import HMC, Options
from .trajectory import jitter_leapfrogs, start_trajectory, update_trajectory

Report = Callable[[HMCInfo, bool], None]
"""Called after every transition with its info and whether it was one of warm-up."""


MakeKernel = Callable[[int], Kernel]
"""From a number of leapfrogs to the kernel of a transition."""


class ChainOutcome(IntEnum):
    """How a chain ended.

    Attributes:
        message: its meaning, and what to try.
    """

    message: str

    def __new__(cls, value: int, message: str = "") -> ChainOutcome:
        """A code with its message."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.message = message
        return code

    OK = 0, "sampled"
    DIVERGENT = 1, "every trajectory diverged: a smaller step size, a longer warm-up, or float64 may help"
    STUCK = 2, "no proposal was accepted: a longer warm-up or a start at the prior may help"
    NO_START = 3, "the density or its gradient was not finite at the start, in 10 tries; its draws are NaN"


class ChunkDraws(NamedTuple):
    """Draws of one chunk.

    Attributes:
        u: unconstrained positions, [chain, draw, datum, d].
        stats: by name, [chain, draw, datum].
        outcome: of :class:`ChainOutcome`, int64 [chain, datum].
        inverse_mass: frozen, [datum, d].
    """

    u: Tensor
    stats: dict[str, Tensor]
    outcome: Tensor
    inverse_mass: Tensor


class WarmUpResult(NamedTuple):
    """The parameters that warm-up adapts and sampling keeps fixed.

    Attributes:
        parameters: step size [chain, datum] and inverse mass [datum, d].
        length: leapfrogs of a transition, before jitter.
    """

    parameters: HMCParameters
    length: float


def num_leapfrogs(options: Options, length: float, index: int) -> int:
    """Leapfrogs of transition ``index``."""
    return options.num_leapfrog if isinstance(options, HMC) else jitter_leapfrogs(length, index)


def warm_up(
    make_kernel: MakeKernel,
    state: HMCState,
    context: tuple[Any, ...],
    options: Options,
    num_warmup: int,
    variance: Tensor,
    generator: torch.Generator,
    report: Report,
) -> tuple[HMCState, WarmUpResult]:
    """Adapt step sizes, mass and, for ChEES, the number of leapfrogs; then freeze them.

    Args:
        make_kernel: the kernel on the target, by its number of leapfrogs.
        state: where the chains start, [chain, datum].
        context: of the target.
        options: the kernel's.
        num_warmup: transitions; with zero, the starting values are frozen.
        variance: the first inverse mass, [datum, d].
        generator: of the noise.
        report: called after every transition.
    """
    inverse_mass = variance
    first = options.step_size or 0.5 * variance.shape[-1] ** -0.25
    averaging = start_dual_averaging(torch.full_like(state.log_density, first))
    windows = mass_windows(num_warmup) if options.adapt_mass else []
    ends = {stop for _, stop in windows}
    moments = start_moments(state.u)
    length = float(options.num_leapfrog if isinstance(options, HMC) else options.initial_leapfrog)
    trajectory = start_trajectory(state.u, max(1, round(length)))
    movable = torch.isfinite(state.log_density)
    for index in range(num_warmup):
        kernel = make_kernel(num_leapfrogs(options, length, index))
        parameters = HMCParameters(averaging.step_size, inverse_mass)
        before = state
        state, info = kernel(state, draw_noise(state.u, generator), parameters, *context)
        averaging = update_dual_averaging(averaging, info.acceptance, options.target_acceptance)
        if not isinstance(options, HMC):
            trajectory = update_trajectory(
                trajectory,
                before,
                info,
                parameters,
                learning_rate=options.learning_rate,
                max_leapfrog=options.max_leapfrog,
            )
            length = float(trajectory.log_length.exp())
        if windows and windows[0][0] <= index < windows[-1][1]:
            moments = update_moments(moments, state.u, movable)
        if index + 1 in ends:
            inverse_mass = shrink_variance(moments, inverse_mass).contiguous()
            moments = start_moments(state.u)
            averaging = start_dual_averaging(averaging.final_step_size)
        report(info, True)
    if not isinstance(options, HMC) and num_warmup:
        length = float(trajectory.log_average.exp())
    return state, WarmUpResult(HMCParameters(averaging.final_step_size, inverse_mass), length)


def sample_chunk(
    make_kernel: MakeKernel,
    state: HMCState,
    failed: Tensor,
    context: tuple[Any, ...],
    options: Options,
    num_warmup: int,
    num_samples: int,
    variance: Tensor,
    generator: torch.Generator,
    report: Report,
) -> ChunkDraws:
    """Warm-up and draws of one chunk; arguments as for :func:`warm_up`, and ``failed``, chains without a start."""
    state, warmup = warm_up(make_kernel, state, context, options, num_warmup, variance, generator, report)
    chains, data = state.log_density.shape
    u = state.u.new_empty(chains, num_samples, data, state.u.shape[-1])
    stats = {name: u.new_empty(u.shape[:-1]) for name in ("acceptance", "energy", "log_density")}
    stats["diverging"] = torch.empty(u.shape[:-1], dtype=torch.bool, device=u.device)
    lengths = torch.empty(num_samples, dtype=torch.int64)
    accepted = torch.zeros_like(failed)
    for index in range(num_samples):
        count = num_leapfrogs(options, warmup.length, num_warmup + index)
        kernel = make_kernel(count)
        state, info = kernel(state, draw_noise(state.u, generator), warmup.parameters, *context)
        u[:, index] = state.u
        stats["acceptance"][:, index] = info.acceptance
        stats["energy"][:, index] = info.energy
        stats["log_density"][:, index] = state.log_density
        stats["diverging"][:, index] = info.diverging
        lengths[index] = count
        accepted |= info.accepted
        report(info, False)
    outcome = torch.full(failed.shape, int(ChainOutcome.OK), device=u.device)
    outcome[~accepted] = int(ChainOutcome.STUCK)
    outcome[stats["diverging"].all(1)] = int(ChainOutcome.DIVERGENT)
    outcome[failed] = int(ChainOutcome.NO_START)
    u.masked_fill_(failed[:, None, :, None], torch.nan)
    # These two are the same in every draw, or in every chain: views, not copies.
    stats["step_size"] = warmup.parameters.step_size.unsqueeze(1).expand(u.shape[:-1])
    stats["num_leapfrog"] = lengths.to(u.device)[:, None].expand(u.shape[:-1])
    return ChunkDraws(u, stats, outcome, warmup.parameters.inverse_mass)
