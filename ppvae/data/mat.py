"""MATLAB files up to version 7, through scipy."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .files import Array, reading
from ..core.errors import DataError, did_you_mean, try_one_of


def read_mat(path: Path, *, key: str | None = None) -> Array:
    """One numeric array of a .mat file, rows first as they stand there.

    Args:
        path: the file.
        key: its name in the file; may be left out if the file holds only one numeric array with two or more
            dimensions (and more than one value).

    Raises:
        DataError: unreadable, version 7.3, no such key, several arrays to choose from.
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"{path}: .mat files need scipy." + try_one_of("pip install scipy")) from error
    with reading(path, ".mat"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # From memory: a lying header then cannot ask for more bytes than the file has.
            stream: Any = io.BytesIO(path.read_bytes())
            found = loadmat(stream)
        except NotImplementedError as error:
            raise DataError(
                f"{path}: a .mat file of version 7.3 (HDF5)." + try_one_of("save it with -v7", "save it as .npy")
            ) from error
        arrays = {
            name: value
            for name, value in found.items()
            if not name.startswith("__") and isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
        }
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
