"""The structure of a pair: its sites, their plates, and how their axes map between Pyro's order and ours."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import pyro.distributions as dist
import torch
import torch.distributions as td
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .errors import PairError, did_you_mean, try_one_of
from .plates import Sites
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
        is_discrete: whether its support is discrete.
        allows_grey: whether a Bernoulli takes grey values (no validation).
        data_plate_dim: dim of the data plate at this site; None outside it, and where all the data are one datum.
        data_plate_size: N as this site's data plate states it, None outside it.
        scaled: whether the program weights the site (``poutine.scale``) besides the plate over data.
        masked: whether some of its entries are masked out (``poutine.mask``, ``.mask(...)``).
        subsampled_plates: plates, other than that over data, with a part of their entries only.
        num_values: how many values a site has that is marked to be enumerated; 0 where it is not.
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
    is_discrete: bool
    allows_grey: bool
    data_plate_dim: int | None
    data_plate_size: int | None
    scaled: bool = False
    masked: bool = False
    subsampled_plates: tuple[str, ...] = ()
    num_values: int = 0

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


class Place(NamedTuple):
    """Where the value of an observed site stands in a batch.

    Attributes:
        site: the observed site.
        leaf: which tensor of the batch.
        size: the value's shape.
        stride: its strides in that tensor, which is contiguous.
        offset: where it begins there.
    """

    site: str
    leaf: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Structure:
    """The sites of model and guide, in the order in which they are met.

    Attributes:
        model: the model's sites.
        guide: the guide's sites.
        nesting: how many batch axes the programs use; particles and chains stand to the left of these.
        batch: B, the number of data of the batch.
        data_plate: the name of the plate over data; None where there is none.
        moving: latents of the model whose support has bounds that another latent sets: they move with its value.
        one_datum: whether all the data are one datum, whatever the plates (:func:`~ppvae.core.as_one_datum`).
        places: where what the model observes stands in the batch (:mod:`ppvae.core.rewriting`).
    """

    model: tuple[SiteInfo, ...]
    guide: tuple[SiteInfo, ...]
    nesting: int
    batch: int
    data_plate: str | None
    moving: frozenset[str] = frozenset()
    one_datum: bool = False
    places: tuple[Place, ...] = ()

    @staticmethod
    def from_sites(
        model_sites: Sites,
        guide_sites: Sites,
        *,
        plate: str | None = None,
        one_datum: bool = False,
        summed: Collection[str] = (),
    ) -> Structure:
        """Read the structure off the sites of one run without particles.

        Args:
            model_sites: the model's.
            guide_sites: the guide's.
            plate: the name of the plate over data.
            one_datum: whether all the data are one datum.
            summed: discrete sites of both programs that are summed out of both.
        """
        latent = set(guide_sites) - {n for n, s in guide_sites.items() if s["is_observed"]} - set(summed)
        model = tuple(_info(site, plate, latent, one_datum) for site in model_sites.values())
        guide = tuple(_info(site, plate, latent, one_datum) for site in guide_sites.values())
        model, guide = _squeezed(model, guide), _squeezed(guide, model)
        frames = [f for site in (*model_sites.values(), *guide_sites.values()) for f in site["cond_indep_stack"]]
        ranks = [len(info.batch_shape) for info in (*model, *guide)] + [-f.dim for f in frames if f.dim is not None]
        sizes = [1] if one_datum else [int(frame.size) for frame in frames if frame.name == plate]
        size = sizes[0] if sizes else 0
        return Structure(model, guide, max(ranks, default=0), size, plate, one_datum=one_datum)

    @property
    def has_bounds(self) -> bool:
        """Whether the support of some latent of the model has bounds that are tensors, such as a uniform's."""
        return any(_bounds(info.support) for info in self.model_latents)

    def moving_latents(self, other: Structure) -> frozenset[str]:
        """Latents of the model whose support has other bounds than in another run of the same programs."""
        return frozenset(
            info.name
            for info, again in zip(self.model_latents, other.model_latents, strict=True)
            if not all(map(torch.equal, _bounds(info.support), _bounds(again.support)))
        )

    @property
    def scaled(self) -> tuple[SiteInfo, ...]:
        """Sites of either program that it weights (``poutine.scale``): such a weight is no part of a density."""
        return tuple(info for info in (*self.model, *self.guide) if info.scaled)

    @property
    def masked_latents(self) -> tuple[SiteInfo, ...]:
        """Latents of the model some entries of which are masked out."""
        return tuple(info for info in self.model_latents if info.masked)

    @property
    def model_latents(self) -> tuple[SiteInfo, ...]:
        """Latent sites of the model."""
        return tuple(info for info in self.model if info.kind == "latent")

    @property
    def guide_latents(self) -> tuple[SiteInfo, ...]:
        """Latent sites of the guide."""
        return tuple(info for info in self.guide if info.kind == "latent")

    @property
    def local_latents(self) -> tuple[SiteInfo, ...]:
        """Latent sites of the model inside the data plate."""
        return tuple(info for info in self.model_latents if info.scope == "local")

    @property
    def global_latents(self) -> tuple[SiteInfo, ...]:
        """Latent sites of the model outside the data plate."""
        return tuple(info for info in self.model_latents if info.scope == "global")

    @property
    def enumerated(self) -> tuple[SiteInfo, ...]:
        """Discrete sites of the model that are summed out."""
        return tuple(info for info in self.model if info.kind == "enumerated")

    @property
    def guide_summed(self) -> tuple[SiteInfo, ...]:
        """Discrete sites that are summed out of the guide as well (:func:`~ppvae.core.sum_out`)."""
        return tuple(info for info in self.guide if info.kind == "enumerated")

    @property
    def guide_enumerated(self) -> tuple[SiteInfo, ...]:
        """Discrete latents of the guide over all values of which an expectation can be taken (:func:`draw`)."""
        return tuple(info for info in self.guide_latents if info.num_values)

    @property
    def observed(self) -> tuple[SiteInfo, ...]:
        """Observed sites of the model."""
        return tuple(info for info in self.model if info.kind == "observed")

    def site(self, name: str) -> SiteInfo:
        """The model's site of this name.

        Raises:
            PairError: there is none; suggests the nearest.
        """
        for info in self.model:
            if info.name == name:
                return info
        raise PairError(f"no site {name!r} in the model: {did_you_mean(name, [i.name for i in self.model])}")

    def require_latents(self, values: Mapping[str, Tensor]) -> None:
        """Every latent site of the model, and nothing else, has a value here."""
        expected = {info.name for info in self.model_latents}
        missing, unknown = expected - set(values), set(values) - expected
        if missing:
            raise PairError(
                f"latent site {sorted(missing)[0]!r} of the model has no value: expected values for "
                f"{sorted(expected)}, found {sorted(values)}"
                + try_one_of(
                    "give the guide a site of this name",
                    "correct the spelling: a latent without a value would be drawn from the prior",
                )
            )
        if unknown:
            name = sorted(unknown)[0]
            raise PairError(
                f"{name!r} is not a latent site of the model: {did_you_mean(name, expected)}"
                + try_one_of("correct the spelling in the guide", "mark it infer={'is_auxiliary': True}")
            )

    def require_weights_per_datum(self, what: str, *remedies: str) -> None:
        """Every datum has a weight p(x, z) / q(z | x) of its own.

        Raises:
            PairError: a latent, or an auxiliary site of the guide, stands outside the plate over data.
        """
        outside = [i for i in (*self.model_latents, *self.guide) if i.scope == "global" and i.kind != "observed"]
        if not outside:
            return
        where = "there is no data plate" if self.data_plate is None else f"outside the plate {self.data_plate!r}"
        raise PairError(
            f"{what} has one weight for every datum, but {_KINDS[outside[0].kind]} {outside[0].name!r} is global "
            f"({where}): the weights, and with them the estimate, would be joint over the data" + try_one_of(*remedies)
        )

    def require_reparameterized(self, estimator: str, alternatives: str, *, enumerates: bool = False) -> None:
        """Every latent site of the guide has pathwise gradients, or takes all of its values where these are served."""
        if self.guide_summed:
            raise PairError(
                f"{estimator} differentiates through the draws, which depend on {self.guide_summed[0].name!r}, summed "
                "out of the guide: expected the pair itself" + try_one_of("the pair that was given to sum_out")
            )
        for info in self.guide_latents:
            if not (info.has_rsample or (enumerates and info.num_values)):
                mark = ['infer={"enumerate": "parallel"} at the site, with elbo.TraceELBO: all of its values']
                raise PairError(
                    f"{estimator} differentiates through the draws, but guide site {info.name!r} has a "
                    f"{info.family_name}, expected a distribution with rsample"
                    + try_one_of(alternatives, *(mark if info.is_discrete else []))
                )


