"""Arbitrary and mutated files give a data set or a DataError, nothing else."""

from __future__ import annotations

import gzip
import io
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppvae.core.bounds import MEMORY_VARIABLE
from ppvae.core.errors import DataError
from ppvae.data import load

from .test_sources import AMAT, CSV, TABLE, idx_bytes, mat_bytes, npy_bytes, parquet_bytes


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """64 MB are all that ppvae is told of, and the system gives a gigabyte beside what is in use."""
    monkeypatch.setenv(MEMORY_VARIABLE, "64MB")
    if not Path("/proc/self/statm").exists():
        yield
        return
    import resource

    import pandas  # noqa: F401 - what libraries take is not what a file takes
    import pyarrow.parquet  # noqa: F401

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _npz(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(buffer, x=TABLE, labels=np.array([1, 2]))
    return buffer.getvalue()


def _mat(version: str) -> bytes:
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, {"rows": TABLE, "n": 3}, format=version, do_compression=version == "5")
    return buffer.getvalue()


VALID: dict[str, list[bytes]] = {
    ".npy": [npy_bytes(TABLE), npy_bytes(TABLE.astype(np.uint8))],
    ".npz": [_npz(True), _npz(False)],
    ".idx": [idx_bytes(TABLE, 0x0E), idx_bytes(TABLE * 10, 0x08)],
    ".idx.gz": [gzip.compress(idx_bytes(TABLE, 0x0E))],
    ".amat": [AMAT, b"0 1 0\n1 1 0\n"],
    ".amat.gz": [gzip.compress(AMAT)],
    ".mat": [mat_bytes(rows=TABLE), _mat("4"), _mat("5")],
    ".csv": [CSV, b"a,b,label\n" + CSV],
    ".csv.gz": [gzip.compress(CSV), gzip.compress(b"a,b,label\n" + CSV)],
    ".parquet": [parquet_bytes(TABLE)],
}


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """A valid file with a few bytes changed, cut out or put in, more often near its head."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        end = draw(st.sampled_from([16, 160, len(content)]))
        at = draw(st.integers(0, max(0, min(end, len(content)) - 1)))
        change = draw(st.sampled_from(["set", "cut", "insert", "truncate"]))
        if change == "set" and content:
            content[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del content[at : at + draw(st.integers(1, 9))]
        elif change == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=9))
        else:
            del content[at:]
    return bytes(content)


def read(suffix: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"hostile{suffix}"
        path.write_bytes(content)
        try:
            data = load(path)
        except DataError as error:
            assert "hostile" in str(error)  # noqa: PT017 - both outcomes are right, and each has its own check
        else:
            assert len(data) * np.prod(data.event_shape, dtype=float) <= 1032 * max(1, len(content))


@pytest.mark.parametrize("suffix", VALID)
def test_arbitrary_bytes(suffix: str) -> None:
    heads = [original[:n] for original in VALID[suffix] for n in (0, 4, 8, 128)]

    @settings(max_examples=6 if suffix == ".mat" else 60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(head=st.sampled_from(heads), tail=st.binary(max_size=200))
    def check(head: bytes, tail: bytes) -> None:
        read(suffix, head + tail)

    check()


@pytest.mark.parametrize("suffix", VALID)
def test_mutated_files(suffix: str) -> None:
    for original in VALID[suffix]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"valid{suffix}"
            path.write_bytes(original)
            assert len(load(path)) == 2  # what is mutated below is a good file

    @settings(max_examples=10 if suffix == ".mat" else 150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(content=mutated(VALID[suffix]))
    def check(content: bytes) -> None:
        read(suffix, content)

    check()


SIZES = st.sampled_from([0, 1, 2, 3, 2**16, 2**24, 2**31, 2**32 - 1, 2**63, 10**30])


@settings(max_examples=200, deadline=None)
@given(
    shape=st.lists(SIZES | st.just(-1), max_size=4),
    dtype=st.sampled_from(
        ["|u1", "<f8", ">f4", "<c16", "|b1", "|O", "<U9", "|S0", "|V99999999", "<M8[s]", "[('a', 'u1')]"]
    ),
    fortran=st.booleans(),
    values=st.binary(max_size=64),
    suffix=st.sampled_from([".npy", ".npz"]),
)
def test_arrays_that_declare_anything(shape: list[int], dtype: str, fortran: bool, values: bytes, suffix: str) -> None:
    kind = dtype if dtype.startswith("[") else repr(dtype)
    text = f"{{'descr': {kind}, 'fortran_order': {fortran}, 'shape': {tuple(shape)}, }}\n".encode()
    content = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + values
    if suffix == ".npz":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", content)
        content = buffer.getvalue()
    read(suffix, content)


@settings(max_examples=100, deadline=None)
@given(
    dims=st.lists(SIZES.filter(lambda size: size < 2**32), min_size=1, max_size=5),
    code=st.sampled_from([0x08, 0x0B, 0x0E]),
    values=st.binary(max_size=64) | st.just(bytes(10**6)),
    suffix=st.sampled_from([".idx", ".idx.gz"]),
)
def test_images_that_declare_anything(dims: list[int], code: int, values: bytes, suffix: str) -> None:
    content = struct.pack(f">BBBB{len(dims)}I", 0, 0, code, len(dims), *dims) + values
    read(suffix, gzip.compress(content) if suffix == ".idx.gz" else content)


def test_an_archive_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    """The headers of .npy members are inside the archive: each is compared with the archive's own sizes."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (900000, 900000), }"
    lying = b"\x93NUMPY\1\0" + len(header + b"\n").to_bytes(2, "little") + header + b"\n" + bytes(48)
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("x.npy", lying)
    with pytest.raises(DataError, match=r"lying.npz\['x'\]: its header promises 6480000000000 bytes"):
        load(tmp_path / "lying.npz")
    (tmp_path / "lying.npy").write_bytes(lying)
    with pytest.raises(DataError, match=r"lying.npy: not readable"):
        load(tmp_path / "lying.npy")


def test_a_reader_that_crashes_is_an_error_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up file can make compiled code abort; the process that reads it is not ours."""
    path = tmp_path / "x.mat"
    path.write_bytes(mat_bytes(x=np.zeros((3, 2))))
    assert len(load(path)) == 3
    monkeypatch.setattr("ppvae.data.mat._READER", "import os; os.abort()")
    with pytest.raises(DataError, match=r"not readable as .mat: its reader crashed \(signal 6\)"):
        load(path)
