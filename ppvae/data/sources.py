"""From a path to arrays: which reader reads which file."""

from __future__ import annotations

import re
from pathlib import Path

from .amat import read_amat
from .files import Arrays, read_errors
from .idx import read_idx
from .images import is_folder_of_images, read_images
from .limits import require_file
from .mat import read_mat
from .npy import read_npy, read_npz
from .tables import read_csv, read_parquet
from ..core.errors import DataError, did_you_mean, try_one_of

FORMATS = (".npy", ".npz", ".csv", ".parquet", ".idx", ".amat", ".mat")

_IDX = re.compile(r"[.-]idx\d*(-u?byte|-short|-int|-float|-double)?$")


def format_of(path: Path) -> str | None:
    """The format that a file name says, one of :data:`FORMATS`, or None; ``.gz`` is looked through.

    >>> format_of(Path("train-images-idx3-ubyte.gz")), format_of(Path("notes.txt"))
    ('.idx', None)
    """
    name = path.name.lower().removesuffix(".gz")
    if _IDX.search(name):
        return ".idx"
    suffix = Path(name).suffix
    return suffix if suffix in FORMATS else None


def read_path(path: Path, *, key: str | None = None) -> Arrays:
    """The arrays of one file, or of a folder of images.

    Args:
        path: a file of one of the formats above; ``.gz`` for IDX, .amat and .csv; or a folder of images.
        key: which array of a .mat file.

    Raises:
        DataError: no such file, a folder without images or a FIFO, an unknown format, more than the limit on what a
            file may hold (:mod:`ppvae.data.limits`), or whatever is wrong with the content.
    """
    if path.is_dir():
        if is_folder_of_images(path) and key is None:
            return read_images(path)
        inside = sorted(entry.name for entry in path.iterdir() if format_of(entry))
        raise DataError(
            f"{path}: a folder, not a file, and not one of images."
            + try_one_of(*(inside or ["a file inside it", "a folder of .png or .jpg files"]))
        )
    kind = format_of(path)
    if kind is None:
        raise DataError(
            f"{path}: unknown format {path.suffix!r}: {did_you_mean(path.suffix.lower(), FORMATS)}"
            + try_one_of("numpy.save('rows.npy', rows)", "ppvae.data.as_dataset(tensor)")
        )
    if not path.exists():
        nearest = did_you_mean(path.name, [f.name for f in path.parent.iterdir()]) if path.parent.is_dir() else None
        hint = nearest if nearest and nearest.startswith("did") else "check the spelling and the folder"
        raise DataError(f"{path}: no such file: {hint.split('? Known')[0]}")
    require_file(path)
    if key is not None and kind != ".mat":
        raise DataError(f"{path}: key={key!r} chooses an array of a .mat file, this is {kind}.")
    if path.name.lower().endswith(".gz") and kind in (".npy", ".npz", ".parquet", ".mat"):
        raise DataError(f"{path}: zipped {kind} files are not read." + try_one_of(f"gunzip {path.name}"))
    with read_errors(path, kind):
        match kind:
            case ".npy":
                return read_npy(path)
            case ".npz":
                return read_npz(path)
            case ".csv":
                return read_csv(path)
            case ".parquet":
                return read_parquet(path)
            case ".amat":
                return Arrays(read_amat(path))
            case ".mat":
                return Arrays(read_mat(path, key=key))
            case _:
                return Arrays(read_idx(path))
