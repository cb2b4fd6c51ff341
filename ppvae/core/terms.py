"""Terms of the bound: what a site's log density and KL add up to, per datum, unscaled, in nats."""

from __future__ import annotations

import functools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from .axes import to_canonical
from .enumeration import SummedOut, is_enumerated
from .errors import ONE_DATUM, PairError, try_one_of
from .structure import Structure
from .support import log_density
from .wrappers import unwrap

Sites = dict[str, dict[str, Any]]


class LogTerms(NamedTuple):
    r"""Terms of $\log p(x, z, w)$, unscaled, in nats.

    Attributes:
        local: $\log p(x_b, z_b \mid w)$, [*S, B].
        global_: $\log p(w)$, [*S]; zero where the pair has no global site.
        observed: $\log p(x_b \mid z_b, w)$, the observed sites' part of ``local``, [*S, B].
        tilt: what the program's own weights (``poutine.scale``) add to ``local`` in an objective, [*S, B]; they are no
            part of a density. None where there are none.
        present: local latent to which of its entries are not masked out, [*S, B, *event]; names the masked ones only.
    """

    local: Tensor
    global_: Tensor
    observed: Tensor
    tilt: Tensor | None = None
    present: Mapping[str, Tensor] = {}

    def total(self, num_data: int | None = None) -> Tensor:
        r"""$\frac{N}{B} \sum_b \text{local}_b + \text{global}$, [*S]: see :func:`scaled_total`."""
        return scaled_total(self.local, self.global_, num_data)


class Simulation(NamedTuple):
    """Latents and data drawn from the model.

    Attributes:
        latents: site name to [B, *event] for a local site, [*event] for a global one.
        observed: observed site name to [B, *event].
    """

    latents: dict[str, Tensor]
    observed: dict[str, Tensor]


class Draw(NamedTuple):
    r"""Draws from the guide.

    Attributes:
        latents: site name to [K, B, *event] for a local site, [K, *event] for a global one.
        log_q: log q of the local latents, [K, B], nats.
        global_log_q: log q of the global latents, [K], nats.
        tilt: what the guide's own weights (``poutine.scale``) add to ``log_q`` in an objective, [K, B]; None where
            there are none.
        auxiliary: values of the guide's auxiliary sites, as those of latents.
        present: as in :class:`LogTerms`, of the guide.
        log_share: where the guide's discrete sites take all of their values: log of the draw's weight in the mean over
            K, $\log K q(y_k \mid x)$, [K, B]; None where all draws count alike.
    """

    latents: dict[str, Tensor]
    log_q: Tensor
    global_log_q: Tensor
    tilt: Tensor | None = None
    auxiliary: Mapping[str, Tensor] = {}
    present: Mapping[str, Tensor] = {}
    log_share: Tensor | None = None


class SiteTerm(NamedTuple):
    """What one site adds to the bound, unscaled, in nats; local terms are [K, B], global ones [K].

    Attributes:
        name: the site.
        scope: "local" (inside the data plate) or "global".
        log_p: log density under the model; None for a site that only the guide has.
        log_q: log density under the guide; None for an observed site.
        kl: KL(q || p) of this site given its parents, or its one-sample estimate; None for an observed site.
        route: "analytic" or "sampled"; "observed" for an observed site.
        reason: why the KL was sampled; empty where it was not.
        kl_per_dimension: the analytic KL before it is summed over event axes, [K, B, *event], where there is one.
        tilt: what the programs' own weights (``poutine.scale``) add in an objective; None where there are none.
    """

    name: str
    scope: Literal["local", "global"]
    log_p: Tensor | None
    log_q: Tensor | None
    kl: Tensor | None
    route: Literal["analytic", "sampled", "observed"]
    reason: str = ""
    kl_per_dimension: Tensor | None = None
    tilt: Tensor | None = None


def scaled_total(local: Tensor, global_: Tensor, num_data: int | None) -> Tensor:
    r"""$\frac{N}{B} \sum_b \text{local}_b + \text{global}$ for ``local`` [*S, B] and ``global_`` [*S].

    The one place where N / B is written.
    """
    factor = 1.0 if num_data is None else num_data / local.shape[-1]
    return factor * local.sum(-1) + global_


