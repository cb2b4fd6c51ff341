"""Seeded splits into training, validation and test rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .files import Array
from ..core.errors import DataError, try_one_of

Rows = NDArray[np.int64]


def split_rows(n: int, validation: int, test: int, *, seed: int = 0, strata: Array | None = None) -> list[Rows]:
    """Row numbers of the training, validation and test part: disjoint, covering 0..n-1, each ascending.

    Drawn with numpy's ``RandomState``, whose stream is frozen, so that a split is the same under every
    version.

    Args:
        n: rows.
        validation: how many of them are held out for validation.
        test: how many of them are held out for the test.
        seed: of the permutation.
        strata: ``[n]`` class of each row; each part then holds every class in proportion, to within two
            rows a class.
    """
    order = np.random.RandomState(seed).permutation(n).astype(np.int64)
    if strata is not None:
        # Where a row stands within its (shuffled) class, as a fraction: sorting by it deals them out evenly.
        fraction = np.empty(n)
        classes = np.asarray(strata)[order]
        for value in np.unique(classes):
            where = np.flatnonzero(classes == value)
            fraction[where] = (np.arange(len(where)) + 0.5) / len(where)
        order = order[np.argsort(fraction, kind="stable")]
    cuts = np.split(order, [validation, validation + test])
    return [np.sort(cuts[2]), np.sort(cuts[0]), np.sort(cuts[1])]


def count_of(size: float | int | None, n: int, name: str) -> int:
    """A held-out size as a number of rows: a fraction in (0, 1), a count, or None for no rows.

    >>> count_of(0.25, 200, "x"), count_of(30, 200, "x"), count_of(None, 200, "x")
    (50, 30, 0)
    """
    if size is None:
        return 0
    if isinstance(size, bool) or not isinstance(size, int | float):
        raise DataError(f"{name}: a held-out part is a fraction or a number of rows, found {size!r}.")
    if isinstance(size, int) and 0 <= size < n:
        return size
    if isinstance(size, float) and 0 <= size < 1:
        count = round(size * n)
        if count or not size:
            return count
    raise DataError(
        f"{name}: cannot hold out {size} of {n} rows."
        + try_one_of("a fraction between 0 and 1, for instance 0.1", f"a whole number below {n}")
    )
