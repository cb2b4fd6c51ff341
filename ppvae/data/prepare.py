"""From raw arrays to model-ready data sets: one value space, one shape, zeros and ones on request."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from .convert import as_dataset, labels_of, picture_shape, to_tensor, value_space_of, widest
from .dataset import Binarization, Dataset, ValueSpace, draw_binary, sample_rows
from .files import Arrays
from .limits import SHARE, file_limit
from ..core.bounds import in_words, memory_remedy
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")


def datasets_of(
    parts: Mapping[str, Arrays],
    name: str,
    source: str,
    flatten: bool,
    image_shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
) -> dict[str, Dataset]:
    """Checked, typed and shaped; all parts in the one value space that holds them all."""
    where = {part: source if part == "train" else f"{source} ({part})" for part in parts}
    tensors = {
        part: to_tensor(array.x, where[part], memory_mapped=array.memory_mapped, level=logging.INFO)
        for part, array in parts.items()
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
    space = widest([value_space_of(sample_rows(x) if parts[p].memory_mapped else x) for p, x in tensors.items()])
    datasets = {}
    for part, x in tensors.items():
        memory_mapped, labels = parts[part].memory_mapped, parts[part].labels
        row_space, x = (space, x) if memory_mapped else _convert(x, space, dtype, where[part])
        x, picture = _reshape(x, flatten, image_shape, where[part])
        datasets[part] = Dataset(
            x,
            labels=None if labels is None else labels_of(labels, len(x), where[part]),
            name=name if part == "train" else f"{name}/{part}",
            value_space=row_space,
            image_shape=picture,
            memory_mapped=memory_mapped,
            feature_names=parts["train"].feature_names if x.dim() == 2 else None,
        )
    return datasets


def datasets_of_members(parts: Mapping[str, Arrays], name: str) -> dict[str, Dataset]:
    """Members by name, as they are: checked and typed, the main one of all parts in one value space."""
    datasets = {}
    for part, arrays in parts.items():
        label = name if part == "train" else f"{name}/{part}"
        data = as_dataset(dict(arrays.members or {}), name=label)
        labels = None if arrays.labels is None else labels_of(arrays.labels, len(data), label)
        datasets[part] = replace(data, labels=labels, feature_names=parts["train"].feature_names)
    space = widest([data.value_space for data in datasets.values()])
    return {part: replace(data, value_space=space) for part, data in datasets.items()}


def _convert(x: Tensor, space: ValueSpace, dtype: torch.dtype | None, where: str) -> tuple[ValueSpace, Tensor]:
    """Rows in memory: model ready, or bytes on demand."""
    if dtype == torch.uint8:
        if x.is_floating_point() and space != "binary":
            raise DataError(f"{where}: {space} values do not fit uint8." + try_one_of("dtype=None"))
        if space not in ("byte", "binary"):
            raise DataError(f"{where}: {space} values kept as uint8 would be read as bytes." + try_one_of("dtype=None"))
        return space, x.to(torch.uint8)
    dtype = dtype or torch.get_default_dtype()
    if not dtype.is_floating_point:
        raise DataError(f"{where}: rows are kept as floating point or torch.uint8, not {dtype}.")
    size = x.numel() * dtype.itemsize
    if size > max(x.numel() * x.element_size(), file_limit()):  # bytes become four times as many
        raise DataError(
            f"{where}: {in_words(x.numel() * x.element_size())} of {x.dtype} take {in_words(size)} as {dtype}, more "
            f"than the limit of {in_words(file_limit())}."
            + try_one_of("dtype=torch.uint8", "save the rows as .npy", memory_remedy(size * SHARE))
        )
    if space == "byte":
        return "unit", x.to(dtype, copy=True).div_(255)
    return space, x.to(dtype)


def _reshape(
    x: Tensor, flatten: bool, image_shape: tuple[int, ...] | None, where: str
) -> tuple[Tensor, tuple[int, ...] | None]:
    """Flat rows or images, and how to draw a flat row."""
    event = tuple(x.shape[1:])
    picture = image_shape or picture_shape(event)
    if picture is not None and math.prod(picture) != math.prod(event):
        raise DataError(f"{where}: image_shape {picture} does not hold the {math.prod(event)} values of a row.")
    target: tuple[int, ...] = event
    if flatten:
        target = (math.prod(event),)
    elif picture is not None:
        target = (1, *picture) if len(picture) == 2 else picture
    if target == event:
        return x, picture
    if not x.is_contiguous() and x.numel() * x.element_size() > 2**28:
        raise DataError(
            f"{where}: stored in column order; giving its rows the shape {target} would copy it whole."
            + try_one_of("save it again with numpy.ascontiguousarray", f"flatten={not flatten}")
        )
    return x.reshape(len(x), *target), picture


def binarize_part(data: Dataset, binarize: Binarization, source: str, seed: int, offset: int, part: str) -> Dataset:
    """``data`` as zeros and ones: drawn now, or left as probabilities from which each batch is drawn."""
    if binarize == "none":
        return data
    if data.value_space == "binary":
        _log.info("%s: binary already, nothing to binarise.", data.name)
        return data
    if data.value_space not in ("unit", "byte"):
        raise DataError(
            f"{source}: binarisation reads values as probabilities, found {data.value_space} values."
            + try_one_of("rescale the values to [0, 1]", 'binarize="none" and a likelihood for such values')
        )
    if binarize == "dynamic" and (part == "train" or data.memory_mapped):
        return replace(data, binarization="dynamic")
    if data.memory_mapped:
        raise DataError(
            f"{source}: memory-mapped; a static binarisation would read it whole." + try_one_of('binarize="dynamic"')
        )
    # A seed of its own for each part, so that none depends on the sizes of the others.
    generator = torch.Generator().manual_seed((3 * seed + offset) % 2**64)
    x = data.members["x"]
    probability = x / 255 if data.value_space == "byte" else x
    return replace(
        data,
        x=draw_binary(probability, generator).to(x.dtype),
        value_space="binary",
        binarization="static",
    )