class Sums(NamedTuple):
    """Log densities of a program's sites, added up, without any scale.

    Attributes:
        local: of the sites inside the plate over data, [L, B].
        global_: of those outside it, [L].
        observed: the part of ``local`` that is of no latent, [L, B].
        tilt: what the program's own weights add to ``local`` in an objective, [L, B]; None where there are none.
    """

    local: Tensor
    global_: Tensor
    observed: Tensor
    tilt: Tensor | None


def sum_log_probs(
    sites: Sites, shape: Structure, particles: int, latents: Container[str] = (), stand_in: int | None = None
) -> Sums:
    """Sum of log densities over sites; those not among ``latents`` count as observed.

    Args:
        sites: of one run; enumerated ones are summed out.
        shape: of the pair.
        particles: L.
        latents: the latents, whose values were given.
        stand_in: see :class:`~ppvae.core.enumeration.SummedOut`.
    """
    local: list[Tensor] = []
    global_: list[Tensor] = []
    observed: list[Tensor] = []
    tilt: list[Tensor] = []
    log_probs = {name: log_density(site) for name, site in sites.items()}
    summed = summed_out(sites, log_probs, shape, particles, stand_in)
    if summed is not None:
        joint, prior = _log_sums(summed, latents)
        local.append(joint)
        observed.append(joint - prior)
        if (weight := _common_weight(summed)) is not None:
            tilt.append((weight - 1) * joint)
    for name, site in sites.items():
        if summed is not None and name in summed.names:
            continue
        log_prob = log_probs[name]
        term = reduce_term(log_prob, site, shape, particles)
        if term.dim() == 1:
            global_.append(term)
            continue
        local.append(term)
        if name not in latents:
            observed.append(term)
        if (weight := own_weight(site)) is not None:
            tilt.append(reduce_term((weight - 1) * log_prob, site, shape, particles))
    terms = [*local, *global_]
    like = terms[0] if terms else torch.zeros(())

    def total(parts: list[Tensor], *size: int) -> Tensor:
        return functools.reduce(torch.add, parts) if parts else like.new_zeros(size)

    return Sums(
        total(local, particles, shape.batch),
        total(global_, particles),
        total(observed, particles, shape.batch),
        total(tilt) if tilt else None,
    )


def summed_out(
    sites: Sites,
    log_probs: Mapping[str, Tensor],
    shape: Structure,
    particles: int,
    stand_in: int | None = None,
) -> SummedOut | None:
    """What is summed out of a run; None where nothing is."""
    if not any(map(is_enumerated, sites.values())):
        return None
    return SummedOut(sites, log_probs, shape.data_plate, shape.batch, particles, stand_in)


def _log_sums(summed: SummedOut, latents: Container[str]) -> tuple[Tensor, Tensor]:
    r"""$\log \sum_y p(x, y, z)$ and $\log \sum_y p(y, z)$ of the sites that are summed over, [L, B]."""
    joint = summed.log_sum(summed.names)
    dependent = {name for name in summed.names - summed.enumerated if name in latents}
    prior = summed.log_sum(dependent) if dependent else torch.zeros_like(joint)
    return joint, prior


def _common_weight(summed: SummedOut) -> Tensor | float | None:
    """The program's own weight of the sites under one sum; None where it is 1."""
    weights = {name: own_weight(summed.sites[name]) for name in summed.names}
    first = next(iter(weights.values()))
    for name, weight in weights.items():
        if weight is not first and (isinstance(weight, Tensor) or isinstance(first, Tensor) or weight != first):
            raise PairError(
                f"site {name!r} is weighted (poutine.scale) otherwise than other sites under the same sum over "
                f"{sorted(summed.enumerated)}: a weighted sum has no weight of its own"
                + try_one_of("poutine.scale around all of them, or around none")
            )
    return first


def join_sums(parts: Sequence[Sums]) -> Sums:
    """Groups of particles, one after another."""
    if len(parts) == 1:
        return parts[0]
    return Sums(*(None if column[0] is None else torch.cat(column) for column in zip(*parts, strict=True)))  # type: ignore[arg-type]


