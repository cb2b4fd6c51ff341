"""How much a file may hold: what it declares and what it unzips to are compared with one limit, before it is read.

The limit is a share of :func:`ppvae.core.bounds.memory_limit`; the environment variable ``PPVAE_MEMORY`` raises it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..core.bounds import in_words, irregular, memory_limit, memory_remedy
from ..core.errors import DataError, try_one_of

SHARE = 4
"""A file may take one part in so many of the memory: while rows are converted there are up to three copies of them."""

_NPY = "the rows as an uncompressed .npy file, which is mapped into memory and not read"


def file_limit() -> int:
    """Bytes that the arrays of one file may have together, and that its text may unzip to."""
    return memory_limit() // SHARE


class Budget:
    """The running count of what one file holds, or data that something else reads.

    Attributes:
        path: the file, or a name of the data.
        limit: bytes, see :func:`file_limit`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path, self.limit = path, file_limit()
        self._held = self._read = 0

    def declare(self, shape: tuple[int, ...], dtype: Any, where: str | None = None) -> int:
        """Count an array before it is allocated.

        Args:
            shape: of the array.
            dtype: of the array.
            where: how an error calls it; None for the path.

        Returns:
            its bytes.

        Raises:
            DataError: the arrays declared so far are more than the limit.
        """
        kind = np.dtype(dtype)
        size = int(math.prod(shape) * kind.itemsize)
        self.hold(size, f"declares an array of {' x '.join(map(str, shape)) or '1'} {kind}", where)
        return size

    def hold(self, size: int, what: str, where: str | None = None) -> None:
        """Count bytes that something in the file will take.

        Raises:
            DataError: all that was counted so far is more than the limit.
        """
        before, self._held = self._held, self._held + size
        if self._held > self.limit:
            beside = f", beside {in_words(before)} of the same file" if before else ""
            raise self._error(where or str(self.path), f"{what}, {in_words(size)}{beside}", self._held)

    def read(self, size: int) -> None:
        """Count bytes that came out of the file, unzipped.

        Raises:
            DataError: they are more than the limit.
        """
        self._read += size
        if self._read > self.limit:
            raise self._error(
                str(self.path), f"holds more than {in_words(self.limit)}, counted unzipped", 2 * self._read
            )

    def _error(self, where: str, what: str, size: int) -> DataError:
        return DataError(
            f"{where}: {what}: the limit is {in_words(self.limit)}, one part in {SHARE} of the memory."
            + try_one_of(memory_remedy(size * SHARE), _NPY)
        )


def require_file(path: Path) -> None:
    """Raise a DataError where a path leads to a FIFO, a device, a socket or a folder: none of them is opened."""
    kind = irregular(path)
    if kind is not None:
        raise DataError(f"{path}: {kind}, not a file." + try_one_of("a copy of its content in a file"))
