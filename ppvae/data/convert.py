"""From tensors, arrays, mappings and data of other packages to a checked Dataset, saying what was converted."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, ValueSpace, sample_rows
from .files import Array
from .foreign import native
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")

_WIDTH: dict[ValueSpace, int] = {"binary": 0, "unit": 1, "byte": 2, "count": 3, "real": 4}


def as_dataset(data: object, *, name: str = "data", dtype: torch.dtype | None = None) -> Dataset:
    """A Dataset of a tensor, an array, or a mapping or a tuple of such that share axis 0; a Dataset passes through.

    Data of other kinds are read into arrays: data frames of pandas and polars (numbers alone, ``[N, D]``; a column
    called ``label`` has the labels), lists, sparse matrices of scipy, ``DataArray`` and ``Dataset`` of xarray (the
    variables are members), AnnData (its ``X``), data sets and loaders of PyTorch (items that are x, (x, label), tuples
    of tensors or mappings, each read once and in order), packed sequences (read as ``{"x": padded [N, T, *],
    "lengths": [N]}``).

    Conversions that change nothing for a model are made, each with one line in the log ``ppvae.data``:
    float64 becomes the default float dtype, uint8 is read as bytes 0..255 (a model sees them divided by
    255), integers as counts. The value space is detected: "binary" if all values are 0 or 1, "unit" if they
    lie in [0, 1], else "byte" for uint8, "count" for integers without negatives, "real".

    Args:
        data: ``[N, *event]`` with at least one event dimension, or a mapping or a tuple of such (covariates may be
            ``[N]``), or data of a kind above.
        name: how errors and reports call it.
        dtype: the float dtype to convert to; None for PyTorch's default.

    Raises:
        DataError: not an array; object or complex values; no rows; a 1-D vector; NaN or infinite values
            (names the first); mapping members of different lengths; columns of text or missing values (names the
            column); ragged lists; sparse matrices or data sets that are more than the memory limit when read.

    >>> as_dataset(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    Dataset('data', 2 x (2,) binary)
    """
    if isinstance(data, Dataset):
        return data
    data, labels = native(data, name)
    if isinstance(data, tuple):
        places = {str(place): value for place, value in enumerate(data)}
        named = as_dataset(places, name=name, dtype=dtype)
        return replace(named, x=tuple(named.members.values()))
    if isinstance(data, Mapping):
        if not data:
            raise DataError(f"{name}: an empty mapping holds no data.")
        places = {key: f"{name}[{key!r}]" for key in data}
        values = {key: native(value, places[key], labels=False).x for key, value in data.items()}
        values = _without_gaps(values, places)
        members = {str(key): to_tensor(value, places[key], dtype=dtype) for key, value in values.items()}
        main = Dataset(members, name=name).main  # refuses members of different lengths before looking at values
        return Dataset(members, name=name, value_space=_log_space(members[main], f"{name}[{main!r}]"))
    x = to_tensor(data, name, dtype=dtype)
    if x.dim() == 1:
        raise DataError(
            f"{name}: a 1-D vector of shape {tuple(x.shape)} where a batch [N, *event] is meant."
            + try_one_of(
                "x[None] if it is one datum",
                "x[:, None] if it holds one number for each datum",
                '{"x": x}, a mapping, if the programs take the vector itself: from_callables(..., unpack=True)',
            )
        )
    picture = picture_shape(tuple(x.shape[1:]))
    known = None if labels is None else labels_of(np.asarray(labels), len(x), name)
    return Dataset(x, labels=known, name=name, value_space=_log_space(x, name), image_shape=picture)


def _without_gaps(values: Mapping[Any, Any], places: Mapping[Any, str]) -> dict[Any, Any]:
    """The members with 0 where one is not finite and another, of 0 and 1, says that it is missing.

    That other has its shape, or one entry for each datum and the name ``has_`` and the member's.
    """
    tensors = {k: v.detach() if isinstance(v, Tensor) else _from_numpy(v, places[k]) for k, v in values.items()}
    found = dict(values)
    for key, x in tensors.items():
        bad = ~torch.isfinite(x) if x.is_floating_point() else torch.zeros((), dtype=torch.bool)
        if not bool(bad.any()):
            continue
        for other, mask in tensors.items():
            if other == f"has_{key}" and mask.shape == x.shape[:1]:
                mask = mask.reshape(-1, *(1,) * (x.dim() - 1)).expand(x.shape)
            if (
                mask.shape == x.shape
                and bool(((mask == 0) | (mask == 1)).all())
                and not bool((bad & (mask != 0)).any())
            ):
                found[key] = x.masked_fill(bad, 0.0)
                _log.info("%s: %d missing entries, by %s.", places[key], int(bad.sum()), places[other])
    return found


def _log_space(x: Tensor, name: str) -> ValueSpace:
    """The value space of the main member, with a line in the log where a model will see other numbers."""
    space = value_space_of(x)
    if x.dtype == torch.uint8 and space == "byte":
        _log.warning("%s: uint8 values are read as bytes 0..255; models see them divided by 255.", name)
    elif not x.is_floating_point():
        _log.warning("%s: %s values are read as %s data.", name, str(x.dtype).removeprefix("torch."), space)
    return space


def to_tensor(
    value: object,
    what: str,
    *,
    memory_mapped: bool = False,
    level: int = logging.WARNING,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A finite, non-empty, real tensor of an array; float64 becomes the default float dtype (logged).

    Args:
        value: a torch tensor or a numpy array.
        what: how an error calls it.
        memory_mapped: whether it is a memory map, which keeps its dtype and of which a sample of rows is checked.
        level: of the log line about a loss of precision.
        dtype: the float dtype; None for PyTorch's default.
    """
    x = value.detach() if isinstance(value, Tensor) else _from_numpy(value, what)
    if x.layout != torch.strided:
        raise DataError(f"{what}: a {x.layout} tensor." + try_one_of("x.to_dense()"))
    if x.is_complex():
        raise DataError(f"{what}: complex values ({x.dtype})." + try_one_of("torch.view_as_real(x).flatten(1)"))
    if x.dim() == 0:
        raise DataError(f"{what}: a single number where a batch [N, *event] is meant.")
    if x.numel() == 0:
        raise DataError(f"{what}: empty data, shape {tuple(x.shape)}.")
    if not x.is_floating_point():
        return x
    require_finite(sample_rows(x) if memory_mapped else x, what)
    default = dtype or torch.get_default_dtype()
    if memory_mapped or x.dtype == default:
        return x
    floats = x.to(default)
    if torch.finfo(default).max < torch.finfo(x.dtype).max:
        try:
            require_finite(floats, what)
        except DataError as error:
            raise DataError(
                f"{what}: values beyond the range of {default}: {error}"
                + try_one_of("rescale the data", "torch.set_default_dtype(torch.float64)")
            ) from None
        _log.log(level, "%s: converted from %s to %s.", what, x.dtype, default)
        _warn_of_rounding(x, floats, what)
    else:
        _log.info("%s: converted from %s to %s.", what, x.dtype, default)
    return floats


def _warn_of_rounding(x: Tensor, rounded: Tensor, what: str) -> None:
    """Where rounding moves an entry by a thousandth of how it varies over the data, densities are of other data."""
    moved, spread = (x - rounded.to(x.dtype)).abs().amax(0), x.std(0) if len(x) > 1 else torch.zeros_like(x[0])
    coarse = (moved > 1e-3 * spread) & (spread > 0)
    if bool(coarse.any()):
        worst = torch.where(coarse, moved / spread, 0.0).argmax()
        _log.warning(
            "%s: in %s values move by up to %.2g where their standard deviation is %.2g, and so do densities: "
            "torch.set_default_dtype(torch.float64), or data less their mean.",
            what,
            rounded.dtype,
            float(moved.flatten()[worst]),
            float(spread.flatten()[worst]),
        )


def _type_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _from_numpy(value: object, what: str) -> Tensor:
    if not isinstance(value, np.ndarray):
        if isinstance(value, Iterator):
            raise DataError(
                f"{what}: {_type_name(value)} can be read once, and its length is not known; training takes epochs."
                + try_one_of(
                    'ppvae.data.write_npy(source, "rows.npy"), whose rows are read as they are needed',
                    "np.concatenate(list(source)), where memory holds them",
                )
            )
        raise DataError(
            f"{what}: expected a tensor or an array, found {_type_name(value)}."
            + try_one_of(
                "torch.as_tensor(x)", "a data frame, a list or a DataLoader", "ppvae.data.load(path) for a file"
            )
        )
    array: Array = value
    if array.dtype.kind not in "biufc":
        raise DataError(
            f"{what}: values of dtype {array.dtype} are not numbers."
            + try_one_of("array.astype(float)", "leave out columns of text", "make ragged rows equally long")
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.dtype.itemsize == 8 and array.size and int(array.max()) > np.iinfo(np.int64).max:
            raise DataError(f"{what}: uint64 values beyond the range of int64.")
        array = array.astype(np.int32 if array.dtype.itemsize == 2 else np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # torch shares memory, and can neither honour read-only nor step backwards
    return torch.from_numpy(array)


def require_finite(x: Tensor, what: str) -> None:
    """Raises a DataError that counts NaN and infinite values and names the place of the first."""
    if not x.is_floating_point() or bool(torch.isfinite(torch.stack(x.aminmax())).all()):
        return
    bad = ~torch.isfinite(x)
    first = tuple(int(i) for i in bad.nonzero()[0])
    nan, total = int(torch.isnan(x).sum()), int(bad.sum())
    raise DataError(
        f"{what}: {total} of {x.numel()} values are not finite ({nan} NaN, {total - nan} infinite); "
        f"the first is {x[first].item()} at {list(first)}."
        + try_one_of(
            "leave out those rows",
            "missing_data_vae and {'x': ..., 'seen': ...}: values filled in, and a mask, True where known",
            *(
                ["gaps=True, for a file: missing values are gaps, which the member 'seen' marks"]
                if nan == total
                else []
            ),
        )
    )


def value_space_of(x: Tensor) -> ValueSpace:
    """The narrowest space that holds all values (of a uint8 tensor: "binary" or "byte")."""
    if x.dtype == torch.bool:
        return "binary"
    low, high = (bound.item() for bound in x.aminmax())
    if low >= 0 and high <= 1 and (not x.is_floating_point() or bool(((x == 0) | (x == 1)).all())):
        return "binary"
    if x.dtype == torch.uint8:
        return "byte"
    if not x.is_floating_point():
        return "count" if low >= 0 else "real"
    return "unit" if low >= 0 and high <= 1 else "real"


def widest(spaces: list[ValueSpace]) -> ValueSpace:
    """The space that holds all of several parts of one data set."""
    return max(spaces, key=_WIDTH.__getitem__)


def labels_of(labels: Array, n: int, where: str) -> Tensor:
    """One label a row: whole numbers as int64, words as numbers of their sorted classes, others as floats."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape[:1] != (n,):
        raise DataError(f"{where}: labels of shape {labels.shape} for {n} rows.")
    if labels.dtype.kind in "US":
        return torch.from_numpy(np.unique(labels, return_inverse=True)[1].astype(np.int64))
    if labels.dtype.kind in "biu":
        return torch.from_numpy(labels.astype(np.int64))
    if labels.dtype.kind == "f":
        return torch.from_numpy(labels.astype(np.float32))
    raise DataError(f"{where}: labels of dtype {labels.dtype}." + try_one_of("save them as whole numbers"))


def picture_shape(event_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The picture shape of a datum of this shape: (H, W) or (C, H, W); None for a flat row."""
    if len(event_shape) == 3 and event_shape[0] == 1:
        return event_shape[1:]
    return event_shape if len(event_shape) in (2, 3) else None
