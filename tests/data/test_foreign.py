"""Data of other packages, wherever data go: what becomes of them, and what is refused by its name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
import xarray as xr
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import Dataset as TorchDataset

from ppvae.core.bounds import MEMORY_VARIABLE
from ppvae.core.errors import DataError
from ppvae.data import as_dataset
from ppvae.inference import evidence as evidence_methods
from ppvae.inference import fit, log_evidence
from ppvae.models import FactorAnalysis

X = np.random.RandomState(0).randn(300, 3).astype(np.float32)


class PolarsColumn:
    """A column as polars has it: ``to_numpy`` without a dtype."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    def to_numpy(self) -> np.ndarray:
        return self.values


class PolarsFrame:
    """A data frame as polars has it: the names are a list of str."""

    def __init__(self, values: dict[str, np.ndarray]) -> None:
        self.parts, self.columns = values, list(values)
        self.shape = (len(next(iter(values.values()))), len(values))

    def __getitem__(self, name: str) -> PolarsColumn:
        return PolarsColumn(self.parts[name])

    def to_numpy(self) -> np.ndarray:
        return np.stack(list(self.parts.values()), 1)


class Annotated(SimpleNamespace):
    """What anndata's class has of it."""

    def __init__(self, x: Any, **layers: Any) -> None:
        super().__init__(X=x, layers=layers, obs_names=["cell"], var_names=["gene"], shape=X.shape)


class Items(TorchDataset[Any]):
    """A data set whose items are made by a function of their number."""

    def __init__(self, item: Any, count: int = len(X)) -> None:
        self.item, self.count = item, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Stream(IterableDataset[Tensor]):
    """A data set without a length."""

    def __init__(self, count: int = len(X)) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.from_numpy(X[i % len(X)]) for i in range(self.count))


DATA_OF_KINDS = {
    "pandas": pd.DataFrame(X, columns=["a", "b", "c"]),
    "pandas, columns in part of a nullable type": pd.DataFrame(X).astype({1: "Float32"}),
    "polars": PolarsFrame({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]}),
    "list": X.tolist(),
    "list of arrays": list(X),
    "list of tensors": list(torch.from_numpy(X)),
    "csr": scipy.sparse.csr_matrix(X),
    "coo array": scipy.sparse.coo_array(X),
    "AnnData": Annotated(X),
    "AnnData, sparse": Annotated(scipy.sparse.csr_matrix(X)),
    "DataArray": xr.DataArray(X, dims=("cell", "gene")),
    "TensorDataset": TensorDataset(torch.from_numpy(X)),
    "items": Items(lambda i: X[i]),
    "Subset": Subset(TensorDataset(torch.from_numpy(X)), range(len(X))),
    "iterable": Stream(),
    "DataLoader": DataLoader(TensorDataset(torch.from_numpy(X)), batch_size=7, shuffle=True),
    "DataLoader of an iterable": DataLoader(Stream(), batch_size=7),
    "DataLoader of a part": DataLoader(
        TensorDataset(torch.from_numpy(np.concatenate([X, X]))), sampler=SubsetRandomSampler(range(len(X)))
    ),
}


@pytest.mark.parametrize("kind", DATA_OF_KINDS)
def test_the_rows_are_those_of_the_array(kind: str) -> None:
    """In their order, and nothing is drawn from the global generator."""
    state = torch.get_rng_state()
    data = as_dataset(DATA_OF_KINDS[kind])
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(data.x, Tensor)
    np.testing.assert_array_equal(data.x.numpy(), X)
    assert data.labels is None
    assert data.value_space == "real"


@pytest.mark.parametrize("kind", ["pandas", "list", "DataLoader"])
def test_the_verbs_take_them(kind: str) -> None:
    pair = FactorAnalysis(3, 1)
    fit(pair, DATA_OF_KINDS[kind], num_epochs=1, compile="eager", progress=False)
    evidence = log_evidence(pair, DATA_OF_KINDS[kind], method=evidence_methods.Exact())
    torch.testing.assert_close(evidence.log_evidence, pair.log_evidence(torch.from_numpy(X)), check_dtype=False)


def test_labels_come_along() -> None:
    words = ["b", "a", "b"]
    frame = pd.DataFrame({"u": [0.5, 1.5, 2.5], "label": words})
    items = TensorDataset(torch.ones(3, 2), torch.tensor([4, 5, 6]))
    named = Items(lambda i: (torch.ones(2), words[i]), 3)
    for data, expected in ((frame, [1, 0, 1]), (items, [4, 5, 6]), (named, [1, 0, 1]), (DataLoader(items), [4, 5, 6])):
        labels = as_dataset(data).labels
        assert labels is not None
        assert labels.tolist() == expected
    assert as_dataset(frame).x.shape == (3, 1)  # type: ignore[union-attr]


