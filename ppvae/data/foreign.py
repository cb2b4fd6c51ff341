"""Data of other packages as arrays: data frames, lists, sparse matrices, xarray, AnnData, PyTorch's data sets.

Objects of pandas, polars, scipy, xarray and anndata are known by what they have; none of those packages is imported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset, SubsetRandomSampler
from torch.utils.data import Dataset as TorchDataset

from .files import Array
from .limits import Budget
from .tables import label_columns, no_numbers
from ..core.errors import DataError, PpvaeError, try_one_of

_log = logging.getLogger("ppvae.data")

_ITEMS = 256
"""Items of a data set of PyTorch that are read at once."""

Collate: TypeAlias = Callable[[list[Any]], Any]
"""Puts items together."""


class Rows(NamedTuple):
    """What an object of another package holds: rows, or members by name; and labels, where it has some."""

    x: object
    labels: object = None


def native(data: object, name: str, *, labels: bool = True) -> Rows:
    """Arrays, tensors, or a mapping of such, of data of another kind; what is of no such kind as it is.

    Args:
        data: a data frame, a list, a sparse matrix, an object of xarray or anndata, or a data set of PyTorch.
        name: how errors call it.
        labels: whether labels may stand in it, as a column called so or beside x in the items of a data set.

    Raises:
        DataError: columns of text, missing values, ragged rows, items that are no rows, or more than the memory limit.
    """
    if isinstance(data, Tensor | np.ndarray):
        return Rows(data)
    for is_such, read in _KINDS:
        if is_such(data):
            rows = read(data, name)
            return rows if labels or rows.labels is None else _refuse_labels(name)
    return Rows(data)


def _refuse_labels(name: str) -> Rows:
    raise DataError(
        f"{name}: holds labels, and stands inside a mapping."
        + try_one_of("the rows without their labels", "labels as a member of the mapping")
    )


def _has(*names: str) -> Callable[[object], bool]:
    return lambda data: all(hasattr(data, name) for name in names)


def _is_scipy_sparse(data: object) -> bool:
    return hasattr(data, "toarray") and hasattr(data, "tocsr") and hasattr(data, "nnz")


# --- arrays ---------------------------------------------------------------------------------------


def _sparse(data: Any, name: str) -> Rows:
    size = math.prod(data.shape) * data.dtype.itemsize
    Budget(name).hold(size, f"a sparse matrix of {data.shape[0]} x {data.shape[1]}, made dense")
    return Rows(data.toarray())


def _anndata(data: Any, name: str) -> Rows:
    if data.X is None:
        layers = sorted(getattr(data, "layers", None) or ())
        raise DataError(
            f"{name}: an AnnData without X."
            + try_one_of(*(f"adata.layers[{layer!r}]" for layer in layers), "adata.X = ...")
        )
    if _is_scipy_sparse(data.X):
        return _sparse(data.X, name)
    if not isinstance(data.X, np.ndarray):  # of a file that is read on demand
        Budget(name).declare(data.X.shape, data.X.dtype)
    x = data.X[:] if hasattr(data.X, "shape") else data.X
    return _sparse(x, name) if _is_scipy_sparse(x) else Rows(np.asarray(x))


def _data_array(data: Any, name: str) -> Rows:
    if getattr(data, "chunks", None):
        Budget(name).declare(data.shape, data.dtype)
    return Rows(np.asarray(data.values))


def _xarray_dataset(data: Any, name: str) -> Rows:
    first = {str(key): (str(value.dims[0]) if value.dims else "none") for key, value in data.data_vars.items()}
    if len(set(first.values())) > 1:
        raise DataError(
            f"{name}: all variables must share their first dimension, one entry a datum; found {first}."
            + try_one_of("data.transpose(DATUM, ...)", "data[[...]], the variables that share it")
        )
    return Rows({str(key): _data_array(value, f"{name}[{str(key)!r}]").x for key, value in data.data_vars.items()})


# --- data frames ----------------------------------------------------------------------------------


def _frame(data: Any, name: str) -> Rows:
    """The columns side by side, [N, D]; a column ``label`` or ``labels`` has the labels, as in a file."""
    columns = list(data.columns)
    repeated = sorted({str(column) for column in columns if columns.count(column) > 1})
    if repeated:
        raise DataError(f"{name}: several columns are called {', '.join(repeated)}." + try_one_of("names of their own"))
    aside = label_columns(columns)
    labels = np.asarray(data[aside[0]].to_numpy()) if aside else None
    if labels is not None:
        _log.info("%s: column %r holds the labels.", name, aside[0])
        if labels.dtype.kind == "O":
            labels = labels.astype(str)
    rows = [(column, _column(data[column], column, name)) for column in columns if column not in aside]
    if not rows:
        raise DataError(f"{name}: no columns of numbers, shape {tuple(data.shape)}.")
    missing = {str(column): np.flatnonzero(np.isnan(x)) for column, x in rows if x.dtype.kind == "f"}
    missing = {column: places for column, places in missing.items() if len(places)}
    if missing:
        column, places = next(iter(missing.items()))
        counts = ", ".join(f"{key!r} ({len(value)})" for key, value in missing.items())
        raise DataError(
            f"{name}: missing values in {'column' if len(missing) == 1 else 'columns'} {counts}; the first of "
            f"{column!r} is in row {places[0]}."
            + try_one_of(
                "leave out those rows: frame.dropna() (polars: drop_nulls())",
                "missing_data_vae and {'x': ..., 'seen': ...}: values filled in, and a mask, True where known",
            )
        )
    return Rows(np.stack([x for _, x in rows], 1), labels)


def _column(column: Any, key: object, name: str) -> Array:
    """The numbers of a column; missing ones are NaN."""
    values = np.asarray(column.to_numpy())
    if values.dtype.kind == "O":  # numbers with missing ones among them, or anything
        bad = next((row for row, value in enumerate(values) if isinstance(value, str | bytes)), None)
        if bad is not None:
            raise no_numbers(name, key, f", first at row {bad}: {str(values[bad])[:40]!r}")
        try:
            values = np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError):
            raise no_numbers(name, key, f" ({type(values[0]).__name__})" if len(values) else "") from None
    if values.dtype.kind not in "biuf":
        place = f", first at row 0: {str(values[0])[:40]!r}" if len(values) else ""
        raise no_numbers(name, key, place)
    return values


# --- lists ----------------------------------------------------------------------------------------


def _list(data: Any, name: str) -> Rows:
    """One row for each entry: numbers, lists of them, arrays or tensors of one shape."""
    if not data:
        raise DataError(f"{name}: an empty list holds no data.")
    if isinstance(data, tuple):
        if all(isinstance(member, Tensor | np.ndarray) for member in data):
            return Rows(data)
        raise DataError(
            f"{name}: a tuple of {len(data)} may mean several things."
            + try_one_of("a tuple of tensors", "{'x': x, 'y': y}", "ppvae.data.Dataset(x, labels=labels)", "list(rows)")
        )
    if any(isinstance(row, Tensor | np.ndarray) for row in data):
        rows = [row.detach() if isinstance(row, Tensor) else torch.as_tensor(np.asarray(row)) for row in data]
        _require_one_shape([tuple(row.shape) for row in rows], name)
        return Rows(torch.stack(rows))
    try:
        return Rows(np.array(data))
    except (ValueError, TypeError) as error:
        _require_one_shape([_shape_of(row) for row in data], name)
        raise DataError(f"{name}: a list that is no array: {error}." + _RAGGED) from None


_RAGGED = try_one_of(
    "make ragged rows equally long: {'x': ..., 'lengths': ...} for sequences, {'x': ..., 'seen': ...}, a mask, for gaps"
)


def _require_one_shape(shapes: Sequence[tuple[int, ...]], name: str) -> None:
    other = next((row for row, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise DataError(f"{name}: ragged rows: row {other} has the shape {shapes[other]}, row 0 {shapes[0]}." + _RAGGED)


def _shape_of(row: object) -> tuple[int, ...]:
    """The shape of nested lists, as far as it can be told."""
    if not isinstance(row, list | tuple):
        return ()
    inner = {_shape_of(item) for item in row}
    return (len(row), *(inner.pop() if len(inner) == 1 else (-1,) if inner else ()))


def _packed(data: Any, name: str) -> Rows:
    """Sequences padded with zeros, and their lengths."""
    padded, lengths = pad_packed_sequence(data, batch_first=True)
    _log.warning(
        "%s: a PackedSequence is read as {'x': padded %s, 'lengths': [%d]}.", name, list(padded.shape), len(lengths)
    )
    return Rows({"x": padded, "lengths": lengths})


# --- data sets of PyTorch ---------------------------------------------------------------------------


def _loader(data: Any, name: str) -> Rows:
    """The items of a DataLoader's data set, in order."""
    batches = _of_loader(data, name)
    _log.warning(
        "%s: the items of a DataLoader are read into memory, each once and in order; its batch size and its shuffling "
        "are not taken over.",
        name,
    )
    return _items(*batches, name)


