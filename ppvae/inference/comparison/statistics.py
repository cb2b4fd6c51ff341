"""Statistics of repeated values and steps: means and variances with their errors, and seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

Key = TypeVar("Key")


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of independent values, [R], and its standard error."""
    values = values.double()
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def variance_and_error(values: Tensor) -> tuple[float, float]:
    r"""The variance of independent values, [R], and its standard error $\sqrt{(m_4 - s^4 (R-3)/(R-1)) / R}$."""
    values = values.double()
    count, variance = len(values), float(values.var())
    fourth = float((values - values.mean()).pow(4).mean())
    return variance, math.sqrt(max(fourth - variance**2 * (count - 3) / (count - 1), 0.0) / count)


def seconds_of(
    steps: Mapping[Key, Callable[[], object]],
    rounds: int,
    *,
    calls: int = 1,
    warm_up: int = 2,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Seconds of one call of each step, round by round.

    The steps take turns, so that other load on the machine affects them equally.

    Args:
        steps: functions to time.
        rounds: timed rounds.
        calls: calls of a step in a round; their mean counts.
        warm_up: rounds before, for capture and caches, that do not count.
        device: where the steps run; a GPU is synchronised.
        clock: ``time.process_time`` for the processor's time, in which a busy machine's other work does not count.
    """

    def now() -> float:
        if device is not None and device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    seconds: dict[Key, list[float]] = {key: [] for key in steps}
    for turn in range(warm_up + rounds):
        for key, step in steps.items():
            start = now()
            for _ in range(calls):
                step()
            if turn >= warm_up:
                seconds[key].append((now() - start) / calls)
    return seconds
