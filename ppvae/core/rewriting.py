"""Where what a model observes stands in a batch, and the batch with other values there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .axes import to_pyro
from .errors import PairError, try_one_of
from .pair import Data
from .structure import Place, Structure
from .terms import Sites
from .wrappers import entries_present


def find_places(x: Data, values: Mapping[str, Tensor]) -> tuple[Place, ...]:
    """The places of the observed sites that have one.

    A value that is a view of a tensor of the batch, ``obs=x[:, 0]``, stands there. One that was computed,
    ``obs=x.float()``, stands where a tensor has the site's name and as many entries, or where it is the only one that
    has as many.

    Args:
        x: a batch.
        values: observed site to its value in the model's run on this batch.
    """
    paths, _ = pytree.tree_flatten_with_path(as_tree(x))
    places = []
    for name, value in values.items():
        found = next((i for i, (_, leaf) in enumerate(paths) if _is_view(value, leaf)), None)
        if found is not None:
            offset = value.storage_offset() - paths[found][1].storage_offset()
            places.append(Place(name, found, tuple(value.shape), value.stride(), offset))
            continue
        fit = [i for i, (_, leaf) in enumerate(paths) if isinstance(leaf, Tensor) and leaf.numel() == value.numel()]
        named = [i for i in fit if paths[i][0] and getattr(paths[i][0][-1], "key", None) == name]
        if len(named or fit) == 1:
            leaf = (named or fit)[0]
            places.append(Place(name, leaf, tuple(value.shape), _contiguous(value.shape), 0))
    return tuple(places)


def rewritten(x: Data, shape: Structure, values: Mapping[str, Tensor]) -> Data:
    """A copy of the batch in which the model observes other values.

    Args:
        x: the batch.
        shape: its structure.
        values: observed local site to [B, *event].

    Raises:
        PairError: a site has no place in the batch.
    """
    leaves, spec = pytree.tree_flatten(as_tree(x))
    places = {place.site: place for place in shape.places}
    fresh: dict[int, Tensor] = {}
    for name, value in values.items():
        if name not in places:
            raise not_in_batch(name)
        _, leaf, size, stride, offset = places[name]
        if leaf not in fresh:
            fresh[leaf] = leaves[leaf].clone(memory_format=torch.contiguous_format)
        value = to_pyro(value[None], shape.site(name), shape.nesting).reshape(size)
        fresh[leaf].as_strided(size, stride, offset).copy_(value)
    made: Data = pytree.tree_unflatten([fresh.get(i, leaf) for i, leaf in enumerate(leaves)], spec)
    return made


class InBatch(NamedTuple):
    """A site's value, as it stands in a batch.

    Attributes:
        place: where.
        length: how many entries that tensor has.
        present: whether the site's mask leaves an entry in, bool of the value's shape.
    """

    place: Place
    length: int
    present: Tensor

    @property
    def entries(self) -> Tensor:
        """Which entries of the tensor, flattened, int64 of the value's shape."""
        _, _, size, stride, offset = self.place
        index = torch.arange(self.length, device=self.present.device)
        return index.as_strided(size, stride, offset).reshape(self.present.shape)


def entries_in_batch(x: Data, shape: Structure, sites: Sites) -> dict[str, InBatch]:
    """The observed local sites whose value is a part of the batch, unchanged.

    Args:
        x: the batch.
        shape: its structure.
        sites: of the model's run on this batch.
    """
    leaves, found = pytree.tree_leaves(as_tree(x)), {}
    for place in shape.places:
        name, leaf, size, stride, offset = place
        value, whole = sites[name]["value"], leaves[leaf].contiguous()
        if shape.site(name).scope != "local" or value.numel() != math.prod(size):
            continue
        if torch.equal(
            whole.as_strided(size, stride, whole.storage_offset() + offset).to(value.dtype), value.reshape(size)
        ):
            present = entries_present(sites[name])
            everywhere = torch.ones_like(value, dtype=torch.bool)
            found[name] = InBatch(place, whole.numel(), everywhere if present is None else everywhere & present)
    return found


def not_in_batch(name: str) -> PairError:
    """What an observed site observes is no part of the batch."""
    return PairError(
        f"observed site {name!r}: expected a value that stands in the batch, where another can be written, found one "
        "that the model computes from it"
        + try_one_of(f"a mapping batch with a member {name!r}, and obs=x[{name!r}]", "obs=x, or a part of it")
    )


def as_tree(x: Any) -> Any:
    """A batch as PyTorch's pytrees know it: any mapping as a dict."""
    return dict(x) if isinstance(x, Mapping) else x


# --- below: views -------------------------------------------------------------------------------------------------


def _is_view(value: Tensor, leaf: Any) -> bool:
    """Whether a value is a part of a contiguous tensor, no entry of it twice."""
    if not isinstance(leaf, Tensor) or value.dtype != leaf.dtype or not value.numel() or not leaf.is_contiguous():
        return False
    if value.untyped_storage().data_ptr() != leaf.untyped_storage().data_ptr():
        return False
    first = value.storage_offset() - leaf.storage_offset()
    last = first + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    repeated = any(size > 1 and stride == 0 for size, stride in zip(value.shape, value.stride(), strict=True))
    return first >= 0 and last < leaf.numel() and not repeated


def _contiguous(size: torch.Size) -> tuple[int, ...]:
    return tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
