"""Files that are whole or absent: written under a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.bounds import in_words, irregular
from ...core.errors import RunError, try_one_of

LONGEST_TEXT = 100 * 10**6
"""Bytes of a recipe, or of a file of JSON, that is read; a parser takes many times as much memory."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash at any moment, and for a reader, its content is the old or the new.

    Raises:
        RunError: the file cannot be written (names it and says why).
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read; a result has the permissions of its folder's files.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written: {error.strerror or error}"
            + try_one_of("a folder that you may write to", "room on the disk")
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def make_folder(path: Path) -> None:
    """Make a folder and its absent parents, synced, so that a power cut does not lose them.

    Raises:
        RunError: it cannot be made (names it and says why).
    """
    try:
        absent = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"{path}: cannot be made: {error.strerror or error}" + try_one_of("a folder that you may write to")
        ) from error
    for folder in reversed(absent):
        _sync_folder(folder.parent)


def write_text(path: Path, content: str) -> None:
    """As :func:`write_bytes`, in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """As :func:`write_text`; numbers that are not finite become null, as JSON has none."""
    write_text(path, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def require_short_file(path: Path) -> None:
    """Raise a RunError where a path leads to a FIFO, a device or a file that is too long to parse."""
    kind = irregular(path)
    if kind is not None:
        raise RunError(f"{path}: {kind}, not a file")
    size = path.stat().st_size if path.exists() else 0
    if size > LONGEST_TEXT:
        raise RunError(f"{path}: has {in_words(size)}, more than the limit of {in_words(LONGEST_TEXT)}")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        RunError: no such file, one that is too long, or no JSON in it.
    """
    require_short_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not valid JSON: {error}") from error


def plain(value: Any) -> Any:
    """A value as JSON can hold it: tuples as lists, keys as strings, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # The rename itself survives a power cut only once the folder is synced; not every system can.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
