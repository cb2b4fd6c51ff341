"""Files that unfold: each is refused by name before its bytes are allocated, in a process that has little memory."""

from __future__ import annotations

import bz2
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from ppvae.core.bounds import MEMORY_VARIABLE, _control_group, in_words, memory_limit, require_room
from ppvae.core.errors import DataError, PpvaeError
from ppvae.data import load
from ppvae.data.limits import SHARE, Budget, file_limit

from .test_sources import CSV, TABLE, npy_bytes

ROOM = 1_000_000_000
"""Bytes that the child may take beyond its imports; a file may hold a quarter of them."""
HUGE = 4_000_000_000

READ = """
import json, os, resource, sys
import ppvae.data
from ppvae.core.errors import DataError
import pandas, pyarrow.parquet

def now(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

hard = resource.getrlimit(resource.RLIMIT_AS)[1]
for path in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_AS, (now("VmSize:") + int(sys.argv[1]), hard))
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = now("VmRSS:")
    try:
        outcome = repr(ppvae.data.load(path))
    except DataError as error:
        outcome = f"DataError: {error}"
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps([outcome, now("VmHWM:") - before, children]))
"""


class Outcome(NamedTuple):
    """What became of a file: the data or the message, the rise of the memory, the most that a child of it took."""

    text: str
    growth: int
    children: int


