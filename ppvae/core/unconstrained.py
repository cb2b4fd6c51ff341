"""Bijections between an unconstrained vector per datum and the local latents of a pair, with their log-Jacobian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import Transform

from .density import log_joint, structure
from .elimination import sites_in_words
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .site import SiteInfo
from .support import base_of
from .terms import LogTerms


def moving_support(info: SiteInfo) -> PairError:
    """The error about a latent whose support another latent bounds."""
    return PairError(
        f"latent site {info.name!r} has the support {info.support}, whose bounds another latent sets: expected the "
        "same for every draw"
        + try_one_of(
            "a latent in fixed bounds, scaled inside the model: u ~ Uniform(0, 1), z = tau * u",
            "global_sites={site: value}, where the bounds depend on global sites alone",
        )
    )


@dataclass(frozen=True)
class _Slot:
    info: SiteInfo
    transform: Transform
    shape: tuple[int, ...]  # of the unconstrained value, per datum
    start: int
    stop: int


@dataclass(frozen=True)
class Unconstrained:
    r"""The map $u \mapsto z$ from $\mathbb{R}^d$ to the local latents of one datum.

    $$\log \tilde p(u) = \log p(x, z(u)) + \log \left| \det \frac{\partial z}{\partial u} \right|$$

    Attributes:
        dim: d, unconstrained coordinates per datum.
        names: the local latent sites, in the order of their coordinates.
    """

    dim: int
    names: tuple[str, ...]
    _slots: tuple[_Slot, ...]

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Latents, site name to [*S, B, *event], and the log-Jacobian, [*S, B], at u [*S, B, d]."""
        latents: dict[str, Tensor] = {}
        log_jacobian = u.new_zeros(u.shape[:-1])
        for slot in self._slots:
            part = u[..., slot.start : slot.stop].reshape(*u.shape[:-1], *slot.shape)
            value = slot.transform(part)
            term = slot.transform.log_abs_det_jacobian(part, value)
            latents[slot.info.name] = value
            log_jacobian = log_jacobian + term.reshape(*u.shape[:-1], -1).sum(-1)
        return latents, log_jacobian

    def unconstrain(self, latents: Mapping[str, Tensor]) -> Tensor:
        """The coordinates u, [*S, B, d], of the latents, each [*S, B, *event]."""
        return torch.cat([_flat(slot.transform.inv(latents[slot.info.name]), slot.shape) for slot in self._slots], -1)

    def log_joint(self, pair: ModelGuidePair, x: Data, u: Tensor) -> AtCoordinates:
        r"""The densities of a pair at u [*S, B, d].

        An entry of a latent that is masked out has no density of its own, and nothing else of the program depends on
        it (:func:`~ppvae.core.check_pair` sees to that): a standard normal stands in for it, so that what is
        sampled is proper and its integral is that of the entries that are there.
        """
        latents, log_jacobian = self.constrain(u)
        joint = log_joint(pair, x, latents)
        if joint.present:
            absent = ~self._present(joint.present, u)
            log_jacobian = log_jacobian - 0.5 * (absent * (u.square() + math.log(2 * math.pi))).sum(-1)
        return AtCoordinates(latents, joint, log_jacobian)

    def refill(self, u: Tensor, present: Mapping[str, Tensor]) -> Tensor:
        """u [*S, B, d] with fresh standard normals for the entries that are masked out."""
        return torch.where(self._present(present, u), u, torch.randn_like(u)) if present else u

    def _present(self, present: Mapping[str, Tensor], u: Tensor) -> Tensor:
        everywhere = torch.ones_like(u, dtype=torch.bool)
        parts = [
            _flat(present[slot.info.name], slot.shape)
            if slot.info.name in present
            else everywhere[..., slot.start : slot.stop]
            for slot in self._slots
        ]
        return torch.cat(parts, -1)


def _flat(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    return value.reshape(*value.shape[: value.dim() - len(shape)], -1)


class AtCoordinates(NamedTuple):
    """A pair at unconstrained coordinates.

    Attributes:
        latents: site name to [*S, B, *event].
        joint: its log densities.
        log_jacobian: that of the coordinates, and the log density of what stands in for entries that are masked out,
            [*S, B], nats.
    """

    latents: dict[str, Tensor]
    joint: LogTerms
    log_jacobian: Tensor

    @property
    def log_density(self) -> Tensor:
        r"""$\log \tilde p(u)$, [*S, B], nats."""
        return self.joint.local + self.log_jacobian


def unconstrained(pair: ModelGuidePair, x: Data) -> Unconstrained:
    """Bijections between R^d and the local latents of a pair.

    Args:
        pair: the pair; each support must not depend on another latent's value.
        x: a batch, [B, *event].

    Raises:
        PairError: a local latent is discrete, or bounded for every datum otherwise, or by another latent; or there is
            none.
    """
    slots: list[_Slot] = []
    start = 0
    shape_of_pair = structure(pair, x)
    for info in shape_of_pair.local_latents:
        if info.name in shape_of_pair.moving:
            raise moving_support(info)
        if info.support is None:
            raise PairError(
                f"latent site {info.name!r}: its distribution ({info.family_name}) does not say where its values lie, "
                "so there is no bijection to unconstrained coordinates"
                + try_one_of("PriorSampling, ImportanceSampling", "a distribution with a `support`")
            )
        if info.is_discrete:
            raise PairError(
                f"latent site {info.name!r} is discrete ({info.family_name}): it has no unconstrained coordinates"
                + try_one_of(
                    f"ppvae.core.sum_out(pair, {info.name!r}), the site marked to be enumerated in both programs",
                    "the site so marked in the model, and not in the guide: it is summed out",
                    "use a method that needs no gradient in z: PriorSampling, ImportanceSampling",
                )
            )
        try:
            transform = biject_to(info.support)
        except NotImplementedError:
            raise PairError(
                f"latent site {info.name!r} ({info.family_name}): PyTorch knows no bijection to its support, "
                f"{info.support}"
                + try_one_of("PriorSampling, ImportanceSampling", "a latent over the reals, transformed in the model")
            ) from None
        if info.masked and base_of(info.support) is not constraints.real:
            raise PairError(
                f"latent site {info.name!r} is masked out in part and has the support {info.support}: expected real "
                "values where entries are masked out"
                + try_one_of("PriorSampling, ImportanceSampling", "a latent over the reals, transformed in the model")
            )
        shape = tuple(transform.inverse_shape(torch.Size(info.shape)))
        if tuple(transform.forward_shape(torch.Size(shape))) != info.shape:
            raise PairError(
                f"latent site {info.name!r}: its support ({info.support}) has bounds for every datum, expected the "
                f"same for all, of shape {list(info.shape)} at most"
                + try_one_of(
                    "bounds without an axis over data, Uniform(0.0, 1.0), where all have the same",
                    "a latent in fixed bounds, scaled inside the model",
                    "PriorSampling, ImportanceSampling",
                )
            )
        stop = start + math.prod(shape)
        slots.append(_Slot(info, transform, shape, start, stop))
        start = stop
    if not slots and shape_of_pair.enumerated:
        raise PairError(
            f"there is nothing to sample: the model sums out "
            f"{sites_in_words(info.name for info in shape_of_pair.enumerated)}, and a datum has no other latent"
            + try_one_of(
                "sample_discrete or discrete_posterior, for what is summed out",
                "log_evidence(method=ImportanceSampling()), which is exact here",
            )
        )
    if not slots:
        raise PairError("the pair has no latent inside the data plate" + try_one_of("check the plate's name and dim"))
    return Unconstrained(start, tuple(slot.info.name for slot in slots), tuple(slots))
