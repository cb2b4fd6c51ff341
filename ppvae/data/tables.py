"""Tables, one datum a row: .csv and .parquet. A column ``label`` or ``labels`` holds the labels."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .files import Array, Arrays, read_content, read_errors
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")

_LABELS = ("label", "labels")


def read_csv(path: Path) -> Arrays:
    """The rows of a .csv file (``.gz`` too), with or without a line of column names.

    Raises:
        DataError: unreadable, or a column that is not numbers (names it and the first such row).
    """
    content = read_content(path, ".csv")
    if not content.strip():
        raise DataError(f"{path}: empty, no rows.")
    import pandas as pd

    with read_errors(path, ".csv"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = content.lstrip().split(b"\n", 1)[0].decode("utf-8-sig")
        has_names = not any(_is_number(cell) for cell in first.split(","))
        frame = pd.read_csv(io.BytesIO(content), header=0 if has_names else None, low_memory=False)
        return _from_frame(frame, path)


def read_parquet(path: Path) -> Arrays:
    """The rows of a .parquet file, through pyarrow.

    Raises:
        DataError: pyarrow is missing (names the extra), unreadable, a column that is not numbers.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(
            f"{path}: .parquet files need pyarrow."
            + try_one_of('pip install "ppvae[parquet]"', "save the table as .csv or .npy")
        ) from error
    with read_errors(path, ".parquet"):
        return _from_frame(parquet.read_table(io.BytesIO(path.read_bytes())).to_pandas(), path)


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().strip('"'))
    except ValueError:
        return False
    return True


def _from_frame(frame: Any, path: Path) -> Arrays:
    import pandas as pd

    labels: Array | None = None
    for column in [name for name in frame.columns if str(name).lower() in _LABELS][:1]:
        labels = pd.factorize(frame[column], sort=True)[0].astype(np.int64)
        frame = frame.drop(columns=column)
        _log.info("%s: column %r holds the labels.", path, column)
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise DataError(f"{path}: empty, {frame.shape[0]} rows and {frame.shape[1]} columns of values.")
    for column in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_complex_dtype(frame[column]):
            continue
        numbers = pd.to_numeric(frame[column], errors="coerce")
        bad = np.flatnonzero(numbers.isna() & frame[column].notna())
        place = f", first at row {bad[0]}: {str(frame[column].iloc[bad[0]])[:40]!r}" if len(bad) else ""
        raise DataError(
            f"{path}: column {str(column)!r} is not numbers{place}."
            + try_one_of("leave the column out", "call it 'label' if it names the class of each row", "encode it")
        )
    whole = all(pd.api.types.is_integer_dtype(kind) or pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes)
    whole = whole and not frame.isna().to_numpy().any()
    values = frame.to_numpy(dtype=np.int64) if whole else frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return Arrays(np.ascontiguousarray(values), labels)
