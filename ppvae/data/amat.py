"""The .amat text format: one datum a line, numbers separated by blanks; parsed once, then cached."""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np

from .files import Array, read_cache, read_content, read_errors, verify, write_cache
from ..core.errors import DataError, try_one_of


def read_amat(path: Path, *, checksum: str | None = None, shape: tuple[int, ...] | None = None) -> Array:
    """The rows of an .amat file (``.gz`` too): uint8 if it holds single digits only, else float64.

    The parsed array is cached under the SHA-256 of the file as it stands on disk, so a second call neither unzips,
    verifies nor parses.

    Args:
        path: the file.
        checksum: ``"md5:..."`` of the unzipped text, or None.
        shape: the expected rows and columns, or None.

    Raises:
        DataError: not text, rows of different lengths, not numbers, wrong checksum or shape.
    """
    with read_errors(path, ".amat"):
        raw = path.read_bytes()
    # The expected checksum is part of the key: an entry was verified with this one only.
    key = hashlib.sha256(raw + (checksum or "").encode()).hexdigest()
    array = read_cache(key)
    if array is None:
        content = read_content(path, ".amat")
        verify(content, path, checksum)
        array = parse_amat(content, path)
        if array.size >= 1_000_000:
            write_cache(key, array)
    if shape is not None and array.shape != shape:
        raise DataError(f"{path}: expected {shape} values, found {array.shape}.")
    return array


def parse_amat(content: bytes, path: Path) -> Array:
    """The array of the text; single digits by whole-array arithmetic, anything else by numpy's C parser."""
    if not content.strip():
        raise DataError(f"{path}: empty, no rows.")
    digits = _single_digits(content)
    if digits is not None:
        return digits
    with read_errors(path, ".amat"), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.loadtxt(io.BytesIO(content), dtype=np.float64, ndmin=2, comments=None, encoding="ascii")
        except ValueError as error:
            raise DataError(
                f"{path}: not a table of numbers: {error}."
                + try_one_of("separate the numbers by blanks, with the same count in each line")
            ) from error


def _single_digits(content: bytes) -> Array | None:
    """The array, if every line is digits at every second place and all lines are equally long; else None."""
    text = np.frombuffer(content, np.uint8)
    lines = content.split(b"\n", 1)
    columns = len(lines[0].split())
    # A line is "d d ... d" + newline, perhaps with one blank before the newline.
    for width in (2 * columns, 2 * columns + 1):
        if columns == 0 or len(lines[0]) + 1 != width:
            continue
        if text[-1] != ord("\n"):
            text = np.append(text, np.uint8(ord("\n")))
        if text.size % width:
            return None
        table = text.reshape(-1, width)
        values, gaps = table[:, 0 : 2 * columns : 2], table[:, 1 : 2 * columns - 1 : 2]
        tail = table[:, 2 * columns - 1 :]
        proper_tail = tail[:, -1] == ord("\n")
        if width == 2 * columns + 1:
            proper_tail &= tail[:, 0] == ord(" ")
        if not (proper_tail.all() and (gaps == ord(" ")).all()):
            return None
        if not ((values >= ord("0")) & (values <= ord("9"))).all():
            return None
        return np.ascontiguousarray(values - ord("0"))
    return None
