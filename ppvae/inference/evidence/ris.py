"""The estimator of AEVB, appendix D: posterior draws, a density fitted to some, its reciprocal weights at others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory
from .densities import DENSITIES, Density, FittedDensity, FittedNormal, KernelDensity
from .outcome import Outcome
from .pareto import pareto_k
from .posterior import Draws, Posterior, judge_mixing, posterior_memory
from .probe import from_prior, from_prior_against, has_guide_density, judge_mass, too_few_there
from .run import EvidenceRun
from .weights import INFINITE_VARIANCE_K, UNTRUSTED_K, Average, average, mean_of_series
from ..hmc.options import HMC
from ...core import Data, PpvaeError, unconstrained
from ...core.errors import did_you_mean, try_one_of

# Half-width of the factor on step sizes. Weights depend on the distance from the centre, which trajectories of exactly
# half a period do not change; the factor varies their lengths.
JITTER = 0.5
_PRIOR_DRAWS = 5  # from the prior, for each draw of the posterior: each costs a fiftieth of one
_COVERAGE_DRAWS = 200
_LARGE = 0.02  # of q: mass that matters
_OF_ERROR = 0.5  # standard errors: a bias that they do not hide
_MARGIN = 0.1  # nats


@dataclass(frozen=True)
class RIS(EvidenceMethod):
    r"""AEVB (Kingma & Welling 2013, arXiv 1312.6114), appendix D: reciprocal importance sampling over HMC draws.

    $$\frac{1}{\hat p(x)} = \frac{1}{L} \sum_{l=1}^{L} \frac{q(z_l)}{p(x, z_l)},\qquad z_l \sim p(z \mid x)$$

    with q fitted to *other* draws (Gelfand & Dey 1994). The average is unbiased for 1 / p(x) when the draws are exact,
    so log p-hat is an upper bound in expectation. Half of the chains fit, the other half evaluate, and then the other
    way round; of a single chain the first half fits and the second evaluates, as in the paper. The standard error
    counts autocorrelation.

    It refuses a datum (NaN with an outcome) where Pareto k of the reciprocal weights is above 0.7, or where the density
    is not to be trusted in so many dimensions, unless ``trust`` is set.

    Where q reaches beyond the draws, the average lacks the mass there, and neither its weights nor k show it: draws
    from q do, ``info["uncovered"]``. Every other chain starts at the prior, the others at the guide; where they
    disagree (R-hat, ``info["rhat"]``) the outcome says so.

    Limitations: the chains must cover all of the posterior. Of a mode that no chain visited only draws from the prior
    can tell.

    Args:
        num_draws: draws per datum, all chains together; split evenly.
        num_leapfrog: of one transition.
        density: a :class:`~.densities.Density`, or the name of one with its defaults: "gaussian", "truncated",
            "kernel", "encoder".
        num_chains: chains per datum.
        num_warmup: transitions of each chain before the draws.
        target_acceptance: what warm-up adapts the step sizes to.
        trust: keep estimates that would be refused.

    Raises:
        PpvaeError: an option out of range, or fewer draws than the density needs.
    """

    num_draws: int = 1000
    num_leapfrog: int = 10
    density: Density | str = "gaussian"
    num_chains: int = 8
    num_warmup: int = 300
    target_acceptance: float = 0.8
    trust: bool = False
    bound: ClassVar[Bound] = "upper"

    def __post_init__(self) -> None:
        check_chains("RIS", self.num_draws, self.num_chains, self.num_warmup, self.num_leapfrog)
        if isinstance(self.density, str) and self.density not in DENSITIES:
            raise PpvaeError(f"RIS: unknown density {self.density!r}: {did_you_mean(self.density, DENSITIES)}")

    @staticmethod
    def paper() -> RIS:
        """The published protocol: one chain of 50 draws, 4 leapfrogs, 90 % acceptance, a kernel density."""
        return RIS(50, 4, KernelDensity(), num_chains=1, num_warmup=200, target_acceptance=0.9, trust=True)

    def check(self, run: EvidenceRun) -> None:
        """Continuous latents, and enough draws for the density."""
        dim = unconstrained(run.pair, run.example).dim
        check_draws("RIS", self.num_draws, self.num_chains, self._density.fewest_draws(dim), dim)

    def memory(self, run: EvidenceRun) -> Memory:
        """All draws, and a gradient for every chain."""
        return posterior_memory(run, self.num_chains, self.num_draws)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """Draws, fits, and the reciprocal estimator."""
        posterior = Posterior(run)
        options = HMC(self.num_leapfrog, target_acceptance=self.target_acceptance, jitter=JITTER)
        draws = posterior.draws(x, options, self.num_chains, self.num_warmup, self.num_draws // self.num_chains)
        folds, k, usable = [], [], torch.ones_like(draws.good[0])
        uncovered = torch.zeros_like(draws.log_density[0, 0])
        densities = []
        pairs = halves(draws, exchange=self.num_chains > 1) if self._density.fitted else [(draws, draws)]
        for fit, held_out in pairs:
            log_q = self._density.fit(posterior, x, flat(fit.u), _keep(fit))
            densities.append(log_q)
            log_weights = _log_weights(log_q, held_out)
            folds.append(average(log_weights, held_out.good))
            k.append(pareto_k(flat(log_weights).masked_fill(~_keep(held_out), -math.inf)))
            usable &= fit.good.any(0) & held_out.good.any(0)
            largest = flat(log_weights).masked_fill(~_keep(held_out), -math.inf).amax(0)
            uncovered = torch.maximum(uncovered, _uncovered_share(posterior, x, log_q, largest))
        value, variance, ess = mean_of_folds(folds)
        if len(folds) == 2:
            # At most the variance of two folds that are fully dependent.
            together = torch.stack([fold.relative_variance for fold in folds]).sqrt().mean(0).square()
            variance = torch.minimum(variance + _shared_variance(densities, draws, folds), together.maximum(variance))
        error = variance.sqrt()
        worst = torch.stack(k).nan_to_num(nan=-math.inf, posinf=math.inf).amax(0)
        worst = torch.where(worst == -math.inf, math.nan, worst)
        info = draws.info | {"uncovered": uncovered}
        estimate = self._judge(-value, error, ess, worst, usable, draws.u.shape[-1], info, run.dtype)
        loose = (estimate.outcome == Outcome.OK) & (uncovered > torch.clamp(_OF_ERROR * error, min=_LARGE))
        estimate = estimate._replace(outcome=torch.where(loose, int(Outcome.LOOSE), estimate.outcome))
        estimate = estimate._replace(outcome=judge_mixing(estimate.outcome, draws))
        if not self._density.fitted:  # a fitted density is where the draws are, however many of them are in each mode
            estimate = _judge_encoder(estimate, run, x, draws, densities[0])
        return judge_by_prior(estimate, run, x, draws)

    def _judge(
        self,
        value: Tensor,
        error: Tensor,
        ess: Tensor,
        k: Tensor,
        usable: Tensor,
        dim: int,
        info: dict[str, Tensor],
        dtype: torch.dtype,
    ) -> Estimate:
        outcome = torch.zeros_like(value, dtype=torch.int64)
        limit = self._density.max_dim
        outcome[k > INFINITE_VARIANCE_K] = Outcome.DOUBTFUL
        outcome[k > UNTRUSTED_K] = Outcome.UNRELIABLE if self.trust else Outcome.REFUSED_TAIL
        if limit is not None and dim > limit and not self.trust:
            outcome[:] = Outcome.REFUSED_DIMENSION
        outcome[~torch.isfinite(value)] = Outcome.NOT_FINITE
        outcome[~usable] = Outcome.DIVERGED
        empty = ~torch.tensor([code.has_estimate for code in Outcome], device=value.device)[outcome]
        value, error, ess = (item.masked_fill(empty, math.nan).to(dtype) for item in (value, error, ess))
        return Estimate(value, error, ess, k.to(dtype), outcome, {n: item.to(dtype) for n, item in info.items()})

    @property
    def _density(self) -> Density:
        return DENSITIES[self.density] if isinstance(self.density, str) else self.density


def halves(draws: Draws, *, exchange: bool) -> list[tuple[Draws, Draws]]:
    """Draws to fit to and draws to evaluate at; with exchange, also with their roles exchanged. One chain is halved."""
    chains, num = draws.u.shape[:2]
    if chains == 1:
        first = draws._replace(u=draws.u[:, : num // 2], log_density=draws.log_density[:, : num // 2])
        second = draws._replace(u=draws.u[:, num // 2 :], log_density=draws.log_density[:, num // 2 :])
    else:
        first, second = (
            Draws(draws.u[part], draws.log_density[part], draws.good[part], draws.info)
            for part in (slice(0, chains // 2), slice(chains // 2, None))
        )
    return [(first, second), (second, first)] if exchange else [(first, second)]


def judge_by_prior(estimate: Estimate, run: EvidenceRun, x: Data, draws: Draws) -> Estimate:
    """The estimate, MISSED_MASS where draws from the prior find more mass than it, or mass that no chain visited: where
    log p minus the log density of a normal fitted to the chains is larger than at any of their draws."""
    u, keep = flat(draws.u), _keep(draws)
    normal = FittedNormal.of_draws(u, keep, 1.0)
    largest = (flat(draws.log_density) - normal.log_prob(u)).masked_fill(~keep, -math.inf).amax(0)
    return judge_mass(estimate, largest, [from_prior_against(run, x, _PRIOR_DRAWS * len(u), normal.log_prob)])


def _judge_encoder(estimate: Estimate, run: EvidenceRun, x: Data, draws: Draws, log_q: FittedDensity) -> Estimate:
    """The estimate, MISSED_MASS where the draws are too few where the guide is not: the reciprocal average is the share
    of the draws that are where it is."""
    if not has_guide_density(run):
        return estimate
    ratio = -flat(_log_weights(log_q, draws)).masked_fill(~_keep(draws), math.nan)
    few = too_few_there(
        estimate.log_evidence, estimate.standard_error, ratio, from_prior(run, x, _PRIOR_DRAWS * len(ratio))
    )
    return estimate._replace(
        outcome=torch.where(few & (estimate.outcome == Outcome.OK), int(Outcome.MISSED_MASS), estimate.outcome)
    )


def _uncovered_share(posterior: Posterior, x: Data, log_q: FittedDensity, largest: Tensor) -> Tensor:
    """Share of the fitted density q where q / p exceeds its largest value over the posterior draws, [B]: the reciprocal
    average is low by that share, which the weights themselves cannot show."""
    u = log_q.sample(_COVERAGE_DRAWS).nan_to_num(0.0)
    inside = log_q(u)
    new = inside - posterior.log_density(x, u) > largest + _MARGIN
    return (new.sum(0) / (inside > -math.inf).sum(0).clamp(min=1)).to(u.dtype)


def _log_weights(log_q: FittedDensity, draws: Draws) -> Tensor:
    return log_q(flat(draws.u)).reshape(draws.log_density.shape) - draws.log_density


def _shared_variance(densities: list[FittedDensity], draws: Draws, folds: list[Average]) -> Tensor:
    r"""Half of the covariance of the relative errors of the two folds, [B].

    The error of the fit to A and the error of the average over B enter both folds as the same product, so the folds
    are dependent: with $w_A, w_B$ the relative weights under the two fits, the covariance is half of the variance of
    the mean of $w_A - w_B$ over as many draws as one fold has.
    """
    first, second = (
        (_log_weights(log_q, draws).double() - fold.log_mean).exp()
        for log_q, fold in zip(densities, folds, strict=True)
    )
    _, variance, _ = mean_of_series(first - second, draws.good)
    return 0.5 * variance  # over all draws, of which one fold has half: a quarter of twice this


def mean_of_folds(folds: list[Average]) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the mean over folds, its variance for independent folds, and the total ESS: each [B]."""
    logs = torch.stack([fold.log_mean for fold in folds])
    share = torch.softmax(logs, 0)
    variance = sum(part.square() * fold.relative_variance for part, fold in zip(share, folds, strict=True))
    ess = sum(fold.effective_sample_size for fold in folds)
    assert isinstance(variance, Tensor)
    assert isinstance(ess, Tensor)
    return logs.logsumexp(0) - math.log(len(folds)), variance, ess


