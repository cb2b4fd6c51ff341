"""``load``: a name or a path in, a model-ready Dataset with its splits out."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from .convert import picture_shape, to_tensor, value_space_of, widest
from .dataset import Binarization, Dataset, ValueSpace, sampled_rows
from .files import Arrays
from .registry import NAMED, find_file, read_named
from .sources import format_of, read_path
from .splits import count_of, split_rows
from ..core.errors import DataError, did_you_mean, try_one_of

_log = logging.getLogger("ppvae.data")

Parts = dict[str, Arrays]


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
    dtype: torch.dtype | None = None,
    base_url: str | None = None,
) -> Dataset:
    r"""A named data set, or the rows of a file, as a Dataset with its splits.

    Names: ``digits`` (bundled), ``mnist``, ``binarized-mnist``, ``frey-faces``, each with a fixed split; their files
    are looked for in ``PPVAE_DATA``, then in the cache folder (``PPVAE_CACHE`` or the user's own), and verified by
    checksum. Files: .npy (memory-mapped above 256 MiB), .npz, .csv, .parquet, IDX, .amat, .mat.

    Values come out model ready: bytes are divided by 255 (value space "unit") and all in the default float dtype;
    only a memory-mapped file keeps what is on disk, converted batch by batch.

    Args:
        name_or_path: one of the names, or a path.
        binarize: "static" draws :math:`x \sim \mathrm{Bernoulli}(x)` once, by ``seed``; "dynamic" draws the training
            rows anew at each batch, and the held-out parts once, by ``seed``, so that evaluations compare.
        seed: of the static binarisation, and of the split of a file. The named splits do not depend on it.
        flatten: rows ``[N, D]``; False gives images ``[N, 1, H, W]`` (other event shapes as they stand in the file).
        image_shape: how to draw a flat row of a file, for instance (28, 28).
        validation: for a file without parts of its own: how much to hold out, a fraction or a number of rows. Of a
            memory map, the last rows are held out (a random choice would read it whole).
        test: likewise.
        key: which array of a .mat file.
        dtype: how rows are kept in memory. None: the default float dtype; ``torch.uint8`` keeps bytes (and zeros and
            ones) in a quarter of the memory, converted batch by batch.
        base_url: where MNIST is downloaded from if it is absent.

    Raises:
        DataError: unknown name (suggests the nearest), absent or damaged files, values that are not finite, held-out
            parts that do not fit, binarisation of values outside [0, 1].

    >>> load("digits")
    Dataset('digits', 1297 x (64,) unit, labels, validation=200, test=300)
    """
    name = str(name_or_path)
    if binarize not in get_args(Binarization):
        raise DataError(
            f"{name}: unknown binarize {binarize!r}: {did_you_mean(str(binarize), get_args(Binarization))}"
        )
    if name in NAMED:
        if (validation, test, key) != (None, None, None):
            raise DataError(
                f"{name}: has a fixed split and one array; validation, test and key are for files."
                + try_one_of("leave them out", "load(...).take(n) for fewer training rows")
            )
        arrays, image_shape = read_named(name, base_url=base_url), NAMED[name].image_shape
    else:
        path = Path(name).expanduser()
        if format_of(path) is None and not path.exists() and len(path.parts) == 1:
            raise DataError(
                f"unknown data set {name!r}: {did_you_mean(name, NAMED)}"
                + try_one_of("one of these names", "a path to .npy, .npz, .csv, .parquet, IDX, .amat or .mat")
            )
        arrays = _split(read_path(path, key=key), name, validation, test, seed)
        name = path.name.removesuffix(".gz").rsplit(".", 1)[0] if "." in path.name else path.name
    parts = {"train": arrays, "validation": arrays.validation, "test": arrays.test}
    held = {part: value for part, value in parts.items() if value is not None}
    datasets = _datasets(held, name, flatten, image_shape, dtype)
    for offset, part in enumerate(parts):
        if part in datasets:
            datasets[part] = _binarized(datasets[part], binarize, seed, offset, part)
    return replace(datasets["train"], validation=datasets.get("validation"), test=datasets.get("test"))


def _split(
    arrays: Arrays, name: str, validation: float | int | None, test: float | int | None, seed: int
) -> Arrays:
    """The rows of a file cut into parts, if the caller asks and the file does not come cut."""
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
        _log.warning(
            "%s: memory-mapped, so its last rows are held out; shuffle the file if it is sorted.", name
        )
        start, middle = n - sum(held_out.values()), n - held_out["test"]
        rows: list[slice | np.ndarray] = [slice(0, start), slice(start, middle), slice(middle, n)]  # type: ignore[type-arg]
    else:
        rows = list(split_rows(n, held_out["validation"], held_out["test"], seed=seed))
    cut = [
        Arrays(
            arrays.x[r],
            None if arrays.labels is None else arrays.labels[r],
            memory_mapped=arrays.memory_mapped,
        )
        for r in rows
    ]
    return Arrays(
        cut[0].x,
        cut[0].labels,
        validation=cut[1] if held_out["validation"] else arrays.validation,
        test=cut[2] if held_out["test"] else arrays.test,
        memory_mapped=arrays.memory_mapped,
    )


def _datasets(
    parts: Parts, name: str, flatten: bool, image_shape: tuple[int, ...] | None, dtype: torch.dtype | None
) -> dict[str, Dataset]:
    """Checked, typed and shaped; all parts in the one value space that holds them all."""
    where = {part: name if part == "train" else f"{name}/{part}" for part in parts}
    tensors = {
        part: to_tensor(array.x, where[part], mapped=array.memory_mapped) for part, array in parts.items()
    }
    for part, x in tensors.items():
        if x.dim() == 1:
            raise DataError(
                f"{where[part]}: a 1-D array of shape {tuple(x.shape)} where rows [N, *event] are meant."
                + try_one_of("x[None] if it is one datum", "x[:, None] if it holds one number for each datum")
            )
        if x.shape[1:] != tensors["train"].shape[1:]:
            raise DataError(
                f"{where[part]}: event shape {tuple(x.shape[1:])}, but the training rows have "
                f"{tuple(tensors['train'].shape[1:])}."
            )
    space = widest(
        [value_space_of(sampled_rows(x) if parts[p].memory_mapped else x) for p, x in tensors.items()]
    )
    datasets = {}
    for part, x in tensors.items():
        mapped, labels = parts[part].memory_mapped, parts[part].labels
        kept_space, x = (space, x) if mapped else _stored(x, space, dtype, where[part])
        x, picture = _shaped(x, flatten, image_shape, where[part])
        datasets[part] = Dataset(
            x,
            labels=None if labels is None else torch.from_numpy(np.array(labels)),
            name=where[part],
            value_space=kept_space,
            image_shape=picture,
            memory_mapped=mapped,
        )
    return datasets


def _stored(x: Tensor, space: ValueSpace, dtype: torch.dtype | None, where: str) -> tuple[ValueSpace, Tensor]:
    """Rows as they are kept in memory: model ready, or bytes on demand."""
    if dtype == torch.uint8:
        if x.is_floating_point() and space != "binary":
            raise DataError(f"{where}: {space} values do not fit uint8." + try_one_of("dtype=None"))
        if space not in ("byte", "binary"):
            raise DataError(
                f"{where}: {space} values kept as uint8 would be read as bytes." + try_one_of("dtype=None")
            )
        return space, x.to(torch.uint8)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise DataError(f"{where}: rows are kept as floating point or torch.uint8, not {dtype}.")
    return ("unit", x.to(dtype) / 255) if space == "byte" else (space, x.to(dtype))


def _shaped(
    x: Tensor, flatten: bool, image_shape: tuple[int, ...] | None, where: str
) -> tuple[Tensor, tuple[int, ...] | None]:
    """Flat rows or images, and how to draw a flat row."""
    event = tuple(x.shape[1:])
    picture = image_shape or picture_shape(event)
    if picture is not None and math.prod(picture) != math.prod(event):
        raise DataError(
            f"{where}: image_shape {picture} does not hold the {math.prod(event)} values of a row."
        )
    wanted: tuple[int, ...] = event
    if flatten:
        wanted = (math.prod(event),)
    elif picture is not None:
        wanted = (1, *picture) if len(picture) == 2 else picture
    if wanted == event:
        return x, picture
    if not x.is_contiguous() and x.numel() * x.element_size() > 2**28:
        raise DataError(
            f"{where}: stored in column order; giving its rows the shape {wanted} would copy it whole."
            + try_one_of("save it again with numpy.ascontiguousarray", f"flatten={not flatten}")
        )
    return x.reshape(len(x), *wanted), picture


def _binarized(data: Dataset, binarize: Binarization, seed: int, offset: int, part: str) -> Dataset:
    """``data`` as zeros and ones: drawn now, or left as probabilities from which each batch is drawn."""
    if binarize == "none":
        return data
    if data.value_space == "binary":
        _log.info("%s: binary already, nothing to binarise.", data.name)
        return data
    if data.value_space not in ("unit", "byte"):
        raise DataError(
            f"{data.name}: binarisation reads values as probabilities, found {data.value_space} values."
            + try_one_of("rescale the values to [0, 1]", 'binarize="none" and a likelihood for such values')
        )
    if binarize == "dynamic" and (part == "train" or data.memory_mapped):
        return replace(data, binarization="dynamic")
    if data.memory_mapped:
        raise DataError(
            f"{data.name}: memory-mapped; a static binarisation would read it whole."
            + try_one_of('binarize="dynamic"')
        )
    # A seed of its own for each part, so that none depends on the sizes of the others.
    generator = torch.Generator().manual_seed(3 * seed + offset)
    x = data.members["x"]
    probability = x / 255 if data.value_space == "byte" else x
    return replace(
        data,
        x=torch.bernoulli(probability, generator=generator).to(x.dtype),
        value_space="binary",
        binarization="static",
    )


@dataclass(frozen=True)
class Available:
    """One named data set as ``ppvae data list`` shows it."""

    name: str
    description: str
    sizes: tuple[int, int, int]
    found: bool
    where: str
    downloads: bool


def available() -> list[Available]:
    """The named data sets: what each is, whether its files are found, and where (or how to get it)."""
    listing = []
    for name, named in NAMED.items():
        paths = [find_file(named, file) for file in (named.files or {}).values()]
        found = all(path is not None for path in paths)
        downloads = named.url is not None and not found
        where = (
            "bundled with scikit-learn"
            if not named.files
            else "downloaded when first used"
            if downloads
            else ""
        )
        if found and paths and paths[0] is not None:
            where = str(paths[0].parent)
        elif not where:
            where = f"not found: put its files into PPVAE_DATA/{named.folder}"
        listing.append(Available(name, named.description, named.sizes, found, where, downloads))
    return listing
