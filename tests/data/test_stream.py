"""Sources of any size, a piece at a time, into a .npy file: the same rows, or one error and no file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppvae.core import DataError
from ppvae.data import load, write_npy

ROWS = np.random.RandomState(0).rand(300, 3)
LABELS = np.arange(300) % 4
FRAME = pd.DataFrame(ROWS, columns=["a", "b", "c"]).assign(label=LABELS)


class Stream(IterableDataset[torch.Tensor]):
    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.as_tensor(ROWS))


class Columns:
    """What of a data set of Hugging Face is used."""

    def with_format(self, kind: str) -> Columns:
        assert kind == "numpy"
        return self

    def iter(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, 300, batch_size // 40):
            part = FRAME[start : start + batch_size // 40]
            yield {column: part[column].to_numpy() for column in part}


def in_files(folder: Path) -> list[Path]:
    paths = [folder / f"{part}.parquet" for part in range(3)]
    for part, path in enumerate(paths):
        FRAME[100 * part : 100 * (part + 1)].to_parquet(path, row_group_size=30)
    return paths


def arrow(folder: Path) -> Any:
    import pyarrow

    return pyarrow.Table.from_pandas(FRAME)


@pytest.mark.parametrize(
    ("source", "labelled"),
    [
        (in_files, True),
        (arrow, True),
        (lambda _: Columns(), True),
        (lambda _: arrow(_).to_reader(max_chunksize=70), True),
        (lambda _: (FRAME[k : k + 70] for k in range(0, 300, 70)), True),
        (lambda _: TensorDataset(torch.as_tensor(ROWS), torch.as_tensor(LABELS)), True),
        (lambda _: DataLoader(TensorDataset(torch.as_tensor(ROWS)), batch_size=7, shuffle=True), False),
        (lambda _: Stream(), False),
        (lambda _: np.array_split(ROWS, 4), False),
        (lambda _: ROWS, False),
    ],
)
def test_every_source_gives_its_rows_in_their_order(
    source: Callable[[Path], Any], labelled: bool, tmp_path: Path
) -> None:
    path = write_npy(source(tmp_path), tmp_path / "rows.npy", progress=False)
    assert np.array_equal(np.load(path), ROWS)
    data = load(path)
    assert data.labels is None if not labelled else data.labels is not None and data.labels.tolist() == LABELS.tolist()


def test_a_file_of_this_name_is_replaced_with_its_labels(tmp_path: Path) -> None:
    write_npy([FRAME], tmp_path / "rows.npy", progress=False)
    write_npy([ROWS[:5]], tmp_path / "rows.npy", progress=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["rows.npy"]
    assert load(tmp_path / "rows.npy").labels is None


def interrupted() -> Iterator[np.ndarray]:
    yield ROWS
    raise KeyboardInterrupt("as by Ctrl-C")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda: [ROWS, ROWS[:, :2]], DataError, r"piece 1: the rows are float64 of shape \(2,\), those before"),
        (lambda: [ROWS, ROWS.astype(np.float32)], DataError, "the rows are float32 .* before float64"),
        (lambda: [ROWS, np.full((2, 3), np.nan)], DataError, "piece 1: 6 of 6 values are not finite"),
        (lambda: [FRAME, FRAME[["a", "b", "c"]]], DataError, "piece 1: has no labels, unlike those before"),
        (lambda: [FRAME.assign(label="cat")], DataError, "the labels are no numbers"),
        (lambda: [np.array(["a"])], DataError, "the rows are no numbers"),
        (lambda: [{"x": ROWS, "mask": ROWS}], DataError, "has several members"),
        (lambda: iter([]), DataError, "no rows"),
        (lambda: "rows.csv", DataError, "of files, .parquet is read piece by piece"),
        (interrupted, KeyboardInterrupt, "Ctrl-C"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    source: Callable[[], Any], error: type[BaseException], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        write_npy(source(), tmp_path / "rows.npy", progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match=r"a \.npy file is written"):
        write_npy([ROWS], tmp_path / "rows.parquet")
