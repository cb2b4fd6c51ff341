"""Files: every format gives back the numbers that were written, and a damaged file is named."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ppvae.core.errors import DataError
from ppvae.data import load
from ppvae.data.amat import parse_amat, read_amat
from ppvae.data.idx import TYPES, read_idx
from ppvae.data.mat import read_cells

TABLE = np.array([[1.5, -2.0, 3.25], [0.0, 4.0, 1e-3]])


def idx_bytes(array: np.ndarray, code: int) -> bytes:
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(TYPES[code]).tobytes()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def rows_of(path: Path, **options: Any) -> np.ndarray:
    x = load(path, **options).x
    assert isinstance(x, Tensor)
    return x.numpy()


def mat_bytes(**arrays: np.ndarray) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, arrays)
    return buffer.getvalue()


def parquet_bytes(table: np.ndarray, **columns: object) -> bytes:
    import pandas as pd

    buffer = io.BytesIO()
    frame = pd.DataFrame(table, columns=[f"c{i}" for i in range(table.shape[1])])
    frame.assign(**columns).to_parquet(buffer)
    return buffer.getvalue()


CSV = b"1.5,-2,3.25\n0,4,0.001\n"
AMAT = b"1.5 -2.0 3.25\n0 4 1e-3\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.npy", npy_bytes(TABLE)),
        ("fortran.npy", npy_bytes(np.asfortranarray(TABLE))),
        ("big-endian.npy", npy_bytes(TABLE.astype(">f8"))),
        ("t.csv", CSV),
        ("t.csv.gz", CSV),
        ("named.csv", b"a,b,c\n" + CSV),
        ("bom.csv", b"\xef\xbb\xbf" + CSV),
        ("t.parquet", parquet_bytes(TABLE)),
        ("t.amat", AMAT),
        ("t.amat.gz", AMAT),
        ("t.mat", mat_bytes(rows=TABLE, scalar=np.array([[1.0]]))),
        ("t.idx", idx_bytes(TABLE, 0x0E)),
        ("t-idx2-double.gz", idx_bytes(TABLE, 0x0E)),
    ],
)
def test_a_table_comes_back_from_every_format(name: str, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    np.testing.assert_array_equal(rows_of(path), TABLE.astype(np.float32))
    assert load(path).value_space == "real"


@pytest.mark.parametrize("code", TYPES)
@pytest.mark.parametrize("suffix", [".idx", ".idx.gz"])
def test_idx_of_every_type(code: int, suffix: str, tmp_path: Path) -> None:
    array = (np.arange(24).reshape(2, 3, 4) * 5).astype(TYPES[code])
    found = read_idx(write(tmp_path / f"t{suffix}", idx_bytes(array, code)))
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


def test_npz_parts_by_name(tmp_path: Path) -> None:
    parts = {"x_train": TABLE, "y_train": np.array([3, 4]), "x_val": TABLE[:1], "x_test": TABLE[1:] + 1}
    np.savez_compressed(tmp_path / "t.npz", **parts)  # type: ignore[arg-type]
    data = load(tmp_path / "t.npz")
    assert data.labels is not None
    assert data.validation is not None
    assert data.test is not None
    assert data.labels.tolist() == [3, 4]
    assert data.validation.x.tolist() == TABLE[:1].astype(np.float32).tolist()  # type: ignore[union-attr]
    np.testing.assert_allclose(data.test.x, TABLE[1:] + 1, rtol=1e-6)  # type: ignore[arg-type]
    np.savez(tmp_path / "one.npz", whatever=TABLE)
    np.testing.assert_array_equal(rows_of(tmp_path / "one.npz"), TABLE.astype(np.float32))
    np.savez(tmp_path / "none.npz", a=TABLE, b=TABLE[:1])
    with pytest.raises(DataError, match=r"no training rows among its members, and these share no axis 0: .*'b': 1"):
        load(tmp_path / "none.npz")
    np.savez(tmp_path / "two.npz", x=TABLE, train=TABLE)
    with pytest.raises(DataError, match=r"\['x', 'train'\] name the same part"):
        load(tmp_path / "two.npz")


def test_npz_of_data_and_covariates(tmp_path: Path) -> None:
    """Members of one length are a mapping, held-out parts cut alike from all of them."""
    counts, dose = np.arange(40).reshape(20, 2), np.arange(20.0)[:, None] * 2
    np.savez(tmp_path / "t.npz", counts=counts, dose=dose)
    data = load(tmp_path / "t.npz", validation=4, test=0.25, seed=3)
    assert [len(part) for part in data.parts.values()] == [11, 4, 5]
    rows = []
    for part in data.parts.values():
        x = part.tensor()
        assert isinstance(x, dict) and list(x) == ["counts", "dose"]
        assert torch.equal(x["counts"][:, 0], x["dose"][:, 0])  # row i of each is datum i
        rows += x["counts"][:, 0].tolist()
    assert sorted(rows) == counts[:, 0].tolist()
    again = load(tmp_path / "t.npz", validation=4, test=0.25, seed=3)
    assert again.fingerprint() == data.fingerprint() != load(tmp_path / "t.npz").fingerprint()
    with pytest.raises(DataError, match="holds members"):
        load(tmp_path / "t.npz", binarize="static")
    with pytest.raises(DataError, match="hold out all 20 rows"):
        load(tmp_path / "t.npz", validation=15, test=5)


def test_npz_of_x_and_what_stands_beside_it(tmp_path: Path) -> None:
    x, lengths, classes = np.arange(24.0).reshape(4, 3, 2), np.array([3, 1, 2, 2]), np.array([0, 1, 1, 0])
    np.savez(tmp_path / "t.npz", lengths=lengths, x=x, labels=classes)
    data = load(tmp_path / "t.npz", validation=1)
    assert (list(data.members), data.main, data.event_shape) == (["lengths", "x"], "x", (3, 2))
    assert data.validation is not None
    for part in (data, data.validation):
        assert part.labels is not None
        row = (part.members["x"][:, 0, 0] / 6).long().numpy()
        assert part.members["lengths"].tolist() == lengths[row].tolist()
        assert part.labels.tolist() == classes[row].tolist()
    # what is of another length is no member, and parts have rows alone
    np.savez(tmp_path / "t.npz", x=x, mean=np.zeros(3))
    assert load(tmp_path / "t.npz").event_shape == (6,)
    np.savez(tmp_path / "t.npz", x=x, lengths=lengths, x_test=x)
    assert list(load(tmp_path / "t.npz").members) == ["x"]


def test_labels_of_every_kind_and_length(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    for labels, expected in [
        (np.array(["b", "a"]), [1, 0]),
        (np.array([[7], [8]], dtype=">i2"), [7, 8]),
        (np.array([0.5, 1.5]), [0.5, 1.5]),
        (np.array([True, False]), [1, 0]),
    ]:
        np.savez(path, x=TABLE, y=labels)
        assert load(path).labels.tolist() == expected  # type: ignore[union-attr]
    for wrong, message in [
        (np.arange(3), r"labels of shape \(3,\) for 2 rows"),
        (np.ones(2) * 1j, "complex"),
    ]:
        np.savez(path, x=TABLE, y=wrong)
        with pytest.raises(DataError, match=message):
            load(path)


def test_a_label_column_becomes_the_labels(tmp_path: Path) -> None:
    csv = write(tmp_path / "t.csv", b"a,Label,b\n1,cat,2\n3,ant,4\n5,cat,6\n")
    parquet = write(tmp_path / "t.parquet", parquet_bytes(TABLE, label=["cat", "ant"]))
    data = load(csv)
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]
    assert data.x.tolist() == [[1, 2], [3, 4], [5, 6]]  # type: ignore[union-attr]
    assert data.value_space == "count"
    assert load(parquet).labels.tolist() == [1, 0]  # type: ignore[union-attr]


def test_amat_parsers_agree() -> None:
    digits = np.random.RandomState(0).randint(0, 10, (50, 7))
    text = "\n".join(" ".join(map(str, row)) for row in digits)
    path = Path("t.amat")
    expected = np.loadtxt(io.StringIO(text))
    variants = [text, text + "\n", text.replace("\n", " \n") + " \n", text.replace("\n", "\r\n"), "  " + text]
    for variant in [*variants, text.replace(" ", "  ")]:
        np.testing.assert_array_equal(parse_amat(variant.encode(), path), expected)
    assert parse_amat(variants[0].encode(), path).dtype == np.uint8
    assert parse_amat(variants[2].encode(), path).dtype == np.uint8
    # numbers of two digits are not taken for two numbers
    np.testing.assert_array_equal(parse_amat(b"12 3\n4 56\n", path), [[12, 3], [4, 56]])
    with pytest.raises(DataError, match=r"t.amat: not a table of numbers"):
        parse_amat(b"1 2 3\n12345\n", path)


def test_parsed_amat_is_cached_by_content_and_the_cache_is_checked(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.RandomState(0).randint(0, 2, (1000, 1000)).astype(np.uint8)
    text = np.full((1000, 2000), ord(" "), np.uint8)
    text[:, ::2], text[:, -1] = rows + ord("0"), ord("\n")
    path = write(tmp_path / "t.amat.gz", text.tobytes())
    np.testing.assert_array_equal(read_amat(path), rows)
    (entry,) = (cache / "parsed").glob("*.npy")
    monkeypatch.setattr("ppvae.data.amat.parse_amat", lambda *_: pytest.fail("parsed again"))
    np.testing.assert_array_equal(read_amat(path), rows)
    monkeypatch.undo()
    monkeypatch.setenv("PPVAE_CACHE", str(cache))
    damaged = bytearray(entry.read_bytes())
    damaged[-1] ^= 1
    entry.write_bytes(damaged)
    np.testing.assert_array_equal(read_amat(path), rows)
    assert list(path.parent.glob(".*")) == list((cache / "parsed").glob(".*")) == []


def test_a_cache_that_cannot_be_written_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PPVAE_CACHE", str(write(tmp_path / "a-file", b"")))
    path = write(tmp_path / "t.amat", (b"0 1 " * 500 + b"1\n") * 1000)
    assert read_amat(path).shape == (1000, 1001)
    assert "not cached" in caplog.text


def test_mat_with_several_arrays_needs_a_key(tmp_path: Path) -> None:
    path = write(tmp_path / "t.mat", mat_bytes(rows=TABLE, more=TABLE + 1))
    np.testing.assert_array_equal(rows_of(path, key="more"), (TABLE + 1).astype(np.float32))
    with pytest.raises(DataError, match=r"found 2: .*'rows': \(2, 3\)[\s\S]*key='rows'"):
        load(path)
    with pytest.raises(DataError, match=r"no numeric array 'row': did you mean 'rows'"):
        load(path, key="row")


DAMAGED: dict[str, tuple[bytes, str]] = {
    "cut.npy": (npy_bytes(TABLE)[:-8], r"not readable as .npy"),
    "pickle.npy": (npy_bytes(np.array([[{}]], dtype=object)), r"holds pickled objects, which are never loaded"),
    "cut.idx": (idx_bytes(TABLE, 0x0E)[:-1], r"truncated: shape \(2, 3\) needs 48 bytes|more than the file"),
    "long.idx": (idx_bytes(TABLE, 0x0E) + b"\0", r"too long"),
    "magic.idx": (b"\0\1" + idx_bytes(TABLE, 0x0E)[2:], r"not an IDX file.*found 00 01 0e 02"),
    "type.idx": (b"\0\0\7\2" + bytes(20), r"not an IDX file"),
    "empty.idx": (b"", r"found nothing"),
    "header.idx": (b"\0\0\x0e\2\0\0\0\2", r"truncated in its header"),
    "huge.idx": (b"\0\0\x0e\3" + b"\xff" * 12 + bytes(100), r"promises \d{29,} bytes .*more than the file"),
    "huge-idx3-double.gz": (b"\0\0\x0e\3" + b"\xff" * 12 + bytes(100), r"promises \d{29,} bytes"),
    "ragged.amat": (b"1 2\n3\n", r"not a table of numbers"),
    "words.amat": (b"1 two\n", r"not a table of numbers"),
    "empty.amat": (b" \n", r"empty, no rows"),
    "empty.csv": (b"", r"empty, no rows"),
    "header.csv": (b"a,b\n", r"empty, 0 rows"),
    "words.csv": (b"a,b\n1,2\n3,four\n", r"column 'b' is not numbers, first at row 1: 'four'"),
    "missing.csv": (b"a,b\n1,2\n3,\n", r"1 of 4 values are not finite \(1 NaN.*\[1, 1\]"),
    "cut.parquet": (parquet_bytes(TABLE)[:-9], r"not readable as .parquet"),
    "cut.mat": (mat_bytes(rows=TABLE)[:-9], r"not readable as .mat"),
    "cut.npz": (b"PK\3\4 not really", r"not readable as .npz"),
    "object.npz": (b"", r"not readable as .npz"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    content, message = DAMAGED[name]
    with pytest.raises(DataError, match=message) as caught:
        load(write(tmp_path / name, content))
    assert name.split(".")[0] in str(caught.value)


def test_a_zip_file_cut_short_or_changed_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(np.random.RandomState(0).randint(0, 255, (30, 9)), 0x08))
    for name, content in [
        ("cut.idx.gz", whole[:-20]),
        ("changed.idx.gz", whole[:-8] + b"\1\2\3\4" + whole[-4:]),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load(tmp_path / name)


def test_pickles_in_npz_are_never_loaded(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(tmp_path / "t.npz", x=np.array([[Attack()]], dtype=object))
    with pytest.raises(DataError, match=r"t.npz\['x'\]: holds pickled objects"):
        load(tmp_path / "t.npz")
    np.save(tmp_path / "t.npy", np.array([[Attack()]], dtype=object))
    with pytest.raises(DataError, match=r"t.npy"):
        load(tmp_path / "t.npy")
    assert not (tmp_path / "pwned").exists()


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "t.parquet", parquet_bytes(TABLE))
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r'pip install "ppvae\[parquet\]"'):
        load(path)


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "rows.npy", npy_bytes(TABLE))
    write(tmp_path / "zipped.npy.gz", npy_bytes(TABLE))
    write(tmp_path / "weights.pt", b"")
    cases = [
        ("row.npy", r"no such file: did you mean 'rows.npy'"),
        ("elsewhere/x.npy", r"no such file: check the spelling"),
        ("weights.pt", r"unknown format '.pt'"),
        ("rows.npz2", r"unknown format '.npz2': did you mean '.npz'"),
        ("zipped.npy.gz", r"gunzip zipped.npy.gz"),
        (".", r"a folder, not a file[\s\S]*rows.npy"),
    ]
    for name, message in cases:
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)
    with pytest.raises(DataError, match=r"key='x' chooses an array of a .mat file, this is .npy"):
        load(tmp_path / "rows.npy", key="x")


MAPPED = """
import json, sys
import torch
import ppvae.data

