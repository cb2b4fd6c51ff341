"""The structure of a pair: its sites, and where what it observes stands in a batch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import PairError, did_you_mean, try_one_of
from .plates import Sites
from .site import SiteInfo, read_site, squeezed
from .support import bounds_of


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
        model = tuple(read_site(site, plate, latent, one_datum) for site in model_sites.values())
        guide = tuple(read_site(site, plate, latent, one_datum) for site in guide_sites.values())
        model, guide = squeezed(model, guide), squeezed(guide, model)
        frames = [f for site in (*model_sites.values(), *guide_sites.values()) for f in site["cond_indep_stack"]]
        ranks = [len(info.batch_shape) for info in (*model, *guide)] + [-f.dim for f in frames if f.dim is not None]
        sizes = [1] if one_datum else [int(frame.size) for frame in frames if frame.name == plate]
        size = sizes[0] if sizes else 0
        return Structure(model, guide, max(ranks, default=0), size, plate, one_datum=one_datum)

    @property
    def has_bounds(self) -> bool:
        """Whether the support of some latent of the model has bounds that are tensors, such as a uniform's."""
        return any(bounds_of(info.support) for info in self.model_latents)

    def moving_latents(self, other: Structure) -> frozenset[str]:
        """Latents of the model whose support has other bounds than in another run of the same programs."""
        return frozenset(
            info.name
            for info, again in zip(self.model_latents, other.model_latents, strict=True)
            if not all(map(torch.equal, bounds_of(info.support), bounds_of(again.support)))
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
            if not (info.is_pathwise or (enumerates and info.num_values)):
                rsample = "whose rsample has the whole gradient" if info.has_rsample else "with rsample"
                mark = ['infer={"enumerate": "parallel"} at the site, with elbo.TraceELBO: all of its values']
                raise PairError(
                    f"{estimator} differentiates through the draws, but guide site {info.name!r} has a "
                    f"{info.family_name}, expected a distribution {rsample}"
                    + try_one_of(alternatives, *(mark if info.is_discrete else []))
                )


_KINDS = {"latent": "latent site", "auxiliary": "the guide's auxiliary site", "observed": "site"}
