"""The named data sets: found, verified, split, downloaded; and what ``load`` makes of them."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import Dataset, load, named_images
from ppvae.data.splits import count_of, split_rows

from .test_sources import idx_bytes, npy_bytes


def rows(data: Dataset | None) -> Tensor:
    assert data is not None
    assert isinstance(data.x, Tensor)
    return data.x


def labels(data: Dataset | None) -> Tensor:
    assert data is not None
    assert data.labels is not None
    return data.labels


# --- digits -----------------------------------------------------------------------------------------


def test_digits_are_split_into_disjoint_parts_that_are_all_of_it() -> None:
    from sklearn.datasets import load_digits

    data = load()
    parts = [rows(part) for part in data.parts.values()]
    assert [len(part) for part in parts] == [1297, 200, 300]
    whole = (load_digits().data / 16).astype(np.float32)
    together = torch.cat(parts).numpy()
    np.testing.assert_array_equal(np.sort(together.view("V256").ravel()), np.sort(whole.view("V256").ravel()))
    assert (data.value_space, data.image_shape, data.event_shape) == ("unit", (8, 8), (64,))
    counts = np.bincount(load_digits().target)
    for part in data.parts.values():
        expected = counts * len(part) / 1797
        assert (np.abs(np.bincount(labels(part).numpy()) - expected) <= 2).all()


def test_digits_come_from_scikit_learn_wherever_it_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    by_file = named_images.digits({}, {})
    elsewhere = SimpleNamespace(origin="/nowhere/__init__.py")
    monkeypatch.setattr(named_images, "find_spec", lambda name: elsewhere)
    by_import = named_images.digits({}, {})
    assert np.array_equal(by_file.x, by_import.x) and np.array_equal(by_file.labels, by_import.labels)
    monkeypatch.setattr(named_images, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"comes with scikit-learn(.|\n)*pip install scikit-learn"):
        named_images.digits({}, {})


def test_the_split_of_the_digits_never_changes() -> None:
    data = load("digits", seed=5)
    content = {name: rows(part).numpy().tobytes() for name, part in data.parts.items()}
    assert {name: hashlib.sha256(value).hexdigest()[:12] for name, value in content.items()} == {
        "train": "1b029d69eb17",
        "validation": "88f2e7aa6711",
        "test": "f8978bbbc4cf",
    }


def test_images_keep_their_rows() -> None:
    flat, images = load("digits"), load("digits", flatten=False)
    assert rows(images).shape == (1297, 1, 8, 8)
    assert images.image_shape == flat.image_shape == (8, 8)
    assert torch.equal(rows(images).flatten(1), rows(flat))


# --- binarisation -----------------------------------------------------------------------------------


def test_static_binarisation_is_drawn_once_by_its_seed() -> None:
    first, again, other = (load("digits", binarize="static", seed=seed) for seed in (1, 1, 2))
    for part in ("train", "validation", "test"):
        assert torch.equal(rows(first.parts[part]), rows(again.parts[part]))
        assert not torch.equal(rows(first.parts[part]), rows(other.parts[part]))
        assert first.parts[part].value_space == "binary"
        assert first.parts[part].binarization == "static"
    grey, drawn = rows(load("digits")), rows(first)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    standard_error = (grey * (1 - grey)).sum(0).sqrt()
    assert ((drawn - grey).sum(0).abs() <= 4.5 * standard_error).all()
    assert torch.equal(first.tensor(), first.tensor())  # type: ignore[arg-type]
    # parts of one size would show a noise that is shared between them
    train, test = rows(first)[:300] - grey[:300], rows(first.test) - rows(load("digits").test)
    product = (train * test).flatten()
    assert product.mean().abs() < 4.5 * product.std() / len(product) ** 0.5


def test_dynamic_binarisation_is_of_the_training_rows_and_held_out_rows_stay() -> None:
    data = load("digits", binarize="dynamic")
    assert (data.binarization, data.batch_space) == ("dynamic", "binary")
    for part in (data.validation, data.test):
        assert part is not None
        assert (part.binarization, part.value_space) == ("static", "binary")
    assert not torch.equal(data.tensor(), data.tensor())  # type: ignore[arg-type]


def test_binarisation_of_what_is_no_probability(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.npy").write_bytes(npy_bytes(np.array([[0.0, 3.5]])))
    with pytest.raises(DataError, match=r"t.npy: binarisation reads values as probabilities, found real"):
        load(tmp_path / "t.npy", binarize="static")
    with pytest.raises(DataError, match="did you mean 'static'"):
        load("digits", binarize="statik")  # type: ignore[arg-type]
    (tmp_path / "b.npy").write_bytes(npy_bytes(np.array([[0, 1]])))
    with caplog.at_level("INFO", "ppvae.data"):
        assert load(tmp_path / "b.npy", binarize="dynamic").binarization == "none"
    assert "binary already" in caplog.text


# --- files ------------------------------------------------------------------------------------------


def test_a_file_is_split_by_fractions_or_counts(tmp_path: Path) -> None:
    table = np.arange(300.0).reshape(100, 3)
    (tmp_path / "t.npy").write_bytes(npy_bytes(table))
    assert load(tmp_path / "t.npy").parts.keys() == {"train"}
    data = load(tmp_path / "t.npy", validation=0.1, test=25, seed=3)
    assert [len(part) for part in data.parts.values()] == [65, 10, 25]
    together = torch.cat([rows(part) for part in data.parts.values()])
    assert sorted(together[:, 0].tolist()) == table[:, 0].tolist()
    again, other = (load(tmp_path / "t.npy", validation=0.1, seed=seed) for seed in (3, 4))
    assert torch.equal(rows(again.validation), rows(data.validation))
    assert not torch.equal(rows(other.validation), rows(data.validation))
    for options, message in [
        ({"validation": 100}, "cannot hold out 100 of 100 rows"),
        ({"validation": 1.5}, r"cannot hold out 1.5 of 100"),
        ({"test": -3}, "cannot hold out -3"),
        ({"test": 0.001}, r"cannot hold out 0.001"),
        ({"test": True}, "found True"),
        ({"validation": 50, "test": 0.5}, "would hold out all 100 rows"),
    ]:
        with pytest.raises(DataError, match=message):
            load(tmp_path / "t.npy", **options)  # type: ignore[arg-type]
    np.savez(tmp_path / "t.npz", x=table, test=table[:3])
    assert [len(part) for part in load(tmp_path / "t.npz", validation=5).parts.values()] == [95, 5, 3]
    with pytest.raises(DataError, match="holds its own test rows"):
        load(tmp_path / "t.npz", test=5)


def test_bytes_of_a_file_are_divided_or_kept(tmp_path: Path) -> None:
    images = np.random.RandomState(0).randint(0, 256, (5, 4, 3)).astype(np.uint8)
    path = tmp_path / "t.idx"
    path.write_bytes(idx_bytes(images, 0x08))
    data, kept, wide = load(path), load(path, dtype=torch.uint8), load(path, dtype=torch.float64)
    assert (data.value_space, data.image_shape, rows(data).shape) == ("unit", (4, 3), (5, 12))
    assert (kept.value_space, rows(kept).dtype) == ("byte", torch.uint8)
    assert rows(wide).dtype == torch.float64
    np.testing.assert_allclose(rows(data), images.reshape(5, 12) / 255, rtol=1e-6)
    torch.testing.assert_close(kept.tensor(), data.tensor())
    static = load(path, dtype=torch.uint8, binarize="static")
    assert (static.value_space, rows(static).dtype) == ("binary", torch.uint8)
    with pytest.raises(DataError, match=r"floating point or torch.uint8, not torch.int64"):
        load(path, dtype=torch.int64)


def test_one_value_space_holds_all_parts(tmp_path: Path) -> None:
    """A dark test part, of zeros and ones only, is still bytes where the training part is."""
    np.savez(tmp_path / "t.npz", x=np.array([[0, 255]], np.uint8), test=np.array([[0, 1]], np.uint8))
    data = load(tmp_path / "t.npz")
    assert [part.value_space for part in data.parts.values()] == ["unit", "unit"]
    assert rows(data.test).tolist() == [[0, pytest.approx(1 / 255)]]


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros(5), {}, r"1-D array of shape \(5,\)[\s\S]*x\[:, None\]"),
        (np.zeros((5, 0)), {}, r"t.npy: empty data, shape \(5, 0\)"),
        (np.array(1.0), {}, "t.npy: a single number"),
        (np.zeros((2, 6)), {"image_shape": (2, 2)}, r"image_shape \(2, 2\) does not hold the 6 values"),
        (np.array([[1.0], [np.nan]]), {}, r"t.npy: 1 of 2 values are not finite.*\[1, 0\]"),
        (np.array([["a"]]), {}, r"dtype <U1 are not numbers"),
        (np.full((1, 2), 0.5), {"dtype": torch.uint8}, "unit values do not fit uint8"),
    ],
)
def test_what_a_file_may_not_hold(
    array: np.ndarray,
    options: dict[str, object],
    message: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "t.npy").write_bytes(npy_bytes(array))
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.npy", **options)  # type: ignore[arg-type]


def test_images_of_a_flat_file_need_their_shape(tmp_path: Path) -> None:
    (tmp_path / "t.npy").write_bytes(npy_bytes(np.random.RandomState(0).rand(3, 6)))
    assert rows(load(tmp_path / "t.npy", image_shape=(2, 3), flatten=False)).shape == (3, 1, 2, 3)
    assert load(tmp_path / "t.npy", image_shape=(2, 3)).event_shape == (6,)
    assert load(tmp_path / "t.npy").image_shape is None


def test_parts_must_have_one_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", x=np.zeros((3, 4)), test=np.zeros((3, 5)))
    with pytest.raises(DataError, match=r"t.npz \(test\): event shape \(5,\), but the training rows have \(4,\)"):
        load(tmp_path / "t.npz")


# --- splits -----------------------------------------------------------------------------------------


def test_rows_are_held_out_evenly_over_seeds() -> None:
    held = np.zeros(12)
    for seed in range(2000):
        train, validation, test = split_rows(12, 3, 2, seed=seed)
        assert sorted([*train, *validation, *test]) == list(range(12))
        held[validation] += 1
    standard_error = (0.25 * 0.75 / 2000) ** 0.5
    assert (np.abs(held / 2000 - 0.25) < 4.5 * standard_error).all()


def test_stratified_parts_hold_every_class_in_proportion() -> None:
    strata = np.repeat([0, 1, 2], [600, 300, 100])
    for part in split_rows(1000, 100, 200, seed=1, strata=strata):
        expected = np.array([0.6, 0.3, 0.1]) * len(part)
        assert (np.abs(np.bincount(strata[part]) - expected) <= 2).all()
    plain = split_rows(1000, 100, 200, seed=1)[1]
    assert len(plain) == 100
    assert count_of(0.0, 10, "x") == 0


# --- named sets from files --------------------------------------------------------------------------


def test_names_that_are_none() -> None:
    with pytest.raises(DataError, match=r"unknown data set 'mnits': did you mean 'mnist'"):
        load("mnits")
    with pytest.raises(DataError, match=r"digits: has a fixed split"):
        load("digits", validation=10)


def test_zero_leaves_a_part_out() -> None:
    whole, without = load("digits"), load("digits", validation=0)
    assert without.validation is None
    assert without.test is not None
    assert whole.test is not None
    assert torch.equal(without.members["x"], whole.members["x"])
    assert torch.equal(without.test.members["x"], whole.test.members["x"])


def test_mnist_is_the_real_one(data_folder: Path) -> None:
    data = load("mnist")
    assert [len(part) for part in data.parts.values()] == [50_000, 10_000, 10_000]
    assert labels(data)[:5].tolist() == [5, 0, 4, 1, 9]
    assert labels(data.test)[:5].tolist() == [7, 2, 1, 0, 4]
    assert (data.value_space, data.image_shape) == ("unit", (28, 28))
    with gzip.open(data_folder / "mnist" / "train-images-idx3-ubyte.gz") as stream:
        raw = np.frombuffer(stream.read(), np.uint8)[16:].reshape(60_000, 784)
    for part, expected in ((data, raw[:50_000]), (data.validation, raw[50_000:])):
        np.testing.assert_array_equal((rows(part) * 255).round().to(torch.uint8).numpy(), expected)


def test_binarized_mnist_is_the_real_one(data_folder: Path, cache: Path) -> None:
    data, again = load("binarized-mnist"), load("binarized-mnist")
    assert [rows(part).shape for part in data.parts.values()] == [(50_000, 784), (10_000, 784), (10_000, 784)]
    assert data.value_space == "binary"
    assert len(list((cache / "parsed").glob("*.npy"))) == 3
    for part, cached in zip(data.parts.values(), again.parts.values(), strict=True):
        assert torch.equal(rows(part), rows(cached))
    with gzip.open(data_folder / "binarized_mnist" / "binarized_mnist_valid.amat.gz", "rt") as stream:
        line = [float(cell) for cell in stream.readline().split()]
    assert rows(data.validation)[0].tolist() == line


@pytest.mark.usefixtures("data_folder")
def test_frey_faces_stand_upright() -> None:
    data = load("frey-faces", flatten=False)
    assert [rows(part).shape for part in data.parts.values()] == [(n, 1, 28, 20) for n in (1565, 200, 200)]
    together = torch.cat([rows(part) for part in data.parts.values()])

    def roughness(images: Tensor) -> float:
        return max(float(images.diff(dim=dim).abs().mean()) for dim in (-1, -2))

    # a wrong order of axes would put unrelated pixels beside or above each other
    assert roughness(together) < 0.5 * roughness(together.reshape(-1, 1, 20, 28))
    assert (data.value_space, data.labels) == ("unit", None)


def test_importing_the_room_imports_nothing_heavy() -> None:
    heavy = ("pandas", "sklearn", "scipy", "pyarrow", "pooch", "requests")
    code = f"import sys, ppvae.data; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
