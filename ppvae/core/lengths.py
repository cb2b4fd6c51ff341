"""Which steps of a padded sequence are data, and how many steps a batch needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


class _Told(NamedTuple):
    """No sequence of these lengths has more steps than these; the masks that were made of the lengths."""

    steps: int
    lengths: tuple[Tensor, ...]
    masks: list[Tensor]


_TOLD: ContextVar[_Told | None] = ContextVar("told", default=None)


def present(lengths: Tensor, num_steps: int) -> Tensor:
    """Which time steps are no padding, bool [*S, T], at lengths [*S]: those before the length."""
    mask = torch.arange(num_steps, device=lengths.device) < lengths[..., None]
    if (told := _TOLD.get()) is not None and any(lengths is known for known in told.lengths):
        told.masks.append(mask)
    return mask


def longest(inside: Tensor) -> int:
    """A number of steps after which all is padding: that of the longest sequence, or T where that is not known.

    It is known of lengths that were told (:func:`no_longer_than`), and in an eager run on the CPU; elsewhere it would
    be a wait for a GPU, or a branch on a value in a recorded graph.

    Args:
        inside: which steps are no padding, bool [*S, T], the first always.
    """
    num_steps, told = inside.shape[-1], _TOLD.get()
    if told is not None and any(inside is mask for mask in told.masks):
        return min(told.steps, num_steps)
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
def no_longer_than(steps: int | None, lengths: Iterable[Tensor]) -> Iterator[None]:
    """Inside, no sequence of these lengths has more steps than these; None says nothing.

    That holds for :func:`present` of these very tensors; of lengths that a program computes, nothing is known.
    """
    token = _TOLD.set(None if steps is None else _Told(steps, tuple(lengths), []))
    try:
        yield
    finally:
        _TOLD.reset(token)
