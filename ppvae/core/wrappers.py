"""What is wrapped around a distribution: axes that are added to it, and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions import MaskedDistribution
from torch import Tensor

_WRAPPERS = (td.Independent, dist.ExpandedDistribution, MaskedDistribution)


def unwrap(fn: Any) -> Any:
    """A distribution without the wrappers that add axes to it or mask it."""
    while isinstance(fn, _WRAPPERS):
        fn = fn.base_dist
    return fn


def within(fn: Any, change: Callable[[Any], Any]) -> Any:
    """A distribution whose innermost one is changed, with the same wrappers around it."""
    if isinstance(fn, td.Independent):
        return dist.Independent(within(fn.base_dist, change), fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return within(fn.base_dist, change).mask(fn._mask)
    if isinstance(fn, dist.ExpandedDistribution):
        return within(fn.base_dist, change).expand(fn.batch_shape)
    return change(fn)


def entries_present(site: Mapping[str, Any]) -> Tensor | None:
    """Which entries of a site's value are not masked out, broadcasting to it; None where all are, or a plain True."""
    fn, mask = site["fn"], site["mask"]
    present: Tensor | None = None
    if mask is not None and mask is not True:
        present = _inside(mask, fn)
    while hasattr(fn, "base_dist") and isinstance(fn, _WRAPPERS):
        if isinstance(fn, MaskedDistribution) and fn._mask is not True:
            own = _inside(fn._mask, fn)
            present = own if present is None else present & own
        fn = fn.base_dist
    return present


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a site tells a value that was computed: ``pyro.deterministic``, or what a reparameterisation leaves."""
    if site["infer"].get("_deterministic"):
        return True
    fn = site["fn"]
    masked_out = isinstance(fn, MaskedDistribution) and fn._mask is False
    return bool(site["is_observed"]) and masked_out and isinstance(unwrap(fn), dist.Delta)


def with_axes(mask: Tensor, rank: int) -> Tensor:
    """A mask with axes of length one on its right, until it has so many."""
    return mask.reshape((*mask.shape, *(1,) * (rank - mask.dim())))


def _inside(mask: Any, fn: Any) -> Tensor:
    """The mask of a distribution's events, as one of its entries."""
    mask = torch.as_tensor(mask).bool()
    return with_axes(mask, mask.dim() + fn.event_dim)
