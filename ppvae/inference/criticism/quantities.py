"""Test quantities T(x) for comparing data sets, by the space of the values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, OneHotCategorical

from ...core import PpvaeError
from ...core.errors import try_one_of
from ...core.site import SiteInfo

Quantity = Callable[[Tensor], Any]
"""From a data set [N, *event], float64, to a number for every datum, [N], or to one number."""

_NEIGHBOURS = 300
"""Data for the search of nearest neighbours: the work grows with the square."""
_CLASSES = 4


def default_quantities(
    observed: Tensor, info: SiteInfo, support: str, image_shape: tuple[int, ...] | None = None
) -> dict[str, Quantity]:
    """Test quantities for data of this type.

    Args:
        observed: the data, [N, *event].
        info: the observed site.
        support: its support, as :func:`ppvae.core.density.observed_support` names it.
        image_shape: shape of a row as an image, if it is one.
    """
    event = observed.shape[1:]
    many, several = event.numel() > 1, len(observed) > 1
    quantities: dict[str, Quantity] = {}
    if info.is_a(OneHotCategorical):
        counts = observed.reshape(-1, observed.shape[-1]).sum(0)
        for value in counts.argsort(descending=True, stable=True)[:_CLASSES].tolist():
            quantities[f"share of class {value}"] = _share_in(value)
        return quantities
    if info.is_a(Categorical):
        values, counts = observed.long().unique(return_counts=True)
        for value in values[counts.argsort(descending=True)[:_CLASSES]].tolist():
            quantities[f"share of class {value}"] = _share_of(value)
        if many:
            quantities["classes in a datum"] = _distinct
        return quantities
    binary = support == "Boolean()"
    quantities["share of ones" if binary else "mean"] = _mean
    if support.startswith("IntegerGreaterThan"):
        quantities["share of zeros"] = _share_of(0)
    if many and several:
        quantities["spread of the shares" if binary else "spread of the means"] = _spread_of_means
    if many and not binary:
        quantities["spread within a datum"] = _spread_within
    if not binary:
        quantities["smallest value"] = lambda x: x.min()
        quantities["largest value"] = lambda x: x.max()
    # A site may be a part of the image only: one time step, one half.
    is_image = image_shape is not None and math.prod(image_shape) == event.numel()
    shape = image_shape if image_shape is not None and is_image else tuple(event)
    if many and len(shape) >= 2:
        channels_last = len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 3)
        quantities["change between neighbours"] = _neighbours(shape[:2] if channels_last else shape[-2:], channels_last)
    if many and several:
        quantities["distance to the nearest"] = _nearest
    return quantities


def evaluate_quantities(
    quantities: Mapping[str, Quantity], x: Tensor, where: str
) -> dict[str, tuple[float, Tensor | None]]:
    """For each quantity its value for the data set (the mean of values per datum), and the values per datum, [N].

    Raises:
        PpvaeError: a quantity that is neither [N] nor one number.
    """
    x = x.double()
    result: dict[str, tuple[float, Tensor | None]] = {}
    for name, quantity in quantities.items():
        value = torch.as_tensor(quantity(x), dtype=torch.float64)
        if value.dim() == 0:
            result[name] = float(value), None
        elif tuple(value.shape) == (len(x),):
            result[name] = float(value.mean()), value
        else:
            raise PpvaeError(
                f"statistic {name!r}: expected one number or a tensor of shape [{len(x)}], one number for each "
                f"{where} datum, found shape {list(value.shape)}" + try_one_of("x.flatten(1).mean(1)", "x.max()")
            )
    return result


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _mean(x: Tensor) -> Tensor:
    return _rows(x).mean(1)


def _spread_within(x: Tensor) -> Tensor:
    return _rows(x).std(1)


def _spread_of_means(x: Tensor) -> Tensor:
    return _rows(x).mean(1).std()


def _share_of(value: int) -> Quantity:
    return lambda x: (_rows(x) == value).double().mean(1)


def _share_in(column: int) -> Quantity:
    return lambda x: _rows(x[..., column]).mean(1)


def _distinct(x: Tensor) -> Tensor:
    ascending = _rows(x).sort(1).values
    return 1.0 + (ascending[:, 1:] != ascending[:, :-1]).double().sum(1)


def _neighbours(shape: tuple[int, ...], channels_last: bool) -> Quantity:
    """The mean absolute difference of horizontal and vertical neighbours; for binary pixels, how often they differ."""

    def change(x: Tensor) -> Tensor:
        images = x.reshape(len(x), *shape, -1).movedim(-1, 1) if channels_last else x.reshape(len(x), -1, *shape)
        across, down = images.diff(dim=-1).abs().flatten(1), images.diff(dim=-2).abs().flatten(1)
        return torch.cat((across, down), 1).mean(1)

    return change


def _nearest(x: Tensor) -> Tensor:
    """The mean distance of a datum to the nearest other one: small where data repeat each other."""
    flat = _rows(x[:_NEIGHBOURS])
    distances = torch.cdist(flat, flat, compute_mode="use_mm_for_euclid_dist")
    return distances.fill_diagonal_(torch.inf).min(1).values.mean()
