"""Log-weights of many draws in bounded memory: only [K, B] numbers are kept, not the latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import Memory
from .run import EvidenceRun
from ...core import Data, ModelGuidePair, draw, log_joint

# The guide is run anew for every group of samples, so a group should not be small.
_AT_ONCE = 64
_ONE_BY_ONE = 8
_STEADY = 5  # log-weights, their float64 copy and the diagnostics' own copies, in units of eight bytes


def sampling_memory(run: EvidenceRun, num_samples: int) -> Memory:
    """The log-weights stay; at least one lane is computed at once."""
    return Memory(8.0 * _STEADY * num_samples + run.bytes_per_datum, run.bytes_per_lane, min(num_samples, _AT_ONCE))


def collect(
    run: EvidenceRun,
    pair: ModelGuidePair,
    x: Data,
    name: str,
    log_weights: Callable[[ModelGuidePair, Data, int], Tensor],
    num_samples: int,
    keep: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """Log-weights [K, B] of a chunk, as many samples at a time as the memory holds.

    Args:
        run: where and how.
        pair: the caller's, or rewired from it.
        x: the chunk, [B, *event].
        name: of the captured function.
        log_weights: (pair, x, k) -> [k, B], or [k, *, B]; [k, B, *] where ``keep`` takes it.
        num_samples: K.
        keep: reduces the result of ``log_weights`` for a group of samples to [k, *, B].
    """
    batch = run.batch_of(x)
    lanes = max(1, run.lanes // batch)
    if not pair.vectorizes:
        lanes = min(lanes, _ONE_BY_ONE)  # the graph holds the program once for each
    steps = -(-num_samples // lanes)
    size = -(-num_samples // steps)
    lanes = size * batch
    call = run.remember(f"{name} x{size}", lambda x: log_weights(pair, x, size), calls=steps, lanes=lanes)
    parts = []
    for _ in range(steps):
        parts.append(keep(call(x)))
        run.tick(batch / steps)
    return torch.cat(parts)[:num_samples]


def guide_weights(pair: ModelGuidePair, x: Data, num_samples: int) -> Tensor:
    """log p(x, z) - log q(z | x) of draws from the guide, [K, B], nats."""
    draws = draw(pair, x, num_samples)
    return log_joint(pair, x, draws.latents).local - draws.log_q
