"""From plain arrays to ArviZ: ``InferenceData`` for ArviZ 0.x, ``xarray.DataTree`` for 1.x."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np


def to_arviz(
    groups: Mapping[str, Mapping[str, np.ndarray]],
    dims: Mapping[str, Mapping[str, list[str]]],
    coords: Mapping[str, np.ndarray],
    attrs: Mapping[str, str],
) -> Any:
    """What ArviZ's functions take, built of one ``xarray.Dataset`` for each group.

    Args:
        groups: group ("posterior", "sample_stats", ...) to variable to array.
        dims: group to variable to the names of its axes.
        coords: name of an axis to its coordinates; other axes count from zero.
        attrs: attributes of every group.

    Returns:
        ``arviz.InferenceData`` where ArviZ has it (0.x), else an ``xarray.DataTree``.
    """
    import arviz
    import xarray

    stamped = {"created_at": datetime.now(UTC).isoformat(), **attrs}
    datasets: dict[str, Any] = {}
    for group, variables in groups.items():
        arrays = {name: (dims[group][name], array) for name, array in variables.items()}
        axes = {
            axis: length for names, array in arrays.values() for axis, length in zip(names, array.shape, strict=True)
        }
        index = {axis: coords.get(axis, np.arange(length)) for axis, length in axes.items()}
        datasets[group] = xarray.Dataset(arrays, coords=index, attrs=stamped)
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**datasets)
    return xarray.DataTree.from_dict(datasets)
