"""MATLAB files up to version 7, through scipy."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np

from .files import Array, read_errors
from ..core.errors import DataError, did_you_mean, try_one_of


def read_mat(path: Path, *, key: str | None = None) -> Array:
    """One numeric array of a .mat file, in its own axis order.

    Args:
        path: the file.
        key: its name in the file; may be left out if the file holds only one numeric array with two or more
            dimensions (and more than one value).

    Raises:
        DataError: unreadable, version 7.3, no such key, several arrays to choose from.
    """
    arrays = _numeric_arrays(path)
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
_READER = """
import io, sys, warnings
import numpy as np
from scipy.io import loadmat
warnings.simplefilter("ignore")
try:
    # From memory: a wrong header then cannot ask for more bytes than the file has.
    content = loadmat(io.BytesIO(sys.stdin.buffer.read()))
except NotImplementedError:
    sys.exit(3)
except Exception as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(4)
arrays = {
    f"array {name}": value
    for name, value in content.items()
    if not name.startswith("__") and isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
}
buffer = io.BytesIO()
np.savez(buffer, **arrays)
sys.stdout.buffer.write(buffer.getvalue())
"""


def _numeric_arrays(path: Path) -> dict[str, Array]:
    """Every numeric array of the file by name."""
    with read_errors(path, ".mat"):
        content = path.read_bytes()
        process = subprocess.run([sys.executable, "-I", "-c", _READER], input=content, capture_output=True, check=False)
        if process.returncode == 3:
            raise DataError(
                f"{path}: a .mat file of version 7.3 (HDF5)." + try_one_of("save it with -v7", "save it as .npy")
            )
        if process.returncode:
            lines = process.stderr.decode(errors="replace").strip().splitlines()
            crash = f"its reader crashed (signal {-process.returncode})"
            raise DataError(f"{path}: not readable as .mat: {lines[-1] if lines and process.returncode > 0 else crash}")
        with np.load(io.BytesIO(process.stdout), allow_pickle=False) as arrays:
            return {name.removeprefix("array "): arrays[name] for name in arrays.files}