def _of_loader(data: Any, name: str) -> tuple[TorchDataset[Any], Collate | None]:
    """The data set of a loader, and how its items are put together."""
    dataset, sampler = data.dataset, data.sampler
    if data.batch_size is None and not isinstance(dataset, IterableDataset):
        raise _no_order(name, f"{type(data.batch_sampler).__name__} as batch_sampler")
    if isinstance(sampler, SubsetRandomSampler):
        dataset = Subset(dataset, list(sampler.indices))
    elif not isinstance(dataset, IterableDataset) and not (
        isinstance(sampler, SequentialSampler)
        or (isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(dataset))
    ):
        raise _no_order(name, f"{type(sampler).__name__} as sampler")
    return dataset, data.collate_fn if data.batch_size is not None else None


def _no_order(name: str, what: str) -> DataError:
    return DataError(
        f"{name}: a DataLoader with {what}, which does not say which items there are."
        + try_one_of("loader.dataset", "torch.utils.data.Subset(dataset, indices)")
    )


def _torch_dataset(data: Any, name: str) -> Rows:
    return _items(data, None, name)


def _items(dataset: TorchDataset[Any], collate: Collate | None, name: str) -> Rows:
    """All items of a data set of PyTorch, put together by its own rules, within the memory limit."""
    budget, count, pieces = Budget(name), 0, list[dict[str, Any]]()
    total = None if isinstance(dataset, IterableDataset) else len(dataset)  # type: ignore[arg-type]
    for piece in _batches(dataset, collate, name):
        size = sum(x.numel() * x.element_size() for x in piece.values() if isinstance(x, Tensor))
        rows = len(next(iter(piece.values())))
        if total is None:
            budget.hold(size, f"items {count} to {count + rows - 1} of a data set")
        elif not pieces:
            budget.hold(size * total // max(rows, 1), f"{total} items of a data set")
        count += rows
        pieces.append(piece)
    if not pieces:
        raise DataError(f"{name}: a data set without items.")
    return _rows_of({key: _join([piece[key] for piece in pieces], f"{name}[{key!r}]") for key in pieces[0]})


def rows_of_items(data: Any, name: str) -> Iterator[Rows]:
    """The items of a data set or a loader of PyTorch in order, some at a time."""
    dataset, collate = _of_loader(data, name) if isinstance(data, DataLoader) else (data, None)
    for piece in _batches(dataset, collate, name):
        yield _rows_of({key: _join([value], f"{name}[{key!r}]") for key, value in piece.items()})


def _batches(dataset: TorchDataset[Any], collate: Collate | None, name: str) -> Iterator[dict[str, Any]]:
    """Batches of items in order, as members that are the same for all."""
    # A generator of its own: to make an iterator draws a seed.
    batches = DataLoader(dataset, batch_size=_ITEMS, collate_fn=collate, generator=torch.Generator())
    first: dict[str, Any] | None = None
    for batch in _reading(iter(batches), name):
        piece = _members_of(batch, name)
        first = first if first is not None else piece
        if piece.keys() != first.keys():
            raise DataError(f"{name}: items hold {sorted(first)} at first, and {sorted(piece)} later.")
        yield piece


def _rows_of(members: dict[str, Any]) -> Rows:
    if set(members) <= {_X, _LABELS}:
        return Rows(members[_X], members.get(_LABELS))
    if all(key.startswith(_PLACE) for key in members):
        return Rows(tuple(members.values()))
    return Rows(members)


_X, _LABELS, _PLACE = " x", " labels", " at "  # of items that name nothing: no key of a mapping


def _reading(batches: Iterator[Any], name: str) -> Iterator[Any]:
    """The batches, where an error in putting items together says of what."""
    number = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except PpvaeError:
            raise
        except Exception as error:
            raise DataError(
                f"{name}: items {number} to {number + _ITEMS - 1} cannot be put together: {type(error).__name__}: "
                f"{(str(error).splitlines() or [''])[0]}"
                + try_one_of("items that are tensors of one shape", "a collate_fn of a DataLoader that makes them so")
            ) from error
        number += _ITEMS
        yield batch


def _members_of(batch: Any, name: str) -> dict[str, Any]:
    """One batch: x, or x and labels, or members by name."""
    if isinstance(batch, Tensor):
        return {_X: batch}
    if isinstance(batch, Mapping):
        return {str(key): value for key, value in batch.items()}
    if isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
        if len(batch) == 1:
            return {_X: batch[0]}
        if len(batch) == 2 and (batch[1].dim() == 1 if isinstance(batch[1], Tensor) else _is_flat(batch[1])):
            return {_X: batch[0], _LABELS: batch[1]}
        if all(isinstance(value, Tensor) for value in batch):
            return {f"{_PLACE}{place}": value for place, value in enumerate(batch)}
    what = f"{len(batch)} values" if isinstance(batch, tuple | list) else type(batch).__name__
    raise DataError(
        f"{name}: expected items that are x, (x, label), tensors or a mapping, found {what}."
        + try_one_of("items that are mappings: {'x': x, 'mask': mask}", "items (x, label) with one number as label")
    )


def _is_flat(values: Any) -> bool:
    """Whether this is a list of words or numbers, one an item."""
    return not any(isinstance(value, Tensor | tuple | list | Mapping) for value in values)


def _join(values: list[Any], what: str) -> object:
    if not all(isinstance(value, Tensor) for value in values):
        return np.array([item for value in values for item in value])
    shapes = [tuple(value.shape[1:]) for value in values]
    _require_one_shape(shapes, what)
    return torch.cat(values)


_KINDS: tuple[tuple[Callable[[object], bool], Callable[[Any, str], Rows]], ...] = (
    (_is_scipy_sparse, _sparse),
    (_has("X", "obs_names", "var_names"), _anndata),
    (_has("data_vars", "dims"), _xarray_dataset),
    (_has("dims", "values", "coords"), _data_array),
    (_has("columns", "to_numpy", "shape"), _frame),
    (_has("to_numpy"), lambda data, name: Rows(np.asarray(data.to_numpy()))),
    (lambda data: isinstance(data, DataLoader), _loader),
    (lambda data: isinstance(data, TorchDataset), _torch_dataset),
    (lambda data: isinstance(data, PackedSequence), _packed),
    (lambda data: isinstance(data, list | tuple), _list),
)
