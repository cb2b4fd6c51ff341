"""Which entries of data are seen: halves, a box, a share at random, a coarse grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ..execution.arguments import require_integer
from ...core import DataError
from ...core.errors import did_you_mean, try_one_of

Region = Literal["left", "right", "top", "bottom", "box"]


def hide(shape: Sequence[int], what: Region | float, *, num: int | None = None, seed: int = 0) -> Tensor:
    """A mask for :func:`inpaint`: True where an entry is seen.

    Args:
        shape: of one datum: [H, W], with an axis of 1 or 3 colours first or last, or [D] (which has a left and a right
            half alone).
        what: is hidden: a half; "box", the middle half of both axes; or the share of entries, in (0, 1], each hidden
            with this probability.
        num: number of data N, for a mask of its own for each; None for one mask that all share.
        seed: of entries hidden at random.

    Returns:
        bool [*shape], or [N, *shape].

    Raises:
        DataError: an unknown region, one that the shape does not have, or a share out of range.

    >>> hide([2, 4], "left").tolist()
    [[False, False, True, True], [False, False, True, True]]
    """
    lead = [] if num is None else [num]
    if not isinstance(what, str):
        if not 0 < what <= 1:
            raise DataError(f"hide: expected a share of entries in (0, 1], found {what}")
        return torch.rand([*lead, *shape], generator=torch.Generator().manual_seed(seed)) >= what
    if what not in get_args(Region):
        raise DataError(f"hide: unknown region {what!r}: {did_you_mean(what, get_args(Region))}")
    axes = _axes(shape)
    if len(axes) == 1 and what not in ("left", "right"):
        raise DataError(
            f"hide: {what!r} needs rows and columns, found data of shape {list(shape)}"
            + try_one_of('"left" or "right"', "a share of entries, such as 0.5", "a mask of your own")
        )
    hidden = torch.ones(list(shape), dtype=torch.bool)
    for axis in axes if what == "box" else [axes[0] if what in ("top", "bottom") else axes[-1]]:
        size = shape[axis]
        first = {"box": size // 4, "right": size - size // 2, "bottom": size - size // 2}.get(what, 0)
        length = size - 2 * (size // 4) if what == "box" else size // 2
        inside = torch.zeros(size, dtype=torch.bool)
        inside[first : first + length] = True
        hidden &= inside.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return (~hidden).expand([*lead, *shape])


def coarse_grid(shape: Sequence[int], factor: int) -> Tensor:
    """A mask for super-resolution by :func:`inpaint`: of both axes every ``factor``-th pixel is seen.

    The picture that was sampled is known exactly at the grid and nowhere else, which is a mask, and exact for every
    likelihood whose entries are independent. Averages of blocks are no mask: they tie entries to each other.

    Args:
        shape: of one datum, as for :func:`hide`.
        factor: k, at least 2; 1 / k² of a picture's pixels are seen (1 / k of a row's entries).

    Returns:
        bool [*shape]; the grid begins at k // 2, so that it lies in the middle of its blocks.

    Raises:
        DataError: a factor below 2, or larger than an axis.

    >>> coarse_grid([4], 2).tolist()
    [False, True, False, True]
    """
    require_integer("factor", factor, 2)
    seen = torch.ones(list(shape), dtype=torch.bool)
    for axis in _axes(shape):
        if factor > shape[axis]:
            raise DataError(
                f"coarse_grid: expected a factor of at most {shape[axis]}, the size of axis {axis}, found {factor}"
            )
        line = torch.arange(shape[axis]) % factor == factor // 2
        seen &= line.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return seen


def _axes(shape: Sequence[int]) -> list[int]:
    """Height and width, the colours left out; of a row its only axis."""
    if len(shape) == 3 and (shape[0] in (1, 3) or shape[-1] in (1, 3)):
        return [1, 2] if shape[0] in (1, 3) else [0, 1]
    if len(shape) not in (1, 2):
        raise DataError(f"a mask: expected data of shape [D], [H, W] or one with 1 or 3 colours, found {list(shape)}")
    return list(range(len(shape)))
