r"""Does a method miss mass? A test by draws that are independent of its own.

Draws from the prior, or from the guide stretched about its centre, give unbiased estimates of p(x), and of the part of
p(x) in any region, wherever the method's draws are. An unbiased estimate exceeds c times the truth with probability
below 1 / c (Markov), so that one far above the method's own shows that the method is low.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Estimate
from .outcome import Outcome
from .run import EvidenceRun, collect
from .weights import log_mean
from ...core import Data, ModelGuidePair, PairError, draw, log_guide, log_joint, structure, unconstrained

FROM_PRIOR, FROM_GUIDE = 0.2, 0.1  # numbers of draws of the two kinds, as shares of the method's own
_STRETCH = 2.0
_CENTRE_DRAWS = 16
_SIGMAS = 4.0
_FEWEST = 10  # effective draws, for a standard error to be believed
_ULPS = 8
_LARGE = 0.002  # of p(x): mass that matters however small the standard error is
MARGIN = 0.7  # nats above the largest weight seen, below which a weight is not called new
_MARKOV = math.log(200.0)
_SHARES = (0.002, 0.01, 0.05, 0.2)  # of posterior draws, the ones with the largest ratios
_ERRORS = 3.0  # of the estimate, by which those draws may be too few


class Probe(NamedTuple):
    """Draws from a distribution r other than the method's; each [n, B], nats.

    Attributes:
        log_weights: log p(x, z) - log r(z) at draws from r: the mean of their exponentials is unbiased for p(x).
        log_ratio: log p(x, z) - log q(z | x) there, or with another density in place of q; NaN where that cannot be
            evaluated.
    """

    log_weights: Tensor
    log_ratio: Tensor


def from_prior(run: EvidenceRun, x: Data, num_draws: int) -> Probe:
    """Draws from the prior."""
    has_guide_density(run)  # here, because the test cannot run inside a capture

    def log_weights(pair: ModelGuidePair, x: Data, num: int) -> Tensor:
        latents = draw(run.prior_pair, x, num).latents
        joint = log_joint(pair, x, latents, num_draws=num)
        return torch.stack([joint.observed, _log_ratio(run, x, latents, joint.local)], 1)

    return Probe(*collect(run, run.pair, x, "probe prior", log_weights, num_draws, share=0).unbind(1))


def from_prior_against(run: EvidenceRun, x: Data, num_draws: int, log_density: Callable[[Tensor], Tensor]) -> Probe:
    """Draws from the prior, and their ratios to a density of unconstrained coordinates, u [n, B, d] to [n, B], nats."""

    def log_weights(pair: ModelGuidePair, x: Data, num: int) -> Tensor:
        space, draws = unconstrained(pair, x), draw(run.prior_pair, x, num)
        u = space.refill(space.unconstrain(draws.latents), draws.present)
        at = space.log_joint(pair, x, u)
        return torch.cat([torch.stack([at.joint.observed, at.log_density], -1), u], -1)  # [n, B, 2 + d]

    def ratio(part: Tensor) -> Tensor:
        log_g = log_density(part[..., 2:]).to(part.dtype)
        return torch.stack([part[..., 0], part[..., 1] - log_g], 1)

    return Probe(*collect(run, run.pair, x, "probe prior at", log_weights, num_draws, ratio, share=0).unbind(1))


def from_wide_guide(run: EvidenceRun, x: Data, num_draws: int) -> Probe | None:
    r"""Draws from the guide, stretched about its centre m: $u' = m + c (u - m)$ has the density $q(u) / c^d$.

    None where the latents are discrete or masked out in part, or the guide has no density.
    """
    if not _has_coordinates(run):
        return None

    def log_weights(pair: ModelGuidePair, x: Data, num: int) -> Tensor:
        space = unconstrained(pair, x)
        centre = space.unconstrain(draw(pair, x, _CENTRE_DRAWS).latents).mean(0)
        draws = draw(pair, x, num)
        u = space.unconstrain(draws.latents)
        _, log_jacobian = space.constrain(u)
        latents, there = space.constrain(centre + _STRETCH * (u - centre))
        local = log_joint(pair, x, latents).local
        log_r = draws.log_q + log_jacobian - u.shape[-1] * math.log(_STRETCH)
        return torch.stack([local + there - log_r, _log_ratio(run, x, latents, local)], 1)

    return Probe(*collect(run, run.pair, x, "probe guide", log_weights, num_draws, share=0).unbind(1))


def misses_mass(value: Tensor, error: Tensor, largest: Tensor | None, probe: Probe) -> Tensor:
    """Where a probe finds mass that an estimate misses, bool [B].

    Args:
        value: the estimate of log p(x), [B], nats.
        error: its standard error, [B].
        largest: the largest log ratio, as the probe's, among the method's draws, [B]: a draw of the probe that exceeds
            it lies where the method has no draw. None where the method has no such weights.
        probe: the independent draws.
    """
    weights, error = probe.log_weights.double().nan_to_num(nan=-math.inf), error.double().nan_to_num()
    total, its_error, ess = log_mean(weights)
    above = total - value.double()
    # Where the guide is exact the weights are equal but for rounding, of many terms' sum, and so is their error.
    rounding = 1e-6 + _ULPS * torch.finfo(value.dtype).eps * value.double().abs()
    low = (ess > _FEWEST) & (above > _SIGMAS * (its_error.square() + error.square()).sqrt() + rounding)
    low |= above > _MARKOV
    if largest is not None:
        new = probe.log_ratio.double() > largest.double() + MARGIN  # False for NaN
        excess = weights.masked_fill(~new, -math.inf).logsumexp(0) - math.log(len(weights)) - value.double()
        low |= excess > torch.maximum(error, torch.full_like(error, _LARGE)).log()
    return low & torch.isfinite(value)


def too_few_there(value: Tensor, error: Tensor, log_ratio: Tensor, probe: Probe) -> Tensor:
    """Where posterior draws are too few in a region, bool [B]: the draws of a probe weigh the points whose log ratio is
    above a level, and posterior draws should fall there in proportion. Chains that seldom cross between modes do not,
    and show no error of their own that tells.

    Args:
        value: the estimate of log p(x), [B], nats.
        error: its standard error, [B].
        log_ratio: at the posterior draws, as the probe's, [n, B]; NaN for those that do not count.
        probe: the independent draws.
    """
    weights, ratio = probe.log_weights.double().nan_to_num(nan=-math.inf), log_ratio.double()
    error, few = error.double().nan_to_num(), torch.zeros_like(value, dtype=torch.bool)
    for share in _SHARES:
        level = ratio.nanquantile(1 - share, 0) + MARGIN
        there = probe.log_ratio.double() > level
        log_mass, its_error, ess = log_mean(weights.masked_fill(~there, -math.inf))
        mass = (log_mass - value.double()).exp()
        seen = (ratio > level).double().sum(0) / ratio.isfinite().sum(0).clamp(min=1)
        few |= (ess > _FEWEST) & (mass - seen > _ERRORS * error + _SIGMAS * mass * its_error)
    return few


def judge_mass(estimate: Estimate, largest: Tensor | None, probes: Sequence[Probe]) -> Estimate:
    """The estimate, its outcome MISSED_MASS where a probe finds mass that it misses; NaN estimates are unchanged."""
    outcome = estimate.outcome.clone()
    for probe in probes:
        low = misses_mass(estimate.log_evidence, estimate.standard_error, largest, probe)
        outcome[low & torch.isfinite(estimate.log_evidence)] = Outcome.MISSED_MASS
    return estimate._replace(outcome=outcome)


def _log_ratio(run: EvidenceRun, x: Data, latents: dict[str, Tensor], local: Tensor) -> Tensor:
    if not has_guide_density(run):
        return torch.full_like(local, math.nan)
    return local - log_guide(run.pair, x, latents, num_draws=len(local))[0]


def has_guide_density(run: EvidenceRun) -> bool:
    """Whether log q(z | x) can be evaluated at any z."""
    if run.guide_density is None:
        run.guide_density = True
        try:
            with torch.no_grad(), torch.random.fork_rng():
                log_guide(run.pair, run.example, draw(run.prior_pair, run.example, 1).latents)
        except PairError:
            run.guide_density = False
    return run.guide_density


def _has_coordinates(run: EvidenceRun) -> bool:
    try:
        unconstrained(run.pair, run.example)
    except PairError:
        return False
    return has_guide_density(run) and not structure(run.pair, run.example).masked_latents