def header(dtype: str, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def unfolding(head: bytes, piece: bytes, size: int) -> bytes:
    """Raw deflate of ``head`` and then ``size`` bytes of pieces, made without making these."""
    whole = piece * (1_000_000 // len(piece))
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    result = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(whole) + stream.flush(zlib.Z_FULL_FLUSH)  # as independent of the place as a file of its own
    return result + block * -(-size // len(whole)) + stream.flush()


def checksum_of(head: bytes, piece: bytes, size: int) -> int:
    """The CRC-32 that an archive of it states; only what is read to its end needs the true one."""
    whole, crc = piece * (1_000_000 // len(piece)), zlib.crc32(head)
    for _ in range(-(-size // len(whole)) if size <= 3e8 else 0):
        crc = zlib.crc32(whole, crc)
    return crc


def zipped(head: bytes, piece: bytes, size: int = HUGE) -> bytes:
    crc = checksum_of(head, piece, size)
    count = len(head) + -(-size // (len(piece) * (1_000_000 // len(piece)))) * len(piece) * (1_000_000 // len(piece))
    end = struct.pack("<II", crc, count % 2**32)
    return b"\x1f\x8b\x08" + bytes(7) + unfolding(head, piece, size) + end


class Member(NamedTuple):
    """A member of a zip archive, compressed already."""

    name: str
    content: bytes
    method: int
    size: int
    crc: int = 0


def archive(*members: Member) -> bytes:
    body, directory = b"", b""
    for name, content, method, size, crc in members:
        fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, crc, len(content), size, len(name), 0)
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += b"PK\3\4" + fields + name.encode() + content
    count = len(members)
    return body + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(body), 0)


def zeros(head: bytes, size: int = HUGE, name: str = "x") -> Member:
    """An array of so many zero bytes."""
    content, crc = unfolding(head, bytes(1), size), checksum_of(head, bytes(1), size)
    return Member(f"{name}.npy", content, zipfile.ZIP_DEFLATED, size + len(head), crc)


def bzip2() -> bytes:
    """What zipfile cannot read in pieces: it unfolds 4 kB of it at once, to gigabytes where these are zeros."""
    content = header("|u1", (20, 1_000_000)) + bytes(20_000_000)
    return archive(Member("x.npy", bz2.compress(content), zipfile.ZIP_BZIP2, len(content), zlib.crc32(content)))


def mat(shape: tuple[int, int], size: int) -> bytes:
    """A .mat file of version 5 with one compressed array, whose values have ``size`` bytes."""
    flags = struct.pack("<IIII", 6, 8, 6, 0)
    dims = struct.pack("<IIii", 5, 8, *shape)
    name = struct.pack("<HH4s", 1, 1, b"x")
    values = struct.pack("<II", 9, size)
    head = struct.pack("<II", 14, size + len(flags + dims + name + values)) + flags + dims + name + values
    content = b"\x78\x9c" + unfolding(head, bytes(1), size)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(content)) + content


def parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    column = np.zeros(4_000_000, np.int8)
    pyarrow.parquet.write_table(pyarrow.table({f"c{i}": column for i in range(16)}), buffer)
    return buffer.getvalue()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "array.npz": (
        lambda: archive(zeros(header("<f4", (250_000_000, 4)))),
        r"array.npz\['x'\]: declares an array of 250000000 x 4 float32, 4.0 GB: the limit is 2\d\d.\d MB",
    ),
    "bzip2.npz": (bzip2, r"bzip2.npz\['x'\]: compressed by method 12 of zip"),
    "header.npz": (
        lambda: archive(zeros(b"\x93NUMPY\2\0" + struct.pack("<I", HUGE))),
        r"header.npz\['x'\]: declares a header of 4000000000 bytes, more than the limit of 10000",
    ),
    "members.npz": (
        lambda: archive(*(zeros(header("<f4", (50, 1_000_000)), 200_000_000, name) for name in "abc")),
        r"members.npz\['b'\]: declares an array of 50 x 1000000 float32, 200.0 MB, beside 200.0 MB of the same file",
    ),
    "more.npz": (lambda: archive(zeros(header("<f4", (50, 10)))), r"more.npz\['x'\]: .* needs 2000 bytes, found more"),
    "bytes.npz": (
        lambda: archive(zeros(header("|u1", (20, 10_000_000)), 200_000_000)),
        r"bytes.npz: 200.0 MB of torch.uint8 take 800.0 MB as torch.float32, more than the limit[\s\S]*torch.uint8",
    ),
    "header.npy": (lambda: b"\x93NUMPY\2\0" + struct.pack("<I", HUGE), "declares a header of 4000000000 bytes"),
    "images.idx.gz": (
        lambda: zipped(b"\0\0\x08\3" + struct.pack(">III", 1000, 2000, 2000), bytes(1)),
        "images.idx.gz: declares an array of 1000 x 2000 x 2000 uint8, 4.0 GB",
    ),
    "digits.amat.gz": (lambda: zipped(b"", b"0 1 0 1\n"), "digits.amat.gz: holds more than 2.* MB, counted unzipped"),
    "numbers.amat.gz": (
        lambda: zipped(b"", b"12 3\n", 10**8),
        "numbers.amat.gz: declares an array of 20000000 x 2 float64, 320.0 MB",
    ),
    "line.amat.gz": (
        lambda: zipped(b"12 0\n", b"12 0 ", 30_000_000),
        "line.amat.gz: a line of 30.0 MB, the limit of one datum",
    ),
    "rows.csv.gz": (lambda: zipped(b"", b"0,1,0,1\n"), r"rows.csv.gz: holds rows \d+ to \d+ of 4 numbers, .* beside 2"),
    "line.csv.gz": (lambda: zipped(b"", b"0,"), "line.csv.gz: a line of more than .* MB, the limit of one datum"),
    "quote.csv.gz": (lambda: zipped(b'0,1\n0,"', b"0\n"), "quote.csv.gz: holds more than 2.* MB, counted unzipped"),
    "columns.csv": (lambda: b"0," * 1_000_000 + b"0\n", "columns.csv: declares 1000001 columns, 1.0 GB"),
    "rows.mat": (lambda: mat((4000, 100_000), 3_200_000_000), "declares an array of 4000 x 100000 float64, 3.2 GB"),
    "lie.mat": (lambda: mat((4, 5), 3_200_000_000), "not readable as .mat: it takes more memory than the limit"),
    "rows.parquet": (parquet, "rows.parquet: declares an array of 4000000 x 16 float64, 512.0 MB"),
    "good.npz": (
        lambda: archive(zeros(header("<f4", (2000, 25_000)), 200_000_000)),
        r"^Dataset\('good', 2000 x \(25000,\)",
    ),
    "good.csv.gz": (lambda: zipped(b"", b"0,1,0,3\n", 30_000_000), r"^Dataset\('good', 3750000 x \(4,\)"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What a process with little memory says of each file."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("memory is limited and measured as Linux does it")
    folder = tmp_path_factory.mktemp("limits")
    for name, (make, _) in FILES.items():
        (folder / name).write_bytes(make())
        assert (folder / name).stat().st_size < 2**25
    os.truncate(folder / "header.npy", HUGE)  # with a hole: nothing is written
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2", "PPVAE_CACHE": str(folder / "cache")}
    environment.pop(MEMORY_VARIABLE, None)
    command = [sys.executable, "-c", READ, str(ROOM), *(str(folder / name) for name in FILES)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    return {name: Outcome(*json.loads(line)) for name, line in zip(FILES, done.stdout.splitlines(), strict=True)}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_unfolds_is_refused_by_name_in_little_memory(name: str, outcomes: dict[str, Outcome]) -> None:
    """Each holds gigabytes, or lies. What is read of it stays below the memory that a file may take."""
    outcome = outcomes[name]
    assert re.search(FILES[name][1], outcome.text), outcome.text
    if outcome.text.startswith("DataError"):
        assert name in outcome.text
    assert outcome.growth < 0.8 * ROOM
    assert outcome.children < 0.8 * ROOM


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> int:
    """The bytes that a file may hold, where the user states 4 MB of memory."""
    monkeypatch.setenv(MEMORY_VARIABLE, "4MB")
    assert file_limit() == 4_000_000 // SHARE
    return file_limit()


def test_the_limit_can_be_raised_as_the_message_says(
    tmp_path: Path, little: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit a file is read, one value above it is refused; what the message proposes is enough."""
    at, above = np.zeros((2, little // 8 // 2), np.float64), np.zeros((2, little // 8 // 2 + 1), np.float64)
    for name, save in (("x.npz", np.savez_compressed), ("x.npy", np.save)):
        path = tmp_path / name
        save(path, at)
        assert load(path).event_shape == (little // 16,)
        save(path, above)
        with pytest.raises(
            DataError, match=r"declares an array of 2 x 62501 float64, 1.0 MB: the limit is 1.0 MB"
        ) as caught:
            load(path)
        found = re.search(rf"{MEMORY_VARIABLE}=(\S+) in the environment", str(caught.value))
        assert found is not None
        with monkeypatch.context() as patch:
            patch.setenv(MEMORY_VARIABLE, found[1])
            assert load(path).event_shape == (little // 16 + 1,)
    monkeypatch.setattr("ppvae.data.npy.MAP_ABOVE", 1000)  # what is mapped takes no memory
    assert load(tmp_path / "x.npy").memory_mapped


def test_blank_lines_and_labels_count_too(tmp_path: Path, little: int) -> None:
    (tmp_path / "blank.csv.gz").write_bytes(zipped(b"0,1\n", b"\n", 3_000_000))
    with pytest.raises(DataError, match=r"blank.csv.gz: holds more than 1.0 MB, counted unzipped"):
        load(tmp_path / "blank.csv.gz")
    few = b"x,label\n" + b"".join(b"1,%x\n" % i for i in range(5000)) * 4
    (tmp_path / "labels.csv").write_bytes(few)
    labels = load(tmp_path / "labels.csv").labels
    assert labels is not None
    assert len(labels.unique()) == 5000  # of 20000 rows: a label counts once
    (tmp_path / "labels.csv").write_bytes(b"x,label\n" + b"".join(b"1,%x\n" % i for i in range(11_000)))
    with pytest.raises(DataError, match=r"labels.csv: holds 11000 different labels, 1.1 MB"):
        load(tmp_path / "labels.csv")


def test_pieces_of_a_table_are_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are those of the whole column, rows are counted from its start, labels are ranked over all pieces."""
    monkeypatch.setattr("ppvae.data.tables._CELLS", 6)
    rows = np.random.RandomState(0).randint(0, 9, (20, 2))
    text = "\n".join(f"{a},{b},{10 * a}" for a, b in rows)
    path = tmp_path / "t.csv"
    path.write_text("a,b,label\n" + text)
    data = load(path)
    np.testing.assert_array_equal(data.tensor(), rows.astype(np.float32))
    np.testing.assert_array_equal(data.labels, np.unique(rows[:, 0], return_inverse=True)[1])  # type: ignore[arg-type]
    path.write_text("a,b,label\n" + text + "\n0.5,1,ten\n")  # labels are words now, and "100" comes before "20"
    data = load(path)
    assert data.tensor()[-1].tolist() == [0.5, 1]  # type: ignore[index]
    names = [str(10 * a) for a, _ in rows] + ["ten"]
    np.testing.assert_array_equal(data.labels, np.unique(names, return_inverse=True)[1])  # type: ignore[arg-type]
    path.write_text("a,b,label\n" + text + "\n1,one,3\n")
    with pytest.raises(DataError, match=r"column 'b' is not numbers, first at row 20: 'one'"):
        load(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".csv", ".csv.gz", ".parquet", ".idx", ".idx.gz", ".amat", ".mat"])
def test_what_is_no_file_is_refused_before_it_is_opened(suffix: str, tmp_path: Path) -> None:
    """To open a FIFO without a writer would wait for ever; a device may never end."""
    os.mkfifo(tmp_path / f"fifo{suffix}")
    (tmp_path / f"device{suffix}").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # names of sockets are short
        server.bind(f"socket{suffix}")
        for name, kind in (("fifo", "a FIFO"), ("device", "a device"), ("socket", "a socket")):
            with pytest.raises(DataError, match=rf"{name}{suffix}: {kind}, not a file"):
                load(tmp_path / f"{name}{suffix}")
    (tmp_path / "real").write_bytes(npy_bytes(TABLE) if suffix == ".npy" else CSV)
    (tmp_path / f"link{suffix}").symlink_to(tmp_path / "real")
    if suffix in (".npy", ".csv"):
        assert len(load(tmp_path / f"link{suffix}")) == 2  # a link to a file is one


def test_the_memory_that_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, size in [
        ("64GB", 64 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("500m", 5 * 10**8),
        ("2GiB", 2**31),
        ("4096", 4096),
    ]:
        monkeypatch.setenv(MEMORY_VARIABLE, text)
        assert memory_limit() == size
    for text in ("much", "GB", "-1GB", "nan", "1XB", "0", "inf GB"):
        monkeypatch.setenv(MEMORY_VARIABLE, text)
        with pytest.raises(PpvaeError, match=rf"{MEMORY_VARIABLE}: expected bytes, as 64GB or 500MB, found"):
            memory_limit()
    monkeypatch.delenv(MEMORY_VARIABLE)
    assert 10**8 < memory_limit() < 10**14


def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "1MB")
    require_room(10**6, "just so much")
    with pytest.raises(
        PpvaeError, match=r"more: takes 1.0 MB, more than the memory limit of 1.0 MB[\s\S]*PPVAE_MEMORY=1GB"
    ):
        require_room(10**6 + 1, "more")
    assert [in_words(size) for size in (1, 10**3, 25 * 10**8, 10**15)] == ["1 bytes", "1.0 kB", "2.5 GB", "1,000.0 TB"]


def test_a_budget_is_of_one_file(little: int) -> None:
    budget = Budget(Path("x"))
    assert budget.declare((3, 5), np.int16) == 30
    budget.declare((little - 30,), np.uint8)
    with pytest.raises(
        DataError, match=r"x\['y'\]: declares an array of 1 uint8, 1 bytes, beside 1.0 MB of the same file"
    ):
        budget.declare((), np.uint8, "x['y']")
    Budget(Path("x")).declare((little,), np.uint8)


def test_the_memory_of_a_job(tmp_path: Path) -> None:
    """The least of a group and of those above it counts, in both versions of control groups."""
    root, own = tmp_path / "cgroup", tmp_path / "own"
    job = root / "user" / "job"
    job.mkdir(parents=True)
    own.write_text("0::/user/job\n")
    assert _control_group(root, own) is None
    (job / "memory.max").write_text("max\n")
    assert _control_group(root, own) is None
    (root / "user" / "memory.max").write_text("5000\n")
    assert _control_group(root, own) == 5000
    (job / "memory.max").write_text("3000\n")
    assert _control_group(root, own) == 3000
    own.write_text("7:cpu:/a\n4:memory:/b\n")
    (root / "memory" / "b").mkdir(parents=True)
    (root / "memory" / "b" / "memory.limit_in_bytes").write_text("700\n")
    assert _control_group(root, own) == 700
    assert _control_group(tmp_path / "none", tmp_path / "none") is None


def test_the_process_that_reads_mat_files_has_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the limit of its parent, which has none: what the file unfolds to beside what it declares is refused."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is limited as Linux does it")
    (tmp_path / "lie.mat").write_bytes(mat((4, 5), 400_000_000))
    monkeypatch.setenv(MEMORY_VARIABLE, "200MB")
    with pytest.raises(DataError, match=r"lie.mat: not readable as .mat: it takes more memory than the limit"):
        load(tmp_path / "lie.mat")
    monkeypatch.setenv(MEMORY_VARIABLE, "4GB")
    with pytest.raises(DataError, match=r"lie.mat: not readable as .mat: ValueError: cannot reshape"):
        load(tmp_path / "lie.mat")
