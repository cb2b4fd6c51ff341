"""The axes of a site's values: from Pyro's order to ours, [*S, B, *nested, *event], and back."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import PairError
from .site import SiteInfo


def to_canonical(value: Tensor, info: SiteInfo, nesting: int, particles: int) -> Tensor:
    """From Pyro's [particle, *pad, *batch, *event] to [particle, B, *nested, *event]; a global site has no B."""
    event = value.shape[value.dim() - len(info.event_shape) :]
    axis = info.data_axis
    batch = list(info.batch_shape)
    if batch:
        batch[-1 if axis is None else axis] = -1
    value = value.reshape(particles, *batch, *event)
    if info.scope == "global":
        return value
    if axis is None:
        return value.unsqueeze(1)
    value = value.movedim(1 + axis, 1)
    return value.reshape(*value.shape[:2], *info.nested, *event)


def to_pyro(value: Tensor, info: SiteInfo, nesting: int) -> Tensor:
    """From [particle, B, *nested, *event] to Pyro's [particle, *pad, *batch, *event]; a single one has no axis."""
    rank, axis = len(info.batch_shape), info.data_axis
    if axis is not None:
        event = value.shape[value.dim() - len(info.event_shape) :]
        others = (*info.batch_shape[:axis], *info.batch_shape[axis + 1 :])
        value = value.reshape(*value.shape[:2], *others, *event).movedim(1, 1 + axis)
    elif info.scope == "local":
        value = value.squeeze(1)
    particles, rest = value.shape[0], value.shape[1:]
    if particles == 1:
        return value.reshape(rest)
    return value.reshape(particles, *(1,) * (nesting - rank), *rest)


def sample_shape(value: Tensor, info: SiteInfo, batch: int) -> torch.Size:
    """The sample axes of a canonical value: what stands to the left of [B, *event], or of [*event] if global.

    Raises:
        PairError: the value's trailing axes are not the site's.
    """
    tail = (batch, *info.shape) if info.scope == "local" else info.shape
    lead = value.dim() - len(tail)
    if lead < 0 or tuple(value.shape[lead:]) != tail:
        raise PairError(
            f"site {info.name!r}: expected a value of shape [*samples, {', '.join(map(str, tail))}], "
            f"found {list(value.shape)}"
        )
    return value.shape[:lead]