def own_weight(site: Mapping[str, Any]) -> Tensor | float | None:
    """A program's own weight of a site, besides the scale of its plates; None where it is 1."""
    weight = site["scale"]
    for frame in site["cond_indep_stack"]:
        if frame.full_size:
            weight = weight * frame.size / frame.full_size
    if not isinstance(weight, Tensor) and math.isclose(weight, 1.0):
        return None
    return cast("Tensor | float", weight)


def reduce_term(term: Tensor, site: dict[str, Any], shape: Structure, particles: int) -> Tensor:
    """A site's log density, or KL, summed over nested plates: [L, B] if local, [L] if global.

    No scale enters: N / B is applied once, by scaled_total, and a weight of the program's own is no part of a density.
    """
    term = scale_and_mask(term, 1.0, site["mask"])
    if particles == 1:
        term = term.unsqueeze(0)
    frame = next((frame for frame in site["cond_indep_stack"] if frame.name == shape.data_plate), None)
    if frame is None:
        total = term.reshape(term.shape[0], -1).sum(-1).expand(particles)
        return total.unsqueeze(-1) if shape.one_datum else total
    term = term.movedim(frame.dim, 1)
    if term.shape[1] not in (1, shape.batch):
        raise PairError(
            f"site {site['name']!r} has the values of {term.shape[1]} data where the batch has {shape.batch}: what the "
            "model observes is not of the batch (poutine.condition, or data of a closure)"
            + try_one_of("the data as an argument of both programs: obs=x", ONE_DATUM)
        )
    return term.reshape(*term.shape[:2], -1).sum(-1).expand(particles, shape.batch)


def terms_of(guide: Sites, model: Sites, shape: Structure, particles: int, analytic: bool) -> dict[str, SiteTerm]:
    same_order = [i.name for i in shape.guide_latents] == [i.name for i in shape.model_latents]
    log_probs = {name: log_density(site) for name, site in model.items()}
    summed = summed_out(model, log_probs, shape, particles)
    shares = {} if summed is None else _shares(summed, guide)
    under_sum = frozenset() if summed is None else summed.names - shares.keys()
    terms: dict[str, SiteTerm] = {}
    for name, site in {**guide, **model}.items():
        if name in under_sum:
            continue  # in the one term of all observed sites under the sum, below
        log_p, tilt_p = shares.get(name), None
        if log_p is None:
            log_p, tilt_p = _log_term(model.get(name), log_probs.get(name), shape, particles)
        log_q, tilt_q = _log_term(guide.get(name), None, shape, particles)
        term = log_p if log_p is not None else log_q
        tilt = tilt_p if tilt_q is None else -tilt_q if tilt_p is None else tilt_p - tilt_q
        scope: Literal["local", "global"] = "local" if term is not None and term.dim() == 2 else "global"
        if log_q is None:
            terms[name] = SiteTerm(name, scope, log_p, None, None, "observed", tilt=tilt)
            continue
        if log_p is None:
            reason = "only the guide has this site"
            terms[name] = SiteTerm(name, scope, None, log_q, log_q, "sampled", reason, tilt=tilt)
            continue
        kl, per_dimension, reason = None, None, "analytic KL was not asked for"
        if name in shares:
            reason = "its prior depends on a site that is summed out"
        elif analytic:
            reason = "" if same_order else "the guide meets the latent sites in another order than the model"
            if same_order:
                kl, per_dimension, reason = _closed_form(guide[name], model[name], site, shape, particles)
        if kl is None:
            terms[name] = SiteTerm(name, scope, log_p, log_q, log_q - log_p, "sampled", reason, tilt=tilt)
        else:
            weight = own_weight(site)
            tilt = None if weight is None else (1 - weight) * kl
            terms[name] = SiteTerm(name, scope, log_p, log_q, kl, "analytic", "", per_dimension, tilt)
    if summed is not None:
        joint = summed.log_sum(summed.names)
        observed = joint if not shares else joint - functools.reduce(torch.add, shares.values())
        weight = _common_weight(summed)
        name = ", ".join(name for name in summed.sites if name in under_sum - summed.enumerated)
        tilt = None if weight is None else (weight - 1) * joint
        terms[name] = SiteTerm(name, "local", observed, None, None, "observed", tilt=tilt)
    return terms


