"""Data larger than memory: any source, piece by piece, into a .npy file that is mapped and not read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from .convert import require_finite
from .files import Array, read_errors
from .foreign import Rows, native, rows_of_items
from .npy import labels_beside
from .tables import parquet_pieces
from ..core.errors import DataError, try_one_of

_ROWS = 4096
"""Rows of a piece, where the source lets one choose."""


def write_npy(source: Any, path: str | Path, *, progress: bool = True) -> Path:
    """Write the rows of a source of any size to a .npy file, a piece at a time.

    :func:`ppvae.data.load` maps such a file: rows are read from the disk as minibatches need them, so that training is
    seeded, shuffled and resumed as in memory. Labels, where the source has some, go to a file ``NAME.labels.npy``
    beside it, which :func:`~ppvae.data.load` finds.

    Args:
        source: a .parquet file or several; a data set or a loader of PyTorch (the items of its data set in order, each
            once); what pyarrow reads (a table, a data set, a reader of record batches); a data set of Hugging Face;
            or any iterable of pieces, each of them rows: an array, a tensor, a data frame, a list.
        path: of the new file, ``.npy``.
        progress: show a bar.

    Returns:
        the path.

    Raises:
        DataError: no rows, pieces of different shapes or kinds, columns that are no numbers, values that are not
            finite. Nothing is left behind then, nor after Ctrl-C.

    >>> import numpy as np, tempfile
    >>> pieces = (np.full((3, 2), k) for k in range(4))
    >>> np.load(write_npy(pieces, tempfile.mkdtemp() + "/rows.npy", progress=False)).shape
    (12, 2)
    """
    path = Path(path)
    if path.suffix != ".npy":
        raise DataError(f"{path}: a .npy file is written." + try_one_of(str(path.with_suffix(".npy"))))
    if not path.parent.is_dir():
        raise DataError(f"{path}: no such folder: {path.parent}" + try_one_of(f"mkdir -p {path.parent}"))
    name = str(source) if isinstance(source, str | Path) else type(source).__name__
    rows, labels = _Growing(path, "the rows"), _Growing(labels_beside(path), "the labels")
    try:
        with tqdm(unit=" rows", unit_scale=True, disable=not progress, desc=path.name) as bar:
            for number, piece in enumerate(_pieces(source, name)):
                where = f"{name}, piece {number}"
                found = piece if isinstance(piece, Rows) else native(piece, where)
                if isinstance(found.x, Mapping | tuple):
                    raise DataError(
                        f"{where}: has several members; one array of rows is written."
                        + try_one_of("the rows alone", "an array for each member, written one by one")
                    )
                rows.append(_as_array(found.x), where)
                if number and (found.labels is None) != (labels.count == 0):
                    raise DataError(f"{where}: has {'no ' if found.labels is None else ''}labels, unlike those before.")
                if found.labels is not None:
                    labels.append(_as_array(found.labels), where)
                bar.update(rows.count - bar.n)
        if not rows.count:
            raise DataError(f"{name}: no rows.")
        rows.close()
        if labels.count:
            labels.close()
        else:
            labels_beside(path).unlink(missing_ok=True)  # of an older file of this name
    finally:
        rows.discard()
        labels.discard()
    return path


def _pieces(source: Any, name: str) -> Iterator[Any]:
    """The rows of a source, in order, some at a time."""
    if isinstance(source, str | Path):
        source = [source]
    if isinstance(source, Sequence) and source and all(isinstance(one, str | Path) for one in source):
        for path in map(Path, source):
            if path.suffix.lower() != ".parquet":
                raise DataError(
                    f"{path}: of files, .parquet is read piece by piece."
                    + try_one_of("ppvae.data.load(path) for a file that fits into memory", "an iterable of arrays")
                )
            with read_errors(path, ".parquet"):
                yield from parquet_pieces(path)
    elif isinstance(source, DataLoader | TorchDataset):
        yield from rows_of_items(source, name)
    elif hasattr(source, "to_batches"):  # pyarrow's tables and data sets
        yield from (batch.to_pandas() for batch in source.to_batches())
    elif hasattr(source, "with_format") and hasattr(source, "iter"):  # Hugging Face's
        import pandas as pd

        yield from (pd.DataFrame(columns) for columns in source.with_format("numpy").iter(batch_size=_ROWS))
    elif isinstance(source, Iterable) and not isinstance(source, Mapping | Tensor | np.ndarray):
        yield from (piece.to_pandas() if hasattr(piece, "to_pandas") else piece for piece in source)
    else:
        yield source


def _as_array(values: Any) -> Array:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


class _Growing:
    """A .npy file to which rows are added; it is there under its name when it is closed, and not before.

    numpy leaves room in a header for a longer axis 0, so that the last header takes the place of the first.

    Args:
        path: of the file.
        what: it holds, for errors.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what, self.count = path, what, 0
        self._file: Any = None
        self._shape: tuple[int, ...] = ()
        self._dtype: Any = None

    def append(self, values: Array, where: str) -> None:
        """Add rows.

        Raises:
            DataError: they are of another shape or kind than those before, no numbers, or not finite.
        """
        if values.dtype.kind not in "biuf" or not values.ndim:
            raise DataError(
                f"{where}: {self.what} are no numbers ({values.dtype}, shape {values.shape})."
                + try_one_of("numbers in their place", "a source without that column")
            )
        if values.dtype.kind == "f":
            require_finite(torch.as_tensor(values), where)
        if self._file is None:
            self._shape, self._dtype = values.shape[1:], values.dtype.newbyteorder("=")
            self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
            self._file = self._part.open("wb")
            self._write_header()
        elif values.shape[1:] != self._shape or values.dtype.newbyteorder("=") != self._dtype:
            raise DataError(
                f"{where}: {self.what} are {values.dtype} of shape {values.shape[1:]}, those before {self._dtype} of "
                f"shape {self._shape}." + try_one_of("sources of one schema", "pieces converted to one dtype")
            )
        self._file.write(np.ascontiguousarray(values, self._dtype).data)
        self.count += len(values)

    def _write_header(self) -> None:
        described = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": described, "fortran_order": False, "shape": (self.count, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def close(self) -> None:
        """Put the file under its name."""
        self._file.seek(0)
        self._write_header()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)
        self._file = None

    def discard(self) -> None:
        """Remove what was not closed."""
        if self._file is not None:
            self._file.close()
            self._part.unlink(missing_ok=True)
            self._file = None