def peak() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

torch.zeros(1).bernoulli()
before = peak()
data = ppvae.data.load(sys.argv[1], validation=0.1, test=1000, binarize="dynamic")
index = torch.tensor([0, 123_456])
batch = data.batch(index, torch.Generator().manual_seed(0))
data.fingerprint()
parts = [len(part) for part in data.parts.values()]
print(json.dumps({
    "growth": peak() - before, "mapped": data.memory_mapped, "parts": parts, "space": data.value_space,
    "dtype": str(data.x.dtype), "sums": batch.sum(1).tolist(), "last": data.test.tensor()[-1, :3].tolist(),
}))
"""


@pytest.mark.slow
def test_a_file_of_gigabytes_is_mapped_and_not_read(tmp_path: Path) -> None:
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc, which this system does not have")
    path = tmp_path / "large.npy"
    shape = (4_000_000, 784)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    array[123_456], array[-1, :3] = 255, 255
    array.flush()
    del array
    if path.stat().st_blocks * 512 > 2**28:
        pytest.skip("this file system has no sparse files, and 3 GB are too much to write")
    run = subprocess.run([sys.executable, "-c", MAPPED, str(path)], capture_output=True, text=True, check=True)
    assert "its last rows are held out" in run.stderr
    found = json.loads(run.stdout)
    assert found["mapped"]
    assert found["parts"] == [3_599_000, 400_000, 1000]
    assert (found["dtype"], found["space"]) == ("torch.uint8", "byte")
    assert found["sums"] == [0, 784]
    assert found["last"] == [1, 1, 1]
    assert found["growth"] < path.stat().st_size / 20


def test_a_mapped_file_is_refused_what_would_read_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppvae.data.npy.MAP_ABOVE", 100)
    rows = np.random.RandomState(0).rand(40, 6)
    path = write(tmp_path / "t.npy", npy_bytes(rows))
    data = load(path, validation=10)
    assert data.memory_mapped
    assert data.x.dtype == torch.float64  # type: ignore[union-attr]
    batch = data.batch(torch.tensor([3]))
    assert isinstance(batch, Tensor)
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch[0], rows[3], rtol=1e-6)
    assert data.validation is not None
    np.testing.assert_allclose(data.validation.tensor(), rows[30:], rtol=1e-6)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="memory-mapped; a static binarisation"):
        load(path, binarize="static")
    with pytest.raises(DataError, match="foreign byte order"):
        load(write(tmp_path / "big.npy", npy_bytes(rows.astype(">f8"))))
    # writing to the tensor does not touch the file
    data.x[0] = 7  # type: ignore[index]
    np.testing.assert_array_equal(np.load(path), rows)


def test_csv_rows_longer_than_the_names_are_refused(tmp_path: Path) -> None:
    """pandas would take the first cells for names of the rows, without a word, and thousands of them take minutes."""
    with pytest.raises(DataError, match="rows of more cells than the 2 of its first line"):
        load(write(tmp_path / "x.csv", b"a,b\n1,2,3\n4,5,6\n"))
    with pytest.raises(DataError, match="rows of more cells than the 3"):
        load(write(tmp_path / "y.csv", b"a,label,c\n" + b"1," * 40_000 + b"1\n1,2,3\n"))
    assert rows_of(write(tmp_path / "z.csv", b"a,b\n1,2,\n3,4,\n")).tolist() == [[1, 2], [3, 4]]  # no cell is lost


def test_cells_of_a_mat_file(tmp_path: Path) -> None:
    several = np.empty((1, 3), object)
    several[0] = [TABLE, TABLE[:1].astype(np.int16), TABLE[:, :2]]
    mixed = np.empty((2, 1), object)
    mixed[:, 0] = ["a word", TABLE + 1]
    path = write(tmp_path / "t.mat", mat_bytes(several=several, mixed=mixed, plain=TABLE - 1))
    found = read_cells(path)
    assert sorted(found) == ["mixed", "several"]
    for cell, expected in zip(found["several"] + found["mixed"], [*several[0], mixed[1, 0]], strict=True):
        np.testing.assert_array_equal(cell, expected)
    np.testing.assert_array_equal(rows_of(path), TABLE.astype(np.float32) - 1)


def test_columns_give_their_names(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("height,label,width\n1,a,2\n3,b,4\n")
    data = load(tmp_path / "t.csv", validation=1)
    assert [part.feature_names for part in data.parts.values()] == [("height", "width")] * 2
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    assert load(tmp_path / "t.csv").feature_names is None
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    assert load(tmp_path / "t.csv", image_shape=(2, 1), flatten=False).feature_names is None
