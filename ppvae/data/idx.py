"""The IDX format of the MNIST files: two zero bytes, a type, the number of dimensions, these, the values."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np

from .files import Array, capacity, is_gzip, read_errors, read_values, verify
from .limits import Budget
from ..core.errors import DataError, try_one_of

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_DIMS = 8


def read_idx(path: Path, *, checksum: str | None = None, shape: tuple[int, ...] | None = None) -> Array:
    """The array of an IDX file, unzipped if it ends in ``.gz``, in native byte order.

    The size in the header is compared with what the file can hold, and with the limit, before anything is allocated.

    Args:
        path: the file.
        checksum: ``"sha256:..."`` of the unzipped content, or None.
        shape: the expected dimensions, or None.

    Raises:
        DataError: not IDX, more than the limit, truncated, longer than its header says, wrong checksum or shape.
    """
    with read_errors(path, "IDX"), gzip.open(path) if is_gzip(path) else path.open("rb") as stream:
        magic = stream.read(4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= _MAX_DIMS:
            raise DataError(
                f"{path}: not an IDX file: expected 00 00, a type and 1 to {_MAX_DIMS} dimensions, found "
                f"{magic.hex(' ') or 'nothing'}." + try_one_of("name it .gz if it is zipped", "fetch it again")
            )
        header = stream.read(4 * magic[3])
        if len(header) < 4 * magic[3]:
            raise DataError(f"{path}: truncated in its header, after {4 + len(header)} bytes.")
        dims = tuple(int(size) for size in np.frombuffer(header, ">u4"))
        dtype = np.dtype(TYPES[magic[2]])
        expected = math.prod(dims) * dtype.itemsize
        if expected > capacity(path):
            raise DataError(f"{path}: its header promises {expected} bytes {dims}, more than the file can hold.")
        if shape is not None and dims != shape:
            raise DataError(f"{path}: expected shape {shape}, found {dims}.")
        Budget(path).declare(dims, dtype)
        values = read_values(stream, expected)
        more = stream.read(1)  # the end of the file is where zip checks its checksum
        if len(values) != expected or more:
            problem = "truncated" if len(values) < expected else "too long"
            raise DataError(
                f"{path}: {problem}: shape {dims} needs {expected} bytes of values, found "
                f"{len(values) if problem == 'truncated' else 'more'}." + try_one_of("fetch the file again")
            )
        verify(magic + header, path, checksum, values)
        return values.view(dtype).reshape(dims).astype(dtype.newbyteorder("="), copy=False)
