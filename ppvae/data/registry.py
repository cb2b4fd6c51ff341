"""The data sets with a name: where their files are, how they are verified, how they are split."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .amat import read_amat
from .files import Array, Arrays, cache_folder, read_content, verify
from .idx import read_idx
from .mat import read_mat
from .splits import split_rows
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


@dataclass(frozen=True)
class NamedFile:
    """A file of a named set; ``checksum`` is of the unzipped content."""

    name: str
    checksum: str | None = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class NamedSet:
    """A data set with a name: its files by role, and the function that makes arrays of them."""

    description: str
    image_shape: tuple[int, ...]
    sizes: tuple[int, int, int]
    read: Callable[[Mapping[str, Path], Mapping[str, NamedFile]], Arrays]
    folder: str = ""
    files: Mapping[str, NamedFile] | None = None
    url: str | None = None


def _digits(paths: Mapping[str, Path], files: Mapping[str, NamedFile]) -> Arrays:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits: comes with scikit-learn." + try_one_of("pip install scikit-learn")) from error
    x, labels = load_digits(return_X_y=True)
    return _split((x / 16).astype(np.float32), labels.astype(np.int64), validation=200, test=300)


def _mnist(paths: Mapping[str, Path], files: Mapping[str, NamedFile]) -> Arrays:
    arrays = {
        role: read_idx(path, checksum=files[role].checksum, shape=files[role].shape) for role, path in paths.items()
    }
    x, labels = arrays["train images"], arrays["train labels"].astype(np.int64)
    held_out = len(arrays["test images"])
    return Arrays(
        x[:-held_out],
        labels[:-held_out],
        validation=Arrays(x[-held_out:], labels[-held_out:]),
        test=Arrays(arrays["test images"], arrays["test labels"].astype(np.int64)),
    )


def _binarized_mnist(paths: Mapping[str, Path], files: Mapping[str, NamedFile]) -> Arrays:
    parts = {
        role: read_amat(path, checksum=files[role].checksum, shape=files[role].shape) for role, path in paths.items()
    }
    return Arrays(parts["train"], validation=Arrays(parts["validation"]), test=Arrays(parts["test"]))


def _frey_faces(paths: Mapping[str, Path], files: Mapping[str, NamedFile]) -> Arrays:
    path, file = paths["frames"], files["frames"]
    verify(read_content(path, ".mat"), path, file.checksum)
    frames = read_mat(path, key="ff")
    if frames.shape != file.shape or frames.dtype != np.uint8:
        raise DataError(f"{path}: expected uint8 {file.shape} under 'ff', found {frames.dtype} {frames.shape}.")
    return _split(np.ascontiguousarray(frames.T), None, validation=200, test=200)


def _split(x: Array, labels: Array | None, *, validation: int, test: int) -> Arrays:
    """The fixed split of a set without parts: seed 0, stratified where there are labels."""
    parts = [
        Arrays(x[rows], None if labels is None else labels[rows])
        for rows in split_rows(len(x), validation, test, strata=labels)
    ]
    return Arrays(parts[0].x, parts[0].labels, validation=parts[1], test=parts[2])


REGISTRY: dict[str, NamedSet] = {
    "digits": NamedSet(
        "handwritten digits 8 x 8, 17 grey levels (scikit-learn's, bundled)",
        (8, 8),
        (1297, 200, 300),
        _digits,
    ),
    "mnist": NamedSet(
        "handwritten digits 28 x 28, 256 grey levels; validation is the end of the training file",
        (28, 28),
        (50_000, 10_000, 10_000),
        _mnist,
        folder="mnist",
        url=MNIST_URL,
        files={
            "train images": NamedFile(
                "train-images-idx3-ubyte",
                "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                (60_000, 28, 28),
            ),
            "train labels": NamedFile(
                "train-labels-idx1-ubyte",
                "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                (60_000,),
            ),
            "test images": NamedFile(
                "t10k-images-idx3-ubyte",
                "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                (10_000, 28, 28),
            ),
            "test labels": NamedFile(
                "t10k-labels-idx1-ubyte",
                "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
                (10_000,),
            ),
        },
    ),
    "binarized-mnist": NamedSet(
        "MNIST binarised once for all by Larochelle, no labels",
        (28, 28),
        (50_000, 10_000, 10_000),
        _binarized_mnist,
        folder="binarized_mnist",
        files={
            "train": NamedFile("binarized_mnist_train.amat", "md5:db28b1a6ae0fe70cbd3da91acf46e477", (50_000, 784)),
            "validation": NamedFile(
                "binarized_mnist_valid.amat", "md5:bf37822a04e94123630de6a7dfd9c9ef", (10_000, 784)
            ),
            "test": NamedFile("binarized_mnist_test.amat", "md5:14e41ae11040adba6ab8cb291eda0dd8", (10_000, 784)),
        },
    ),
    "frey-faces": NamedSet(
        "frames 28 x 20 of one face, 256 grey levels, no labels",
        (28, 20),
        (1565, 200, 200),
        _frey_faces,
        folder="frey_faces",
        files={"frames": NamedFile("frey_rawface.mat", shape=(560, 1965))},
    ),
}


def roots() -> list[Path]:
    """Where the files of named sets are searched: ``PPVAE_DATA`` (if it is set), then the cache folder."""
    data = os.environ.get("PPVAE_DATA")
    return ([Path(data)] if data else []) + [cache_folder()]


def find_file(entry: NamedSet, file: NamedFile) -> Path | None:
    """The first of ``file`` and ``file.gz`` in the folder of the set under :func:`roots`."""
    for root in roots():
        for name in (file.name, f"{file.name}.gz"):
            path = root / entry.folder / name
            if path.is_file():
                return path
    return None


def read_set(name: str, *, base_url: str | None = None) -> Arrays:
    """The arrays of a named set, every file verified; MNIST is downloaded into the cache folder if absent.

    Raises:
        DataError: absent files (says where to put which), a wrong checksum, a failed download.
    """
    entry = REGISTRY[name]
    files = entry.files or {}
    paths: dict[str, Path] = {}
    for role, file in files.items():
        path = find_file(entry, file)
        if path is None:
            if entry.url is None:
                raise DataError(
                    f"{name}: {file.name} is neither in the data folder nor in the cache folder, and is "
                    "not downloaded."
                    + try_one_of(
                        *(f"put {file.name} or {file.name}.gz into {root / entry.folder}" for root in roots()),
                        "set PPVAE_DATA to a folder that holds " + f"{entry.folder}/{file.name}",
                    )
                )
            path = _download(entry, file, base_url or entry.url)
        paths[role] = path
    return entry.read(paths, files)


def _download(entry: NamedSet, file: NamedFile, base_url: str) -> Path:
    """Fetches ``file.gz`` into the cache folder; it gets its name there only once its checksum is right."""
    import pooch

    url = f"{base_url.rstrip('/')}/{file.name}.gz"
    folder = cache_folder() / entry.folder
    target = folder / f"{file.name}.gz"
    remedies = try_one_of(
        "try again when the network is back",
        f"put the file into {folder} by hand",
        "set PPVAE_DATA to a folder that holds " + f"{entry.folder}/{file.name}.gz",
        "use the bundled set 'digits', which needs no download",
    )
    _log.info("downloading %s", url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            part = Path(temporary) / target.name
            pooch.HTTPDownloader(timeout=30)(url, str(part), None)
            verify(read_content(part, "gzip"), part, file.checksum)
            os.replace(part, target)
    except DataError as error:
        raise DataError(f"{url}: the download is damaged: {error.args[0].splitlines()[0]}" + remedies) from error
    except Exception as error:  # requests and urllib3 raise many kinds
        raise DataError(f"{url}: cannot be downloaded ({type(error).__name__}: {error})." + remedies) from error
    return target
