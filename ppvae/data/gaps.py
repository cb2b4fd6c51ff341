"""Rows with missing values: 0 where a value is NaN, and beside them which values are there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .dataset import Dataset, main_of
from .files import Array, Arrays
from ..core.errors import DataError, try_one_of

SEEN = "seen"
"""The member that says which values are there, in every set with gaps."""


def fill(arrays: Arrays, source: str) -> tuple[Arrays, Array]:
    """The rows with 0 in the gaps of the main member, and which of its values are there, of its shape.

    Args:
        arrays: of a file; their held-out parts are left as they are.
        source: how an error calls it.

    Raises:
        DataError: a memory map, which would be read whole; a member called "seen" already.
    """
    if arrays.memory_mapped:
        raise DataError(
            f"{source}: memory-mapped; gaps=True would read it whole."
            + try_one_of("an .npz file of x with 0 in the gaps and of seen: numpy.savez(path, x=x, seen=seen)")
        )
    members = {"x": arrays.x} if arrays.members is None else dict(arrays.members)
    if SEEN in members:
        raise DataError(f"{source}: holds a member {SEEN!r} already." + try_one_of("leave gaps=True out"))
    main = main_of(members)
    x = members[main]
    seen = ~np.isnan(x) if x.dtype.kind == "f" else np.ones(x.shape, bool)
    members[main] = x if seen.all() else np.where(seen, x, 0)
    first = next(iter(members.values()))
    return replace(arrays, x=first, members=None if arrays.members is None else members), seen


def with_seen(data: Dataset, seen: Array) -> Dataset:
    """The data with the member "seen" beside the main one."""
    shape = data.members[data.main].shape
    return replace(data, x={**data.members, SEEN: torch.from_numpy(seen).reshape(shape)})
