"""The named sets of images: digits and faces."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .amat import read_amat
from .files import Array, Arrays
from .idx import read_idx
from .mat import read_mat
from .named import Files, Paths, contents, shuffled, split
from ..core.errors import DataError, try_one_of


def digits(paths: Paths, files: Files) -> Arrays:
    """scikit-learn's digits, 17 grey levels."""
    found = find_spec("sklearn")  # not imported, which takes a second and a half, its file a twentieth of one
    if found is None or found.origin is None:
        raise DataError("digits: comes with scikit-learn." + try_one_of("pip install scikit-learn"))
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        table = np.loadtxt(path, delimiter=",")
        x, labels = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        x, labels = load_digits(return_X_y=True)
    return split(Arrays((x / 16).astype(np.float32), labels.astype(np.int64)), validation=200, test=300)


def mnist(paths: Paths, files: Files) -> Arrays:
    """The four IDX files; validation is the end of the training file."""
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


def mnist_5000(paths: Paths, files: Files) -> Arrays:
    """Five hundred images of each digit, a line each, the digit last."""
    content = contents(paths, files)["images"]
    table = np.loadtxt(io.BytesIO(content), dtype=np.uint8, delimiter=",")
    return split(shuffled(Arrays(table[:, :-1], table[:, -1].astype(np.int64))), validation=500, test=500)


def binarized_mnist(paths: Paths, files: Files) -> Arrays:
    """Three .amat files."""
    parts = {
        role: read_amat(path, checksum=files[role].checksum, shape=files[role].shape) for role, path in paths.items()
    }
    return Arrays(parts["train"], validation=Arrays(parts["validation"]), test=Arrays(parts["test"]))


def frey_faces(paths: Paths, files: Files) -> Arrays:
    """The frames, a column each."""
    return split(Arrays(np.ascontiguousarray(_columns(paths, files, "frames", "ff").T)), validation=200, test=200)


def olivetti_faces(paths: Paths, files: Files) -> Arrays:
    """Ten pictures of each of forty persons, a column each, whose own columns are the rows of the file.

    The test part is the ninth and tenth of each person (blei-lab/ars-reparameterization).
    """
    pictures = _columns(paths, files, "faces", "faces").T.reshape(400, 64, 64).transpose(0, 2, 1)
    numbers = np.arange(400)
    whole, test = Arrays(np.ascontiguousarray(pictures), numbers // 10), numbers % 10 >= 8
    train = whole.rows(np.flatnonzero(~test))
    return Arrays(train.x, train.labels, test=whole.rows(np.flatnonzero(test)))


def _columns(paths: Paths, files: Files, role: str, key: str) -> Array:
    """Bytes of a .mat file of the one shape that they have."""
    contents(paths, files)
    path, file = paths[role], files[role]
    array = read_mat(path, key=key)
    if array.shape != file.shape or array.dtype != np.uint8:
        raise DataError(f"{path}: expected uint8 {file.shape} under {key!r}, found {array.dtype} {array.shape}.")
    return array