def test_members_by_name() -> None:
    dataset = xr.Dataset({"x": (("cell", "gene"), X), "dose": (("cell",), X[:, 0])})
    items = Items(lambda i: {"x": X[i], "dose": X[i, 0]})
    mixed = {"x": pd.DataFrame(X), "dose": X[:, 0].tolist()}
    for data in (dataset, items, DataLoader(items), mixed):
        members = as_dataset(data).members
        assert list(members) == ["x", "dose"]
        np.testing.assert_array_equal(members["x"].numpy(), X)
        np.testing.assert_array_equal(members["dose"].numpy(), X[:, 0])


def test_whole_numbers_stay_whole() -> None:
    assert as_dataset(pd.DataFrame({"a": [1, 2], "b": [3, 4]})).value_space == "count"
    assert as_dataset(pd.DataFrame({"a": [True, False], "b": [1, 0]})).value_space == "binary"
    assert as_dataset([[0, 1], [1, 1]]).value_space == "binary"
    assert as_dataset(pd.DataFrame({"a": pd.array([1, 2], dtype="Int64")})).value_space in ("count", "real")


def test_a_loader_says_what_is_left_of_it(caplog: pytest.LogCaptureFixture) -> None:
    as_dataset(DATA_OF_KINDS["DataLoader"])
    assert [record.getMessage() for record in caplog.records] == [
        "data: the items of a DataLoader are read into memory, each once and in order; its batch size and its "
        "shuffling are not taken over."
    ]
    caplog.clear()
    as_dataset(DATA_OF_KINDS["TensorDataset"])
    assert not caplog.records


