"""Files with missing values: refused, or read as gaps with a member that says what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import Dataset, load, npy
from ppvae.runs import Recipe
from ppvae.runs.training.prepare import model_for_data

NAN = np.nan
TABLE = np.array([[1.5, NAN, 3.0], [NAN, NAN, NAN], [0.5, -2.0, 4.0], [7.0, 8.0, NAN]])


def check(data: Dataset, table: np.ndarray = TABLE) -> None:
    there = ~np.isnan(table)
    assert list(data.members) == ["x", "seen"]
    assert data.members["seen"].dtype == torch.bool
    np.testing.assert_array_equal(data.members["seen"].numpy(), there)
    np.testing.assert_array_equal(data.members["x"].numpy(), np.where(there, table, 0))


def write_csv(path: Path) -> Path:
    path.write_text("a,b,label,c\n1.5,,u,3\n,NA,v,\n0.5,-2,u,4\n7,8,,nan\n")
    return path


def write_parquet(path: Path) -> Path:
    import pandas as pd

    pd.DataFrame(TABLE, columns=list("abc")).assign(label=["u", "v", "u", None]).to_parquet(path)
    return path


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_empty_cells_of_a_table_are_gaps(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{write.__name__.partition('_')[2]}")  # type: ignore[attr-defined, operator]
    with pytest.raises(DataError, match=r"5 of 12 values are not finite \(5 NaN[\s\S]*\n  - gaps=True, for a file"):
        load(path)
    data = load(path, gaps=True)
    check(data)
    assert data.labels is not None and data.labels.tolist() == [0, 1, 0, -1]
    assert (data.feature_names, data.value_space) == (("a", "b", "c"), "real")


def test_gaps_of_arrays_and_of_their_parts(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", TABLE)
    check(load(tmp_path / "t.npy", gaps=True))
    np.savez(tmp_path / "t.npz", x_train=TABLE, x_test=TABLE[:1], y_train=np.arange(4))
    data = load(tmp_path / "t.npz", gaps=True)
    check(data)
    assert data.test is not None and data.labels is not None
    check(data.test, TABLE[:1])
    whole = np.arange(30.0).reshape(10, 3)
    whole[4, 1] = NAN
    np.save(tmp_path / "s.npy", whole)
    data = load(tmp_path / "s.npy", gaps=True, validation=2, test=3, seed=1)
    assert [len(part) for part in data.parts.values()] == [5, 2, 3]
    for part in data.parts.values():
        # what tells the row is never missing
        rows = (part.members["x"][:, 0] / 3).round().long()
        check(part, whole[rows.numpy()])
    np.save(tmp_path / "full.npy", whole[:3])
    check(load(tmp_path / "full.npy", gaps=True), whole[:3])  # the member is there without a gap too


def test_gaps_of_the_main_one_of_several_members(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", dose=np.arange(4.0), x=TABLE)
    data = load(tmp_path / "t.npz", gaps=True)
    assert list(data.members) == ["dose", "x", "seen"]
    np.testing.assert_array_equal(data.members["seen"].numpy(), ~np.isnan(TABLE))
    np.testing.assert_array_equal(data.members["x"].numpy(), np.nan_to_num(TABLE))
    np.savez(tmp_path / "t.npz", dose=TABLE[:, 0], x=TABLE)
    with pytest.raises(DataError, match=r"\['dose'\]: 1 of 4 values are not finite"):
        load(tmp_path / "t.npz", gaps=True)
    np.savez(tmp_path / "t.npz", x=np.nan_to_num(TABLE), seen=~np.isnan(TABLE))
    with pytest.raises(DataError, match="holds a member 'seen' already"):
        load(tmp_path / "t.npz", gaps=True)


def test_pictures_with_gaps_are_flattened_and_binarised_as_others_are(tmp_path: Path) -> None:
    pictures = np.random.RandomState(0).rand(6, 4, 3)
    pictures[:3, 1, 2] = NAN
    np.save(tmp_path / "t.npy", pictures)
    data = load(tmp_path / "t.npy", gaps=True)
    assert (data.event_shape, data.image_shape, data.value_space) == ((12,), (4, 3), "unit")
    np.testing.assert_array_equal(data.members["seen"].numpy(), ~np.isnan(pictures.reshape(6, 12)))
    images = load(tmp_path / "t.npy", gaps=True, flatten=False)
    assert images.members["x"].shape == images.members["seen"].shape == (6, 1, 4, 3)
    for binarize in ("static", "dynamic"):
        drawn = load(tmp_path / "t.npy", gaps=True, binarize=binarize)  # type: ignore[arg-type]
        batch = drawn.tensor()
        assert isinstance(batch, dict) and drawn.batch_space == "binary"
        x: Tensor = batch["x"]
        assert set(x.unique().tolist()) == {0, 1} and not x[~batch["seen"]].any()


def test_what_is_no_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "t.npy", np.array([[1.0, NAN], [np.inf, 0.0]]))
    with pytest.raises(DataError, match=r"1 of 4 values are not finite \(0 NaN, 1 infinite\)") as caught:
        load(tmp_path / "t.npy", gaps=True)
    assert "gaps=True" not in str(caught.value)
    monkeypatch.setattr(npy, "MAP_ABOVE", 16)
    with pytest.raises(DataError, match="memory-mapped; gaps=True would read it whole"):
        load(tmp_path / "t.npy", gaps=True)


def test_a_recipe_says_it(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "t.csv"))
    with pytest.raises(DataError, match="not finite"):
        model_for_data(Recipe.from_dict({"data": {"source": path}}))
    assert model_for_data(Recipe.from_dict({"data": {"source": path, "gaps": True}}))["name"] == "gaussian-vae"
