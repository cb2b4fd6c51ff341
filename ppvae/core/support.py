"""Where a distribution's values lie, and a log density that says so.

Some log densities are finite outside their support: an exponential's, and whatever is made of one by an affine map,
which PyTorch takes for a distribution over all reals. Validation, which would find such a value, is off in recorded
functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .errors import PairError, try_one_of
from .wrappers import entries_present, unwrap

_ROUNDING = 1e-5  # of the ends of what transforms in float32 make
_MADE_BY_TRANSFORMS = (td.TransformedDistribution, dist.TransformedDistribution)


def support_of(fn: Any) -> Constraint | None:
    """Where the values of a distribution lie; None where it does not say. It may look at the values of parameters.

    That of a ``TransformedDistribution`` is the image of its base's, through transforms of single numbers: PyTorch's is
    the codomain of the last, all reals of a shifted exponential.
    """
    support = declared_support(fn)
    image = _image_of(unwrap(fn))
    if support is None or image is None:
        return support
    low, high = (torch.as_tensor(end) for end in image)
    declared = range_of(base_of(support))
    if all(bool(torch.as_tensor(end == own).all()) for end, own in zip(image, declared, strict=True)):
        return support
    bounded = bool(low.isfinite().all()), bool(high.isfinite().all())
    inside: Constraint = constraints.real
    if bounded == (True, True):
        inside = constraints.interval(low, high)
    elif any(bounded):
        inside = constraints.greater_than_eq(low) if bounded[0] else constraints.less_than(high)
    return constraints.independent(inside, support.event_dim) if support.event_dim else inside


def base_of(support: Constraint) -> Constraint:
    """A support without the axes that make several entries one event."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def has_bounds(support: Constraint) -> bool:
    """Whether a support has a least or a greatest number."""
    return support is constraints.boolean or hasattr(support, "lower_bound") or hasattr(support, "upper_bound")


def range_of(support: Constraint) -> tuple[float | Tensor, float | Tensor]:
    """The least and the greatest number of a support of single numbers."""
    if support is constraints.boolean:
        return 0.0, 1.0
    return getattr(support, "lower_bound", -math.inf), getattr(support, "upper_bound", math.inf)


def bounds_of(support: Any) -> list[Tensor]:
    """The bounds of a support that are tensors, such as a uniform's."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return [value for value in getattr(support, "__dict__", {}).values() if isinstance(value, Tensor)]


def require_bijections(name: str, fn: Any) -> None:
    """What transforms make of a distribution has the density that PyTorch gives it: one value for one image.

    Raises:
        PairError: a transform that is no bijection, or not of all that it is applied to, such as the square of a
            normal, of which PyTorch's density is that of the positive half.
    """
    fn = unwrap(fn)
    if type(fn) not in _MADE_BY_TRANSFORMS:
        return
    for place, transform in enumerate(fn.transforms):
        what = f"site {name!r}: the density of what {type(transform).__name__} makes of a distribution"
        if not transform.bijective:
            raise PairError(
                f"{what} adds up several values of one image, which PyTorch's does not"
                + try_one_of("a distribution of that shape, such as HalfNormal", "dist.FoldedDistribution")
            )
        ends, domain = _image(fn.base_dist, fn.transforms[:place]), base_of(transform.domain)
        if ends is None or not has_bounds(domain):
            continue
        least, most = range_of(domain)
        low, high = (torch.as_tensor(end) for end in ends)
        below, above = torch.as_tensor(least) - low, high - torch.as_tensor(most)
        if bool((below > _ROUNDING).any()) or bool((above > _ROUNDING).any()):
            raise PairError(
                f"{what} holds from {_short(least)} to {_short(most)}, but its values go from {_short(low)} to "
                f"{_short(high)}"
                + try_one_of("a base distribution on that interval", "a distribution of that shape, such as Chi2")
            )
    require_bijections(name, fn.base_dist)


def _short(end: float | Tensor) -> str:
    return f"{float(torch.as_tensor(end).flatten()[0]):.4g}"


def log_density(site: Mapping[str, Any]) -> Tensor:
    """The log density of a site's value, of the shape that its distribution gives: minus infinity outside its support.

    Of a support that is an interval, or whole numbers in one, whose ends count in. Zeros and ones are not looked at:
    grey values in their place are wanted where :func:`~ppvae.core.check_pair` lets them be.
    """
    fn, value = site["fn"], site["value"]
    log_prob: Tensor = fn.log_prob(value)
    if "_enumerate_dim" in site["infer"]:
        return log_prob
    ends = _ends(fn)
    if ends is None:
        return log_prob
    inside = (value >= ends.least) & (value <= ends.most)
    if ends.whole:
        inside = inside & (value == value.round())
    present = entries_present({"fn": fn, "mask": None})
    if present is not None:
        inside = inside | ~present
    if fn.event_dim:
        inside = inside.flatten(-fn.event_dim).all(-1)
    return torch.where(inside, log_prob, -math.inf)


class _Ends(NamedTuple):
    """The least and the greatest number of a support, and whether only whole ones are in it."""

    least: float | Tensor
    most: float | Tensor
    whole: bool


def _ends(fn: Any) -> _Ends | None:
    """Those of a distribution of single numbers, or of independent ones; None where they say nothing."""
    image = _image_of(unwrap(fn))
    if image is not None:
        return _Ends(*image, False)
    support = declared_support(fn)
    if support is None:
        return None
    support = base_of(support)
    if support is constraints.boolean or support.event_dim or not has_bounds(support):
        return None
    if isinstance(unwrap(fn), td.MixtureSameFamily) and any(isinstance(end, Tensor) for end in range_of(support)):
        return None  # of every component others
    return _Ends(*range_of(support), bool(support.is_discrete))


def declared_support(fn: Any) -> Constraint | None:
    """What a distribution calls its support; None where it does not say."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint  # the components' own, which a bijection is registered for
    return cast("Constraint | None", support)


def _image_of(fn: Any) -> tuple[float | Tensor, float | Tensor] | None:
    return _image(fn.base_dist, fn.transforms) if type(fn) in _MADE_BY_TRANSFORMS else None


def _image(base_dist: Any, transforms: Sequence[Any]) -> tuple[float | Tensor, float | Tensor] | None:
    """The ends of what monotone transforms of single numbers make of a base with ends; None of any other.

    No branch depends on a tensor's value, so that it can be recorded.
    """
    base, support = _ends(base_dist), declared_support(base_dist)
    if support is None or support.is_discrete or (base is None and base_of(support) is not constraints.real):
        return None
    ends: tuple[float | Tensor, float | Tensor] = (-math.inf, math.inf) if base is None else base[:2]
    for transform in transforms:
        if transform.domain.event_dim and not isinstance(transform, td.AffineTransform):
            return None
        try:
            transform.sign  # noqa: B018 - it says that it has one: it is monotone
        except NotImplementedError:
            return None
        images = [transform(torch.as_tensor(end)) for end in ends]
        ends = torch.minimum(*images), torch.maximum(*images)
    return ends
