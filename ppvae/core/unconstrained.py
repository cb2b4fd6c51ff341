"""Bijections between an unconstrained vector per datum and the local latents of a pair, with their log-Jacobian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.transforms import Transform

from .density import structure
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .structure import SiteInfo


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
        parts = []
        for slot in self._slots:
            value = latents[slot.info.name]
            lead = value.shape[: value.dim() - len(slot.info.shape)]
            parts.append(slot.transform.inv(value).reshape(*lead, -1))
        return torch.cat(parts, -1)


def unconstrained(pair: ModelGuidePair, x: Data) -> Unconstrained:
    """Bijections between R^d and the local latents of a pair.

    Args:
        pair: the pair; each support must not depend on another latent's value.
        x: a batch, [B, *event].

    Raises:
        PairError: a local latent is discrete, or bounded for every datum otherwise; or there is none.
    """
    slots: list[_Slot] = []
    start = 0
    for info in structure(pair, x).local_latents:
        if info.is_discrete or info.support is None:
            raise PairError(
                f"latent site {info.name!r} is discrete ({info.family}): it has no unconstrained coordinates"
                + try_one_of(
                    "sum it out by enumeration inside the model",
                    "use a method that needs no gradient in z: PriorSampling, ImportanceSampling",
                )
            )
        transform = biject_to(info.support)
        shape = tuple(transform.inverse_shape(torch.Size(info.shape)))
        if tuple(transform.forward_shape(torch.Size(shape))) != info.shape:
            raise PairError(
                f"latent site {info.name!r}: its support ({info.support}) has bounds for every datum, expected the "
                f"same for all, of shape {list(info.shape)} at most"
                + try_one_of("a latent in fixed bounds, scaled inside the model", "PriorSampling, ImportanceSampling")
            )
        stop = start + math.prod(shape)
        slots.append(_Slot(info, transform, shape, start, stop))
        start = stop
    if not slots:
        raise PairError("the pair has no latent inside the data plate" + try_one_of("check the plate's name and dim"))
    return Unconstrained(start, tuple(slot.info.name for slot in slots), tuple(slots))
