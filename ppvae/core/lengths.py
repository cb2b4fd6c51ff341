"""Which steps of a padded sequence are data, and how many steps a batch needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

_KNOWN: ContextVar[int | None] = ContextVar("longest", default=None)


def present(lengths: Tensor, num_steps: int) -> Tensor:
    """Which time steps are no padding, bool [*S, T], at lengths [*S]: those before the length."""
    return torch.arange(num_steps, device=lengths.device) < lengths[..., None]


def longest(inside: Tensor) -> int:
    """A number of steps after which all is padding: that of the longest sequence, or T where that is not known.

    It is known where it was told (:func:`no_longer_than`), and in an eager run on the CPU; elsewhere it would be a wait
    for a GPU, or a branch on a value in a recorded graph.

    Args:
        inside: which steps are no padding, bool [*S, T], the first always.
    """
    num_steps, told = inside.shape[-1], _KNOWN.get()
    if told is not None:
        return min(told, num_steps)
    if get_proxy_mode() is not None or torch._C._are_functorch_transforms_active() or inside.device.type != "cpu":
        return num_steps
    return max(int(inside.reshape(-1, num_steps).any(0).nonzero().max()) + 1, 1)


def bucket_of(lengths: Iterable[Tensor]) -> int | None:
    """The longest of these lengths, rounded up to one of four numbers between a power of two and the next.

    Few numbers, because a graph is recorded for each. None where there are no lengths, or where to read them would be a
    wait for a GPU.
    """
    lengths = tuple(lengths)
    if not lengths or any(value.device.type != "cpu" for value in lengths):
        return None
    steps = max(int(value.max()) for value in lengths)
    unit = 1 << max(steps.bit_length() - 3, 0)
    return -(-steps // unit) * unit


@contextlib.contextmanager
def no_longer_than(steps: int | None) -> Iterator[None]:
    """Inside, no sequence has more steps than these; None says nothing."""
    token = _KNOWN.set(steps)
    try:
        yield
    finally:
        _KNOWN.reset(token)
