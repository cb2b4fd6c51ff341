"""Tables, one datum a row: .csv and .parquet, some rows at a time. A column ``label`` or ``labels`` has the labels."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .files import Array, Arrays, BoundedStream, read_errors
from .limits import Budget, file_limit
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")

_LABELS = ("label", "labels")
_CELLS = 2**20  # that are parsed at once
_COLUMN_BYTES = 1024  # that pandas takes for a column without rows
_WORD_BYTES = 100  # that a distinct label takes


def read_csv(path: Path) -> Arrays:
    """The rows of a .csv file (``.gz`` too), with or without a line of column names.

    Raises:
        DataError: unreadable, more than the limit, or a column that is not numbers (names it and the first such row).
    """
    budget = Budget(path)
    longest_line = file_limit() // 16  # the parser takes some fifteen times its bytes
    with read_errors(path, ".csv"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = b""
        with io.BufferedReader(BoundedStream(path, longest_line=longest_line)) as stream:
            while not first.strip() and (line := stream.readline()):
                first = line
        if not first.strip():
            raise DataError(f"{path}: empty, no rows.")
        num_columns = first.count(b",") + 1
        budget.hold(num_columns * _COLUMN_BYTES, f"declares {num_columns} columns")
        cells = [cell.strip().strip('"') for cell in first.decode("utf-8-sig").strip().split(",")]
        has_names = not any(_is_number(cell) for cell in cells)
        import pandas as pd

        warnings.filterwarnings("error", category=pd.errors.ParserWarning)  # more cells in a row than names
        with io.BufferedReader(BoundedStream(path, longest_line=longest_line)) as stream:
            frames = pd.read_csv(
                stream,
                header=0 if has_names else None,
                # Otherwise what a row has beyond the names makes its first cells a name of the row, silently.
                index_col=False,
                # Labels as they are written: a later piece may show that they are words.
                dtype=dict.fromkeys(label_columns(cells), str) if has_names else None,
                chunksize=max(1, _CELLS // num_columns),
                low_memory=False,
            )
            try:
                return _join(frames, path, budget, words=True)
            except pd.errors.ParserWarning:
                raise DataError(
                    f"{path}: rows of more cells than the {num_columns} of its first line."
                    + try_one_of("a name for every column, that of row names too", "leave out the column of row names")
                ) from None


def read_parquet(path: Path) -> Arrays:
    """The rows of a .parquet file, through pyarrow.

    Raises:
        DataError: pyarrow is missing (names the extra), unreadable, more than the limit, a column that is not numbers.
    """
    parquet = _pyarrow(path).parquet
    with read_errors(path, ".parquet"):
        size = parquet.read_metadata(path)
        Budget(path).declare((size.num_rows, len(_columns(path))), np.float64)
        return _join(parquet_pieces(path), path, Budget(path), words=False)


def parquet_pieces(path: Path) -> Iterator[Any]:
    """The rows of a .parquet file as data frames, some at a time.

    Raises:
        DataError: pyarrow is missing (names the extra), a column that is not numbers.
    """
    types, parquet = _pyarrow(path).types, _pyarrow(path).parquet
    schema, names = parquet.read_schema(path), _columns(path)
    labels = label_columns(names)
    for name in names:
        kind = schema.field(name).type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or name in labels):
            raise no_numbers(path, name, f" ({kind})")
    # Words once each, as in the file, and not once a row.
    words = [name for name in labels if types.is_string(schema.field(name).type)]
    with parquet.ParquetFile(path, read_dictionary=words) as file:
        rows = max(1, _CELLS // max(1, len(names)))
        for batch in file.iter_batches(rows, columns=names, use_threads=False):
            yield batch.to_pandas()


def _columns(path: Path) -> list[str]:
    """The names of the columns, without an index of pandas."""
    return [str(name) for name in _pyarrow(path).parquet.read_schema(path).empty_table().to_pandas().columns]


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{path}: .parquet files need pyarrow."
            + try_one_of('pip install "ppvae[parquet]"', "save the table as .csv or .npy")
        ) from error
    return pyarrow


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def label_columns(names: Iterable[Any]) -> list[Any]:
    """The column that holds the labels, if there is one."""
    return [name for name in names if str(name).lower() in _LABELS][:1]


class _Labels:
    """The classes of a column of labels, as numbers in the order of their names.

    Args:
        budget: of the file; distinct labels count.
        words: whether labels are as they are written, so that "10" is a number.
    """

    def __init__(self, budget: Budget, words: bool) -> None:
        self._budget, self._words = budget, words
        self._known: dict[Hashable, int] = {}
        self._codes: list[Array] = []

    def add(self, column: Any) -> None:
        """The labels of further rows."""
        import pandas as pd

        codes, labels = pd.factorize(column)
        before = len(self._known)
        numbers = [self._known.setdefault(label, len(self._known)) for label in labels]
        self._budget.hold((len(self._known) - before) * _WORD_BYTES, f"holds {len(self._known)} different labels")
        self._codes.append(np.array([*numbers, -1], np.int64)[codes])  # -1 where there is none

    def numbers(self) -> Array | None:
        """One number a row; None where no rows have labels."""
        import pandas as pd

        if not self._codes:
            return None
        labels: Any = pd.Series(list(self._known))
        if self._words:
            values = pd.to_numeric(labels, errors="coerce")
            labels = labels if values.isna().any() else values
        order = np.append(pd.factorize(labels, sort=True)[0], -1)
        result: Array = order[np.concatenate(self._codes)].astype(np.int64)
        return result


def _join(frames: Iterable[Any], path: Path, budget: Budget, *, words: bool) -> Arrays:
    """The rows of the pieces of a table."""
    labels, pieces, num_rows, num_columns = _Labels(budget, words), list[Array](), 0, 0
    names: tuple[object, ...] = ()
    for frame in frames:
        for column in label_columns(frame.columns):
            labels.add(frame[column])
            frame = frame.drop(columns=column)
            if not pieces:
                _log.info("%s: column %r holds the labels.", path, column)
        names, num_columns = tuple(frame.columns), frame.shape[1]
        if frame.size:
            budget.hold(
                8 * frame.size, f"holds rows {num_rows} to {num_rows + len(frame) - 1} of {num_columns} numbers"
            )
            pieces.append(_values_of(frame, path, num_rows))
            num_rows += len(frame)
    if num_rows == 0:
        raise DataError(f"{path}: empty, {num_rows} rows and {num_columns} columns of values.")
    return Arrays(
        np.ascontiguousarray(np.concatenate(pieces)),
        labels.numbers(),
        feature_names=tuple(map(str, names)) if any(isinstance(name, str) for name in names) else None,
    )


def _values_of(frame: Any, path: Path, start: int) -> Array:
    """The numbers of some rows, of which the first is row ``start``; int64 where all are whole."""
    import pandas as pd

    for column in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_complex_dtype(frame[column]):
            continue
        numbers = pd.to_numeric(frame[column], errors="coerce")
        bad = np.flatnonzero(numbers.isna() & frame[column].notna())
        place = f", first at row {start + bad[0]}: {str(frame[column].iloc[bad[0]])[:40]!r}" if len(bad) else ""
        raise no_numbers(path, column, place)
    whole = all(pd.api.types.is_integer_dtype(kind) or pd.api.types.is_bool_dtype(kind) for kind in frame.dtypes)
    whole = whole and not frame.isna().to_numpy().any()
    values: Array = frame.to_numpy(dtype=np.int64) if whole else frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def no_numbers(path: Path | str, column: object, place: str) -> DataError:
    """The error about a column of text: of which table, and where the first text stands."""
    return DataError(
        f"{path}: column {str(column)!r} is not numbers{place}."
        + try_one_of("leave the column out", "call it 'label' if it names the class of each row", "encode it")
    )