def frame_with(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"a": [1.0, 2.0, 3.0], **columns})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (frame_with(city=["x", "y", "z"]), "data: column 'city' is not numbers, first at row 0: 'x'"),
        (frame_with(city=[1.0, "y", None]), "data: column 'city' is not numbers, first at row 1: 'y'"),
        (frame_with(day=pd.to_datetime(["2020-01-01"] * 3)), "data: column 'day' is not numbers"),
        (frame_with(z=[1j, 2j, 3j]), "data: column 'z' is not numbers"),
        (
            frame_with(b=[1.0, np.nan, None], c=[1.0, 1.0, np.nan]),
            "missing values in columns 'b' (2), 'c' (1); the first of 'b' is in row 1",
        ),
        (
            frame_with(b=pd.array([1, None, 3], dtype="Int64")),
            "missing values in column 'b' (1); the first of 'b' is in row 1",
        ),
        (pd.DataFrame([[1.0, 2.0]], columns=["a", "a"]), "several columns are called a"),
        (pd.DataFrame({"label": [1, 2]}), "no columns of numbers, shape (2, 1)"),
        (pd.DataFrame(), "no columns of numbers, shape (0, 0)"),
        (pd.Series([1.0, 2.0]), "a 1-D vector of shape (2,)"),
        (
            PolarsFrame({"city": np.array(["x", "y"], dtype=object)}),
            "column 'city' is not numbers, first at row 0: 'x'",
        ),
        (PolarsFrame({"b": np.array([1.0, np.nan])}), "missing values in column 'b' (1)"),
        ([], "an empty list holds no data"),
        ([1.0, 2.0], "a 1-D vector of shape (2,)"),
        ([[1.0, 2.0], [1.0]], "ragged rows: row 1 has the shape (1,), row 0 (2,)"),
        ([torch.zeros(2), torch.zeros(2), torch.zeros(3)], "ragged rows: row 2 has the shape (3,), row 0 (2,)"),
        ([["a"]], "dtype <U1"),
        (([1.0], [2.0]), "a tuple of 2 may mean several things"),
        ((X[:3], X[:2]), "all members must share axis 0, found lengths {'0': 3, '1': 2}"),
        (Annotated(None, counts=X), "an AnnData without X.\nTry one of:\n  - adata.layers['counts']"),
        (
            xr.Dataset({"x": (("cell",), X[:, 0]), "y": (("gene",), X[:, 1])}),
            "share their first dimension, one entry a datum; found {'x': 'cell', 'y': 'gene'}",
        ),
        (Items(lambda i: torch.zeros(1 + i % 2)), "items 0 to 255 cannot be put together: RuntimeError"),
        (Items(lambda i: torch.zeros(1 + i // 256)), "ragged rows"),
        (Items(lambda i: SimpleNamespace()), "items 0 to 255 cannot be put together: TypeError"),
        (
            Items(lambda i: (X[i], ("a", 1))),
            "expected items that are x, (x, label), tensors or a mapping, found 2 values",
        ),
        (Items(lambda i: {"x": X[i]} if i < 256 else {"y": X[i]}), "items hold ['x'] at first, and ['y'] later"),
        (Items(lambda i: X[i], 0), "a data set without items"),
        (
            (X[i : i + 5] for i in range(0, 300, 5)),
            "data: builtins.generator can be read once, and its length is not known",
        ),
        (
            DataLoader(Items(lambda i: X[i]), sampler=WeightedRandomSampler([1.0] * 5, 5)),
            "WeightedRandomSampler as sampler",
        ),
        (
            {"x": X[:3], "y": pd.DataFrame({"u": [1, 2, 3], "label": [1, 2, 3]})},
            "data['y']: holds labels, and stands inside a mapping",
        ),
    ],
)
def test_what_is_refused(bad: object, message: str) -> None:
    with pytest.raises(DataError) as error:
        as_dataset(bad)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            scipy.sparse.csr_matrix((100_000, 100), dtype=np.float32),
            "a sparse matrix of 100000 x 100, made dense, 40.0 MB",
        ),
        (Annotated(scipy.sparse.csr_matrix((100_000, 100))), "a sparse matrix of 100000 x 100, made dense, 80.0 MB"),
        (Items(lambda i: torch.zeros(100), 10**6), "1000000 items of a data set, 400.0 MB"),
        (Stream(10**9), "of a data set"),
    ],
)
def test_what_the_memory_does_not_hold(data: object, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is made dense or read, or as it comes where nobody knows how much there is."""
    monkeypatch.setenv(MEMORY_VARIABLE, "100kB" if isinstance(data, Stream) else "40MB")
    with pytest.raises(DataError, match=r"the limit is .*one part in 4") as error:
        as_dataset(data)
    assert message in str(error.value)


def test_an_array_on_demand_is_read_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnDemand:
        shape, dtype = X.shape, X.dtype

        def __getitem__(self, key: object) -> np.ndarray:
            return X

    as_dataset(Annotated(OnDemand()))
    monkeypatch.setenv(MEMORY_VARIABLE, "4kB")
    with pytest.raises(DataError, match="declares an array of 300 x 3 float32"):
        as_dataset(Annotated(OnDemand()))


def test_no_package_is_imported_for_it() -> None:
    code = (
        "import sys; import torch; from ppvae.data import as_dataset\n"
        "as_dataset([[1.0, 2.0]]); as_dataset(torch.utils.data.TensorDataset(torch.ones(2, 2)))\n"
        "print([name for name in ('pandas', 'polars', 'xarray', 'anndata') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_tuple_of_tensors_stays_one() -> None:
    """Programs that take several arguments: each member a row a datum, the first described by the value space."""
    data = as_dataset((X[:4], X[:4, 0].round().astype(int)))
    assert data.main == "0" and len(data) == 4 and list(data.members) == ["0", "1"]
    x, y = data.batch(torch.tensor([2, 0]))
    assert torch.equal(x, torch.from_numpy(X[[2, 0]])) and y.dtype == torch.int64
    assert isinstance(data.take(2).tensor(), tuple) and len(data.take(2)) == 2
    assert torch.equal(data.main_of(data.tensor()), torch.from_numpy(X[:4]))


def test_tensors_of_a_torch_data_set_stay_in_their_places() -> None:
    x = torch.from_numpy(X[:5])
    data = as_dataset(TensorDataset(x, x[:, :2], x[:, 0]))
    assert isinstance(data.x, tuple) and [tuple(m.shape) for m in data.x] == [(5, 3), (5, 2), (5,)]
    again = as_dataset(DataLoader(TensorDataset(x, x[:, :2]), batch_size=2, shuffle=True))
    assert isinstance(again.x, tuple) and torch.equal(again.x[1], x[:, :2])


def test_packed_sequences_are_read_as_what_is_padded_and_lengths() -> None:
    sequences = [torch.ones(3, 2), torch.full((1, 2), 2.0)]
    packed = torch.nn.utils.rnn.pack_sequence(sequences)
    data = as_dataset(packed)
    assert data.members["lengths"].tolist() == [3, 1] and data.main == "x"
    assert data.members["x"][1].tolist() == [[2.0, 2.0], [0.0, 0.0], [0.0, 0.0]]
