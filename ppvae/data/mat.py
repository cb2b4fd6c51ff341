"""MATLAB files up to version 7, through scipy."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from .files import Array, read_content, read_errors
from .limits import SHARE, Budget, file_limit
from ..core.bounds import in_words
from ..core.errors import DataError, did_you_mean, try_one_of


def read_cells(path: Path) -> dict[str, list[Array]]:
    """The cell arrays of a .mat file whose cells are numeric arrays, by name: a list of arrays each.

    Raises:
        DataError: as :func:`read_mat`.
    """
    cells: dict[str, list[Array]] = {}
    for name, value in _read(path, "cell ").items():
        cells.setdefault(name.rpartition(" ")[0], []).append(value)
    return cells


def read_mat(path: Path, *, key: str | None = None) -> Array:
    """One numeric array of a .mat file, in its own axis order.

    Args:
        path: the file.
        key: its name in the file; may be left out if the file holds only one numeric array with two or more
            dimensions (and more than one value).

    Raises:
        DataError: unreadable, more than the limit, version 7.3, no such key, several arrays to choose from.
    """
    arrays = _read(path, "array ")
    if key is not None:
        if key not in arrays:
            raise DataError(f"{path}: no numeric array {key!r}: {did_you_mean(key, arrays)}")
        return arrays[key]
    tables = [name for name, value in arrays.items() if value.ndim >= 2 and value.size > 1]
    if len(tables) != 1:
        shapes = {name: arrays[name].shape for name in tables}
        raise DataError(
            f"{path}: expected one numeric array, found {len(tables)}: {shapes}."
            + try_one_of(*(f"key={name!r}" for name in tables), "save the rows as .npy")
        )
    return arrays[tables[0]]


# Runs in a process of its own: scipy's reader is compiled code, which a hostile file can crash.
# What the file declares is compared with the limit first; what it holds beside that, with the memory of the process.
_READER = """
import io, json, math, sys, warnings
import numpy as np
from scipy.io import loadmat, whosmat
limit, memory, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
try:
    import os, resource
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    now = resource.getrlimit(resource.RLIMIT_AS)
    room = used + memory
    resource.setrlimit(resource.RLIMIT_AS, (room if now[0] == resource.RLIM_INFINITY else min(room, now[0]), now[1]))
except (ImportError, OSError, ValueError):  # not Linux
    pass
warnings.simplefilter("ignore")
sizes = {"int8": 1, "uint8": 1, "logical": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "single": 4}
try:
    # From memory: a wrong header then cannot ask for more bytes than the file has.
    stream = io.BytesIO(sys.stdin.buffer.read())
    total = 0
    for name, shape, dtype in whosmat(stream):
        total += math.prod(shape) * sizes.get(dtype, 8)
        if total > limit:
            print(json.dumps([name, list(shape), {1: "u1", 2: "u2", 4: "f4", 8: "f8"}[sizes.get(dtype, 8)]]))
            sys.exit(5)
    stream.seek(0)
    content = loadmat(stream)
except NotImplementedError:
    sys.exit(3)
except MemoryError as error:
    print("it takes more memory than the limit", file=sys.stderr)
    sys.exit(4)
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(4)
arrays = {name: value for name, value in content.items() if not name.startswith("__")}
if kind == "cell ":
    arrays = {
        f"{name} {place}": cell
        for name, value in arrays.items()
        if isinstance(value, np.ndarray) and value.dtype == object
        for place, cell in enumerate(value.ravel())
    }
numeric = {
    kind + name: value
    for name, value in arrays.items()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
}
np.savez(sys.stdout.buffer, **numeric)
"""


def _read(path: Path, kind: str) -> dict[str, Array]:
    """Every numeric array of the file by name; of the kind "cell " every numeric cell, by name and place."""
    content = read_content(path, ".mat")
    limit = file_limit()
    with read_errors(path, ".mat"):
        command = [sys.executable, "-I", "-c", _READER, str(limit), str(SHARE * limit // 2 + len(content)), kind]
        process = subprocess.run(command, input=content, capture_output=True, check=False)
        if process.returncode == 5:
            name, shape, kind = json.loads(process.stdout)
            Budget(path).declare(tuple(shape), kind, f"{path}[{name!r}]")
            raise DataError(f"{path}: its arrays up to {name!r} declare more than the limit of {in_words(limit)}.")
        if process.returncode == 3:
            raise DataError(
                f"{path}: a .mat file of version 7.3 (HDF5)." + try_one_of("save it with -v7", "save it as .npy")
            )
        if process.returncode:
            lines = process.stderr.decode(errors="replace").strip().splitlines()
            crash = f"its reader crashed (signal {-process.returncode})"
            raise DataError(f"{path}: not readable as .mat: {lines[-1] if lines and process.returncode > 0 else crash}")
        with np.load(io.BytesIO(process.stdout), allow_pickle=False) as arrays:
            return {name.removeprefix(kind): arrays[name] for name in arrays.files}
