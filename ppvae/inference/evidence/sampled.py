"""Log-weights of many draws in bounded memory: latents come and go, only [K, B] numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .run import Run
from ...core import Data, ModelGuidePair

_STEADY = 5  # log-weights, their float64 copy and what the diagnostics make of it, in units of eight bytes


def sampled_memory(run: Run, num_samples: int) -> tuple[float, float]:
    """Bytes that stay per datum, and bytes for one lane."""
    return 8.0 * _STEADY * num_samples + run.bytes_per_datum, run.bytes_per_lane


def collect(
    run: Run,
    x: Data,
    name: str,
    log_weights: Callable[[ModelGuidePair, Data, int], Tensor],
    num_samples: int,
    *,
    rewire: Callable[[ModelGuidePair], ModelGuidePair] | None = None,
) -> Tensor:
    """Log-weights [K, B] of a chunk, as many samples at a time as the memory holds.

    Args:
        run: where and how.
        x: the chunk, [B, *event].
        name: of the captured function.
        log_weights: (pair, x, k) -> [k, B].
        num_samples: K.
        rewire: applied to the pair once, before capture.
    """
    batch = run.batch_of(x)
    lanes = max(1, run.lanes // batch)
    steps = -(-num_samples // lanes)
    size = -(-num_samples // steps)
    call = run.capture(
        f"{name} x{size}",
        lambda pair, x: log_weights(pair, x, size),
        rewire=rewire,
        calls=steps,
        lanes=size * batch,
    )
    parts = []
    for _ in range(steps):
        parts.append(call(x))
        run.tick(batch / steps)
    return torch.cat(parts)[:num_samples]
