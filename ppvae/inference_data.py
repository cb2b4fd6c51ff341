"""From plain arrays to ArviZ: ``InferenceData`` for ArviZ 0.x, ``xarray.DataTree`` for 1.x; and to a file and back.

This file imports nothing of this suite and no PyTorch, so that it serves where only ArviZ is installed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

ENGINE = "h5netcdf"
"""The NetCDF engine, with which ArviZ 0.x and 1.x read each other's files."""


def to_arviz(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    dims: Mapping[str, Mapping[str, list[str]]],
    coords: Mapping[str, np.ndarray],
    attrs: Mapping[str, str],
) -> Any:
    """The object that ArviZ's functions take, of one ``xarray.Dataset`` for each group.

    Args:
        groups: group ("posterior", "sample_stats", ...) to variable to array.
        dims: group to variable to the names of its axes.
        coords: name of an axis to its coordinates; other axes count from zero.
        attrs: attributes of every group.

    Returns:
        ``arviz.InferenceData`` for ArviZ 0.x, else an ``xarray.DataTree``.
    """
    import arviz
    import xarray

    attributes = {"created_at": datetime.now(UTC).isoformat(), **attrs}
    datasets: dict[str, Any] = {}
    for group, variables in groups.items():
        arrays = {name: (dims[group][name], array) for name, array in variables.items()}
        axes = {
            axis: length for names, array in arrays.values() for axis, length in zip(names, array.shape, strict=True)
        }
        index = {axis: _coordinates(coords.get(axis), length) for axis, length in axes.items()}
        datasets[group] = xarray.Dataset(arrays, coords=index, attrs=attributes)
    if _is_line_0():
        return arviz.InferenceData(**datasets)
    return xarray.DataTree.from_dict(datasets)


def write_netcdf(tree: Any, path: str | os.PathLike[str]) -> Path:
    """Write what :func:`to_arviz` made to a NetCDF file that either line of ArviZ reads.

    The file is written under another name, synced and renamed: it is there complete, or not at all.

    Args:
        tree: an ``InferenceData`` or a ``DataTree``.
        path: the file; its folder exists.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    try:
        tree.to_netcdf(name, engine=ENGINE)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return target


def read_netcdf(path: str | os.PathLike[str]) -> Any:
    """Read a NetCDF file of draws, whole, into an ``InferenceData`` (ArviZ 0.x) or a ``DataTree`` (1.x).

    Args:
        path: the file.
    """
    if _is_line_0():
        import arviz

        return arviz.from_netcdf(os.fspath(path), engine=ENGINE).load()
    import xarray

    with xarray.open_datatree(path, engine=ENGINE) as tree:
        return tree.load()


def _is_line_0() -> bool:
    import arviz

    # Not hasattr(arviz, "InferenceData"): in 1.x that warns.
    return int(arviz.__version__.partition(".")[0]) < 1


def _coordinates(coordinates: np.ndarray | None, length: int) -> np.ndarray:
    """Coordinates of an axis; where another group has more or fewer (draws of the prior), they count from zero."""
    return coordinates if coordinates is not None and len(coordinates) == length else np.arange(length)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