def _info(site: Mapping[str, Any], plate: str | None, latent: Iterable[str], one_datum: bool) -> SiteInfo:
    fn, frames = site["fn"], site["cond_indep_stack"]
    if not isinstance(fn, TorchDistributionMixin):
        type_name = f"{type(fn).__module__}.{type(fn).__name__}"
        raise PairError(
            f"site {site['name']!r}: expected a distribution of Pyro's, found {type_name}, which a sample statement "
            "cannot draw from" + PYRO_DISTRIBUTIONS
        )
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
    support = _support(fn) if kind == "latent" else None
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
        is_discrete=bool(getattr(support, "is_discrete", False)),
        allows_grey=isinstance(unwrap(fn), td.Bernoulli) and not unwrap(fn)._validate_args,
        data_plate_dim=None if data_frame is None else data_frame.dim,
        data_plate_size=None if data_frame is None else int(data_frame.full_size or data_frame.size),
        scaled=_is_scaled(site),
        masked=entries_present(site) is not None,
        subsampled_plates=tuple(str(frame.name) for frame in others),
        num_values=num_values,
    )


def _squeezed(infos: tuple[SiteInfo, ...], others: tuple[SiteInfo, ...]) -> tuple[SiteInfo, ...]:
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


_KINDS = {"latent": "latent site", "auxiliary": "the guide's auxiliary site", "observed": "site"}


def _is_scaled(site: Mapping[str, Any]) -> bool:
    """Whether a site's weight is another than its plates' N / B."""
    plates = 1.0
    for frame in site["cond_indep_stack"]:
        plates *= (frame.full_size or frame.size) / frame.size
    scale = torch.as_tensor(site["scale"], dtype=torch.float64)
    return bool(((scale - plates).abs() > 1e-6 * plates).any())


def _support(fn: Any) -> Constraint | None:
    """Where a latent's values lie; None where its distribution does not say."""
    try:
        support = fn.support
    except NotImplementedError:
        return None
    while isinstance(support, constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint  # the components' own, which a bijection is registered for
    return cast("Constraint | None", support)


def _bounds(support: Any) -> list[Tensor]:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return [value for value in getattr(support, "__dict__", {}).values() if isinstance(value, Tensor)]