def _shares(summed: SummedOut, guide: Sites) -> dict[str, Tensor]:
    """Of the latents whose priors depend on what is summed out: log p of each given those before it, [L, B]."""
    shares: dict[str, Tensor] = {}
    before = None
    for name in summed.sites:
        if name in summed.names and name in guide:
            total = summed.log_sum({*shares, name})
            shares[name], before = total if before is None else total - before, total
    return shares


def _log_term(
    site: dict[str, Any] | None, log_prob: Tensor | None, shape: Structure, particles: int
) -> tuple[Tensor | None, Tensor | None]:
    """Log density of a site, computed here if it is not given, and what its own weight adds to it."""
    if site is None:
        return None, None
    if log_prob is None:
        log_prob = log_density(site)
    weight = own_weight(site)
    tilt = None if weight is None else reduce_term((weight - 1) * log_prob, site, shape, particles)
    return reduce_term(log_prob, site, shape, particles), tilt


def _closed_form(
    guide: dict[str, Any], model: dict[str, Any], site: dict[str, Any], shape: Structure, particles: int
) -> tuple[Tensor | None, Tensor | None, str]:
    if _one_sided(guide, model):
        return None, None, "the site is scaled or masked on one side only"
    q, p = guide["fn"], model["fn"]
    if isinstance(unwrap(q), Delta):
        # Pyro's KL of a Delta drops its log_density, and with it the Jacobian of an autoguide.
        return None, None, "the guide's site is a Delta"
    if any(not part.bijective for side in (q, p) for part in getattr(unwrap(side), "transforms", ())):
        # PyTorch gives the KL of the bases, which is no less: |z| tells less than z.
        return None, None, "a transform is not one to one"
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        return None, None, f"no closed form is registered for KL({_describe(q)} || {_describe(p)})"
    return reduce_term(kl, guide, shape, particles), _per_dimension(q, p, guide, shape, particles), ""


def _one_sided(guide: dict[str, Any], model: dict[str, Any]) -> bool:
    """Whether log q and log p of a site are scaled or masked differently, as far as can be told without values."""
    q, p = own_weight(guide), own_weight(model)
    if isinstance(q, Tensor) != isinstance(p, Tensor) or (not isinstance(q, Tensor) and q != p):
        return True
    masks = [site["mask"] if isinstance(site["mask"], Tensor) else site["mask"] is not False for site in (guide, model)]
    return any(isinstance(m, Tensor) for m in masks) != all(isinstance(m, Tensor) for m in masks) or (
        not isinstance(masks[0], Tensor) and masks[0] != masks[1]
    )


def _per_dimension(q: Any, p: Any, site: dict[str, Any], shape: Structure, particles: int) -> Tensor | None:
    """KL before the event axes are summed, [L, B, *event], where both sides factorise over them."""
    if not (isinstance(q, Independent) and isinstance(p, Independent)):
        return None
    axes = q.reinterpreted_batch_ndims
    if axes != p.reinterpreted_batch_ndims or site["mask"] is not None:
        return None
    try:
        kl = kl_divergence(q.base_dist, p.base_dist)
    except NotImplementedError:
        return None
    info = next(i for i in shape.guide if i.name == site["name"])
    # The base may have an event of its own (the classes of a OneHotCategorical), which its KL has no axes for.
    info = replace(info, event_shape=info.event_shape[:axes])
    return to_canonical(kl, info, shape.nesting, particles)


def _describe(fn: Any) -> str:
    return type(unwrap(fn)).__name__


def join_particles(terms: list[SiteTerm]) -> SiteTerm:
    def cat(field: str) -> Tensor | None:
        values = [getattr(term, field) for term in terms]
        return None if values[0] is None else torch.cat(values)

    return terms[0]._replace(
        log_p=cat("log_p"),
        log_q=cat("log_q"),
        kl=cat("kl"),
        kl_per_dimension=cat("kl_per_dimension"),
        tilt=cat("tilt"),
    )
