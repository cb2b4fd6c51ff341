"""Bridge sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory
from .densities import FittedNormal, LogDensity
from .outcome import Outcome
from .posterior import Draws, Posterior, judge_mixing, posterior_memory
from .ris import JITTER, check_chains, check_draws, flat, halves, judge_by_prior
from .run import EvidenceRun
from .weights import average, effective_draws
from ..hmc.options import HMC
from ...core import Data, unconstrained

_TOLERANCE = 1e-8


@dataclass(frozen=True)
class BridgeSampling(EvidenceMethod):
    r"""Bridge sampling (Meng & Wong 1996) between the posterior and a normal fitted to other draws of it.

    $$\hat p = \frac{\frac{1}{N_2} \sum_j \frac{p(x, \tilde z_j)}{s_1 p(x, \tilde z_j) + s_2 \hat p\, g(\tilde z_j)}}
                    {\frac{1}{N_1} \sum_i \frac{g(z_i)}{s_1 p(x, z_i) + s_2 \hat p\, g(z_i)}},\qquad
      \tilde z_j \sim g,\quad z_i \sim p(z \mid x)$$

    iterated to its fixed point, with g a normal of full covariance in unconstrained coordinates, and $s_1, s_2$ the
    shares of the effective sample sizes. Half of the chains fit g and the other half enter the sum, then the other way
    round. The standard error is the relative mean squared error of Frühwirth-Schnatter (2004), which counts
    autocorrelation. Consistent, and on neither side of the truth. All terms are bounded, so that there is no Pareto k
    to give.

    Every other chain starts at the prior, the others at the guide: where they disagree (R-hat, ``info["rhat"]``), or
    where draws from the prior find more mass than the estimate, the outcome says so.

    Limitations: as for any method over HMC draws, of a mode that no chain visited only draws from the prior can tell.

    Args:
        num_draws: posterior draws per datum, all chains together.
        num_leapfrog: of one transition.
        num_chains: chains per datum.
        num_warmup: transitions of each chain before the draws.
        target_acceptance: what warm-up adapts the step sizes to.
        max_iterations: of the fixed point; if it has not converged by then, the outcome says so.

    Raises:
        PpvaeError: an option out of range, or fewer draws than the fit needs.
    """

    num_draws: int = 1000
    num_leapfrog: int = 10
    num_chains: int = 8
    num_warmup: int = 300
    target_acceptance: float = 0.8
    max_iterations: int = 1000
    bound: ClassVar[Bound] = "consistent"

    def __post_init__(self) -> None:
        check_chains("BridgeSampling", self.num_draws, self.num_chains, self.num_warmup, self.num_leapfrog)

    def check(self, run: EvidenceRun) -> None:
        """Continuous latents, and enough draws for the fit."""
        dim = unconstrained(run.pair, run.example).dim
        check_draws("BridgeSampling", self.num_draws, self.num_chains, 2 * (dim + 1), dim)

    def memory(self, run: EvidenceRun) -> Memory:
        """All draws, and a gradient for every chain."""
        return posterior_memory(run, self.num_chains, self.num_draws)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """Draws, proposals fitted to one half and bridged to the other, and with the halves exchanged."""
        posterior = Posterior(run)
        options = HMC(self.num_leapfrog, target_acceptance=self.target_acceptance, jitter=JITTER)
        draws = posterior.draws(x, options, self.num_chains, self.num_warmup, self.num_draws // self.num_chains)
        result = both_ways(draws, partial(posterior.log_density, x), self.max_iterations)
        columns = (result.log_evidence, result.standard_error, result.effective_sample_size)
        value, error, ess = (item.to(run.dtype) for item in columns)
        info = {name: item.to(run.dtype) for name, item in draws.info.items()}
        outcome = judge_mixing(result.outcome, draws)
        estimate = Estimate(value, error, ess, torch.full_like(value, math.nan), outcome, info)
        return judge_by_prior(estimate, run, x, draws)


class BridgeResult(NamedTuple):
    """The result of bridge sampling, each [B], float64 except for the outcome; NaN where a chain failed."""

    log_evidence: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor
    outcome: Tensor


def both_ways(draws: Draws, log_density: LogDensity, max_iterations: int) -> BridgeResult:
    """Proposals fitted to one half of the draws and bridged to the other, and with the halves exchanged.

    Args:
        draws: posterior draws.
        log_density: unnormalised, at draws from the proposals: u [m, B, d] to [m, B], nats.
        max_iterations: of the fixed point.
    """
    values, fresh, of_posteriors, sizes = [], [], [], []
    converged = torch.ones_like(draws.good[0])
    usable = torch.ones_like(draws.good[0])
    for fit, rest in halves(draws, exchange=True):
        keep = flat(fit.good.unsqueeze(1).expand(fit.log_density.shape))
        proposal = FittedNormal.of_draws(flat(fit.u), keep, 1.0)
        other = proposal.sample(rest.u.shape[0] * rest.u.shape[1], draws.u)
        log_ratio = log_density(other.nan_to_num(0.0)).double() - proposal.log_prob(other)
        inside = rest.log_density - proposal.log_prob(flat(rest.u)).reshape(rest.log_density.shape)
        size = effective_draws(rest.u, rest.good)
        value, of_proposal, of_posterior, reached = _bridge(inside.double(), rest.good, log_ratio, size, max_iterations)
        values.append(value)
        fresh.append(of_proposal)
        of_posteriors.append(of_posterior)
        sizes.append(size)
        converged &= reached
        usable &= fit.good.any(0) & rest.good.any(0)
    value = torch.stack(values).mean(0)
    # Draws from the proposals are independent; the errors of one half's fit and of the other half's average enter both
    # terms as the same product, so these errors add up linearly.
    error = (torch.stack(fresh).mean(0) / 2 + torch.stack(of_posteriors).sqrt().mean(0).square()).sqrt()
    outcome = torch.zeros_like(value, dtype=torch.int64)
    outcome[~converged] = Outcome.NOT_CONVERGED
    outcome[~torch.isfinite(value)] = Outcome.NOT_FINITE
    outcome[~usable] = Outcome.DIVERGED
    invalid = ~usable | ~torch.isfinite(value)
    value, error, size = (item.masked_fill(invalid, math.nan) for item in (value, error, torch.stack(sizes).sum(0)))
    return BridgeResult(value, error, size, outcome)


def _bridge(
    inside: Tensor, good: Tensor, outside: Tensor, size: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fixed point, its relative variance from the proposal's draws and from the posterior's, and whether it was
    reached: each [B].

    Args:
        inside: log p - log g at posterior draws, [C, n, B].
        good: chains that count, [C, B].
        outside: log p - log g at draws from g, [N_2, B].
        size: effective sample size of the posterior draws, [B].
        max_iterations: at most.
    """
    log_s1, log_s2 = (size / (size + len(outside))).log(), (len(outside) / (size + len(outside))).log()
    keep = good.unsqueeze(1)
    count = (good.sum(0) * inside.shape[1]).clamp(min=1).log()
    # The fixed point is where log p-hat is stationary; it starts from the importance estimate.
    value = outside.logsumexp(0) - math.log(len(outside))
    converged = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(max_iterations):
        above, below = _terms(inside, outside, value, log_s1, log_s2)
        numerator = above.logsumexp(0) - math.log(len(outside))
        denominator = below.masked_fill(~keep, -math.inf).flatten(0, 1).logsumexp(0) - count
        new = numerator - denominator
        converged = ((new - value).abs() <= _TOLERANCE * value.abs().clamp(min=1.0)) | ~torch.isfinite(new)
        value = new
        if bool(converged.all()):
            break
    above, below = _terms(inside, outside, value, log_s1, log_s2)
    independent = average(above.unsqueeze(0).transpose(0, 1), torch.ones_like(above, dtype=torch.bool))
    dependent = average(below, good)
    return value, independent.relative_variance, dependent.relative_variance, converged & torch.isfinite(value)


def _terms(inside: Tensor, outside: Tensor, value: Tensor, log_s1: Tensor, log_s2: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the terms of numerator and denominator."""
    above = outside - torch.logaddexp(log_s1 + outside, log_s2 + value)
    below = -torch.logaddexp(log_s1 + inside, log_s2 + value)
    return above, below