def flat(value: Tensor) -> Tensor:
    """Chains and draws as one axis."""
    return value.flatten(0, 1)


def _keep(draws: Draws) -> Tensor:
    return flat(draws.good.unsqueeze(1).expand(draws.log_density.shape))


def check_chains(method: str, num_draws: int, num_chains: int, num_warmup: int, num_leapfrog: int) -> None:
    """Raise a PpvaeError where an option is out of range."""
    for name, number in (("num_chains", num_chains), ("num_leapfrog", num_leapfrog)):
        if number < 1:
            raise PpvaeError(f"{method}: expected {name} of at least 1, found {number}")
    if num_warmup < 1:
        raise PpvaeError(
            f"{method}: zero warm-up leaves step sizes as they were guessed and chains where they started"
            + try_one_of("num_warmup=300")
        )
    if num_draws < 2 * num_chains:
        raise PpvaeError(
            f"{method}: expected num_draws of at least two per chain, found {num_draws} for {num_chains} chains"
        )


def check_draws(method: str, num_draws: int, num_chains: int, fewest: int, dim: int) -> None:
    """Raise a PpvaeError where the half that is fitted to is too small."""
    half = num_draws // 2 if num_chains == 1 else num_draws // num_chains * (num_chains // 2)
    if half < fewest:
        raise PpvaeError(
            f"{method}: {half} draws to fit to, of {num_draws}, are fewer than the density needs in {dim} dimensions: "
            f"expected at least {fewest}" + try_one_of(f"num_draws={4 * fewest * max(1, num_chains // 2)}")
        )
