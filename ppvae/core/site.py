"""What a sample site is: its plates, shapes, distribution and marks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch.distributions.constraints import Constraint

from .errors import PairError, try_one_of
from .support import declared_support, require_bijections, support_of
from .wrappers import entries_present, unwrap

PYRO_DISTRIBUTIONS = try_one_of(
    "the distribution of that name in pyro.distributions",
    "class Mine(TheirDistribution, pyro.distributions.torch_distribution.TorchDistributionMixin)",
)
"""Remedies for a distribution of another library, such as torch.distributions or zuko."""


@dataclass(frozen=True)
class SiteInfo:
    """One sample site.

    Attributes:
        name: the site.
        kind: "latent", "observed", "enumerated" (a discrete site that is summed out: it is marked
            ``infer={"enumerate": "parallel"}`` and the guide lacks it, or it is summed out of the guide as well), or
            "auxiliary" (a guide site that the model does not have by design).
        scope: "local" inside the data plate, "global" outside it.
        batch_shape: Pyro's batch shape without particles, of a local site with B at dim :attr:`data_plate_dim`.
        event_shape: shape of one event of the distribution.
        plates: names of the enclosing plates.
        plate_dims: their dims; None for a sequential one.
        family: class of the distribution, without wrappers; :attr:`family_name` is what messages call it.
        support: where its values lie.
        has_rsample: whether gradients flow through its draws.
        is_pathwise: whether these are all of the gradient: that of a rejection sampler has a score term besides.
        is_discrete: whether its support is discrete.
        allows_grey: whether a Bernoulli takes grey values (no validation).
        data_plate_dim: dim of the data plate at this site; None outside it, and where all the data are one datum.
        data_plate_size: N as this site's data plate states it, None outside it.
        scaled: whether the program weights the site (``poutine.scale``) besides the plate over data.
        masked: whether some of its entries are masked out (``poutine.mask``, ``.mask(...)``).
        subsampled_plates: plates, other than that over data, with a part of their entries only.
        num_values: how many values a site has that is marked to be enumerated; 0 where it is not.
        joint_axes: how many axes of an event the distribution has without wrappers: entries along them depend on each
            other given all else, as counts of one multinomial do; 0 where all entries are independent.
    """

    name: str
    kind: Literal["latent", "observed", "enumerated", "auxiliary"]
    scope: Literal["local", "global"]
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]
    plates: tuple[str, ...]
    plate_dims: tuple[int | None, ...]
    family: type[Any]
    support: Constraint | None
    has_rsample: bool
    is_pathwise: bool
    is_discrete: bool
    allows_grey: bool
    data_plate_dim: int | None
    data_plate_size: int | None
    scaled: bool = False
    masked: bool = False
    subsampled_plates: tuple[str, ...] = ()
    num_values: int = 0
    joint_axes: int = 0

    @property
    def family_name(self) -> str:
        """What messages call the distribution."""
        return self.family.__name__

    def is_a(self, *families: type[Any]) -> bool:
        """Whether the site's distribution is of one of these classes."""
        return issubclass(self.family, families)

    @property
    def data_axis(self) -> int | None:
        """The axis of the data in :attr:`batch_shape`; None where they have none."""
        return None if self.data_plate_dim is None else len(self.batch_shape) + self.data_plate_dim

    @property
    def num_data(self) -> int | None:
        """B as this site has it; None where the data have no axis."""
        return None if self.data_axis is None else self.batch_shape[self.data_axis]

    @property
    def nested(self) -> tuple[int, ...]:
        """The batch shape without the axis of the data, nor the axes that only put it in its place."""
        if self.data_axis is None:
            return self.batch_shape
        axes = [axis - len(self.batch_shape) for axis in range(len(self.batch_shape)) if axis != self.data_axis]
        return tuple(self.batch_shape[axis] for axis in axes if self.batch_shape[axis] > 1 or axis in self.plate_dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Our event shape per datum (local) or per draw (global): plates beside that of the data come first."""
        return (*self.nested, *self.event_shape)


def read_site(site: Mapping[str, Any], plate: str | None, latent: Collection[str], one_datum: bool) -> SiteInfo:
    """What a site is, read off one run without particles.

    Args:
        site: as Pyro's trace has it.
        plate: the name of the plate over data.
        latent: the latents that the guide draws.
        one_datum: whether all the data are one datum.

    Raises:
        PairError: a distribution that is not Pyro's, one made by a transform that is no bijection, or values that
            cannot be enumerated as they are marked to be.
    """
    fn, frames = site["fn"], site["cond_indep_stack"]
    if not isinstance(fn, TorchDistributionMixin):
        type_name = f"{type(fn).__module__}.{type(fn).__name__}"
        raise PairError(
            f"site {site['name']!r}: expected a distribution of Pyro's, found {type_name}, which a sample statement "
            "cannot draw from" + PYRO_DISTRIBUTIONS
        )
    require_bijections(site["name"], fn)
    data_frame = next((frame for frame in frames if frame.name == plate), None)
    kind: Literal["latent", "observed", "enumerated", "auxiliary"]
    num_values = 0 if site["is_observed"] else _num_values(site)
    if isinstance(fn, dist.Unit):
        kind = "observed"  # pyro.factor, which marks itself as auxiliary
    elif site["infer"].get("is_auxiliary"):
        kind = "auxiliary"
    else:
        # A latent that was substituted counts as observed in Pyro's trace: its name tells.
        kind = "observed" if site["is_observed"] and site["name"] not in latent else "latent"
        if kind == "latent" and num_values and site["name"] not in latent:
            kind = "enumerated"
    support = support_of(fn) if kind == "latent" else None
    others = [frame for frame in frames if frame.name != plate and frame.full_size and frame.full_size != frame.size]
    return SiteInfo(
        name=site["name"],
        kind=kind,
        scope="local" if data_frame is not None or one_datum else "global",
        batch_shape=tuple(fn.batch_shape),
        event_shape=tuple(fn.event_shape),
        plates=tuple(str(frame.name) for frame in frames),
        plate_dims=tuple(frame.dim for frame in frames),
        family=type(unwrap(fn)),
        support=support,
        has_rsample=bool(fn.has_rsample),
        is_pathwise=_is_pathwise(fn),
        is_discrete=bool(getattr(declared_support(fn), "is_discrete", False)),
        allows_grey=isinstance(unwrap(fn), td.Bernoulli) and not unwrap(fn)._validate_args,
        data_plate_dim=None if data_frame is None else data_frame.dim,
        data_plate_size=None if data_frame is None else int(data_frame.full_size or data_frame.size),
        scaled=_is_scaled(site),
        masked=entries_present(site) is not None,
        subsampled_plates=tuple(str(frame.name) for frame in others),
        num_values=num_values,
        joint_axes=len(unwrap(fn).event_shape),
    )


def squeezed(infos: tuple[SiteInfo, ...], others: tuple[SiteInfo, ...]) -> tuple[SiteInfo, ...]:
    """Local sites without leading axes of one that no plate claims: data, and latents that have these here alone."""
    others_shape = {info.name: info.batch_shape for info in others}
    found = []
    for info in infos:
        shape = info.batch_shape
        mine = info.kind == "observed" or (info.kind == "latent" and others_shape.get(info.name, shape) != shape)
        while mine and info.data_axis is not None and shape[:1] == (1,) and -len(shape) not in info.plate_dims:
            shape = shape[1:]
        found.append(replace(info, batch_shape=shape))
    return tuple(found)


def _is_pathwise(fn: Any) -> bool:
    """Whether the gradient of an expectation is that through the draws, with no further part (``score_parts``)."""
    inner = fn
    while hasattr(inner, "base_dist"):
        inner = inner.base_dist
    default = dist.Distribution.score_parts
    return bool(fn.has_rsample) and getattr(type(inner), "score_parts", default) is default


def _num_values(site: Mapping[str, Any]) -> int:
    """How many values a site has that is marked to be enumerated; 0 where it is not."""
    infer, fn = site["infer"], site["fn"]
    if infer.get("enumerate") != "parallel":
        return 0
    if infer.get("num_samples") is not None:
        raise PairError(
            f"site {site['name']!r} is marked to be enumerated with num_samples: a sum over draws is an estimate, "
            "whose logarithm is no log p(x, z)"
            + try_one_of('infer={"enumerate": "parallel"} alone, for the sum over all values', "a site of the guide")
        )
    if isinstance(unwrap(fn), td.OneHotCategorical):
        return int(fn.event_shape[-1])
    try:
        return int(fn.enumerate_support(expand=False).shape[0])
    except NotImplementedError as error:
        raise PairError(
            f"site {site['name']!r} is marked to be enumerated, but a {type(unwrap(fn)).__name__} over "
            f"{list(fn.event_shape)} has no finite list of values (or none that PyTorch gives)"
            + try_one_of(
                "Categorical, OneHotCategorical, Bernoulli or Binomial, one in a statement",
                "a site for the guide to draw, instead of a sum",
            )
        ) from error


def _is_scaled(site: Mapping[str, Any]) -> bool:
    """Whether a site's weight is another than its plates' N / B."""
    plates = 1.0
    for frame in site["cond_indep_stack"]:
        plates *= (frame.full_size or frame.size) / frame.size
    scale = torch.as_tensor(site["scale"], dtype=torch.float64)
    return bool(((scale - plates).abs() > 1e-6 * plates).any())
