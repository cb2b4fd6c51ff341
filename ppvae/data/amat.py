"""The .amat text format: one datum a line, numbers separated by blanks; parsed once, then cached."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .files import Array, read_cache, read_content, read_errors, verify, write_cache
from .limits import Budget, file_limit
from ..core.bounds import in_words
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
        DataError: not text, more than the limit, rows of different lengths, not numbers, wrong checksum or shape.
    """
    with read_errors(path, ".amat"), path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    # The expected checksum is part of the key: an entry was verified with this one only.
    digest.update((checksum or "").encode())
    key = digest.hexdigest()
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
    """The array of the text; single digits by whole-array arithmetic, anything else by numpy's C parser.

    Its first line and its line breaks declare its shape.
    """
    if not content or content.isspace():
        raise DataError(f"{path}: empty, no rows.")
    digits = _single_digits(content)
    if digits is not None:
        return digits
    with read_errors(path, ".amat"), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            shape = content.count(b"\n") + (not content.endswith(b"\n")), _count_words(_first_line(content))
            Budget(path).declare(shape, np.float64)
            return np.loadtxt(_lines(content, path), dtype=np.float64, ndmin=2, comments=None, encoding="ascii")
        except DataError:
            raise
        except ValueError as error:
            raise DataError(
                f"{path}: not a table of numbers: {error}."
                + try_one_of("separate the numbers by blanks, with the same count in each line")
            ) from error


def _first_line(content: bytes) -> bytes:
    end = content.find(b"\n")
    return content if end < 0 else content[:end]


def _count_words(line: bytes) -> int:
    """How many words a line has; to split it would take thirty times its bytes."""
    text = np.frombuffer(line, np.uint8) > ord(" ")
    return int((text[1:] > text[:-1]).sum()) + int(text[:1].sum())


def _lines(content: bytes, path: Path) -> Iterator[bytes]:
    """Lines; one that the parser, which takes some fifteen times its bytes, has no room for is an error."""
    longest = file_limit() // 16
    for line in io.BytesIO(content):
        if len(line) > longest:
            raise DataError(
                f"{path}: a line of {in_words(len(line))}, the limit of one datum is {in_words(longest)}."
                + try_one_of("one datum a line", "save the rows as .npy")
            )
        yield line


def _single_digits(content: bytes) -> Array | None:
    """The array, if every line is digits at every second place and all lines are equally long; else None."""
    text = np.frombuffer(content, np.uint8)
    line = _first_line(content)
    columns = _count_words(line)
    # A line is "d d ... d" + newline, perhaps with one blank before the newline.
    for width in (2 * columns, 2 * columns + 1):
        if columns == 0 or len(line) + 1 != width:
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
