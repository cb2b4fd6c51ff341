"""Reading bytes that may be damaged or hostile, checking them, keeping parsed copies in a cache folder."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .limits import Budget
from ..core.bounds import in_words
from ..core.errors import DataError, PpvaeError, try_one_of

Array = NDArray[Any]

_log = logging.getLogger("ppvae.data")

GZIP_MAX_RATIO = 1032
"""Deflate cannot expand further than this: a header that promises more than the file can hold is wrong."""

PIECE = 2**20
"""Bytes that are read at once."""


@dataclass(frozen=True)
class Arrays:
    """The arrays of a file (or a named set) before it becomes a Dataset: rows, labels, and held-out parts.

    Or ``members``, by name, that share axis 0 (data and covariates); ``x`` is then the first of them.
    ``feature_names`` are those of the last axis of the rows, for all parts.
    """

    x: Array
    labels: Array | None = None
    validation: Arrays | None = None
    test: Arrays | None = None
    memory_mapped: bool = False
    members: Mapping[str, Array] | None = None
    feature_names: tuple[str, ...] | None = None

    @classmethod
    def of_members(cls, members: Mapping[str, Array], labels: Array | None = None) -> Arrays:
        """Members by name."""
        return cls(next(iter(members.values())), labels, members=members)

    @property
    def parts(self) -> dict[str, Arrays]:
        """The parts that exist, by name: "train", then "validation" and "test"."""
        parts = {"train": self, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}

    def rows(self, index: Any) -> Arrays:
        """Some of the rows, of all members and of the labels; without held-out parts."""
        return replace(
            self,
            x=self.x[index],
            labels=None if self.labels is None else self.labels[index],
            validation=None,
            test=None,
            members=None if self.members is None else {key: value[index] for key, value in self.members.items()},
        )


@contextmanager
def read_errors(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever a reader raises on damaged bytes into a DataError that names the file."""
    try:
        yield
    except PpvaeError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file." + try_one_of("check the spelling and the folder")) from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: cannot be opened: {error.strerror}.") from error
    except MemoryError as error:
        raise DataError(
            f"{path}: reading it takes more memory than there is ({str(error) or 'no room'})."
            + try_one_of("a smaller file", "the rows as .npy, which is mapped into memory and not read")
        ) from error
    except Exception as error:  # a hostile file can make a parser raise anything
        raise DataError(
            f"{path}: not readable as {kind} ({type(error).__name__}: {error})."
            + try_one_of("fetch the file again, it may be truncated", "rename it if its suffix is not its format")
        ) from error


def is_gzip(path: Path) -> bool:
    """By the name, as everywhere in this room."""
    return path.suffix.lower() == ".gz"


def capacity(path: Path) -> int:
    """How many bytes a file can hold at most, after unzipping; nothing larger is ever allocated."""
    return path.stat().st_size * (GZIP_MAX_RATIO if is_gzip(path) else 1)


class BoundedStream(io.RawIOBase):
    """The bytes of a file, unzipped if it ends in ``.gz``, counted as they come.

    Args:
        path: the file.
        longest_line: bytes that a line may have; None for any number.
    """

    def __init__(self, path: Path, *, longest_line: int | None = None) -> None:
        self._path, self._budget, self._longest_line = path, Budget(path), longest_line
        self._line = 0  # bytes of the last line so far
        self._file: Any = gzip.open(path) if is_gzip(path) else path.open("rb")  # noqa: SIM115

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, into a buffer.

        Raises:
            DataError: they are more than the limit, or a line is too long.
        """
        size = int(self._file.readinto(buffer))
        self._budget.read(size)
        if self._longest_line is not None:
            piece = bytes(memoryview(buffer)[:size])
            end = piece.rfind(b"\n")
            self._line = self._line + size if end < 0 else size - end - 1
            if self._line > self._longest_line:
                raise DataError(
                    f"{self._path}: a line of more than {in_words(self._longest_line)}, the limit of one datum."
                    + try_one_of("one datum a line", "save the rows as .npy")
                )
        return size

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def read_content(path: Path, kind: str) -> bytes:
    """The bytes of a file, unzipped if it ends in ``.gz``, in pieces.

    Raises:
        DataError: they are more than the limit (:func:`ppvae.data.limits.file_limit`), or unreadable.
    """
    buffer = io.BytesIO()
    with read_errors(path, kind), BoundedStream(path) as stream:
        while piece := stream.read(PIECE):
            buffer.write(piece)
    return buffer.getvalue()


def read_values(stream: Any, size: int) -> NDArray[np.uint8]:
    """So many bytes of a stream, fewer where it ends before; the memory of one copy, also where it unzips."""
    values = np.empty(size, np.uint8)
    view, at = memoryview(values.data), 0
    while at < size and (count := stream.readinto(view[at : at + PIECE])):
        at += count
    return values[:at]


def verify(content: bytes, path: Path, checksum: str | None, *more: Any) -> None:
    """Compares (unzipped) content, and more bytes after it, with ``"sha256:..."`` or ``"md5:..."``."""
    if checksum is None:
        return
    algorithm, expected = checksum.split(":")
    hasher = hashlib.new(algorithm, content, usedforsecurity=False)
    for part in more:
        hasher.update(part)
    digest = hasher.hexdigest()
    if digest != expected:
        raise DataError(
            f"{path}: wrong checksum: expected {algorithm} {expected} of the unzipped content, found {digest}."
            + try_one_of("delete the file and fetch it again")
        )


def cache_folder() -> Path:
    """``PPVAE_CACHE`` if it is set, else the user's cache folder for ppvae; it need not exist."""
    override = os.environ.get("PPVAE_CACHE")
    if override:
        return Path(override)
    import pooch

    return Path(pooch.os_cache("ppvae"))


def read_cache(key: str) -> Array | None:
    """The parsed array in the cache under ``key``, or None if there is none or its checksum is wrong."""
    path = cache_folder() / "parsed" / f"{key}.npy"
    try:
        content = path.read_bytes()
        expected = path.with_suffix(".sha256").read_text().strip()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != expected:
        _log.warning("%s: damaged cache entry, parsing the original again.", path)
        return None
    with read_errors(path, ".npy"):
        import io

        array: Array = np.load(io.BytesIO(content), allow_pickle=False)
        return array


def write_cache(key: str, array: Array) -> None:
    """Write a parsed array to the cache under ``key``; an unwritable cache folder is logged, and no error."""
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    path = cache_folder() / "parsed" / f"{key}.npy"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
        write_atomically(path.with_suffix(".sha256"), hashlib.sha256(content).hexdigest().encode())
    except OSError as error:
        _log.warning("%s: not cached: %s", path, error)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes under a temporary name, syncs, renames: a reader sees the old file or the new, never a half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
