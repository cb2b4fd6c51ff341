"""Importance sampling: with the guide as proposal (L_K, Pareto-smoothed or not), and with the prior (the naive one)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory
from .probe import FROM_GUIDE, FROM_PRIOR, from_prior, from_wide_guide, has_guide_density, judge_mass
from .run import EvidenceRun, collect, draws_nothing, guide_weights, sampling_memory
from .weights import from_weights
from ..execution.arguments import require_integer
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_guide, log_joint, structure
from ...core.errors import try_one_of

_FEWEST = 100  # draws of each kind from elsewhere: fewer miss a mode that few prior draws reach


@dataclass(frozen=True)
class ImportanceSampling(EvidenceMethod):
    r"""The encoder as proposal: $\mathcal{L}_K$ of Burda, Grosse & Salakhutdinov (2015, arXiv 1509.00519, eq.
    8).

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k \mid x)},\qquad z_k \sim q(z
    \mid x)$$

    $\hat p$ is unbiased, so $\log \hat p$ is a lower bound in expectation; at K = 1 it is the ELBO. With the
    exact posterior as guide it is log p(x) at any K, without error.

    With ``defensive`` = a, that share of the draws comes from the prior, and all are weighted by the mixture
    (Hesterberg 1995; Owen & Zhou 2000): $p(x, z) / [(1 - a)\, q(z \mid x) + a\, p(z)]$. Weights are then bounded by
    p(x | z) / a, and a mode that the guide misses is seen where the prior sees it. Still a lower bound.

    Where the guide misses a part of the posterior, so does every draw, and neither the standard error nor Pareto k
    shows it: hence 0.3 K further draws, from the prior and from the guide at twice its width and at least 100 of
    each, which affect only the outcome. Limitations: in many dimensions they do not reach a missed mode either.

    Args:
        num_samples: K, draws per datum.
        defensive: share of the draws that come from the prior, at least 0 and below 1.

    Raises:
        PpvaeError: K not a whole number, or below 1; a share out of range.
        PairError: defensive, and the guide has no density that can be evaluated at the prior's draws.

    >>> import torch
    >>> from ppvae.inference.evidence import log_evidence
    >>> from ppvae.models import FactorAnalysis
    >>> pair, x = FactorAnalysis(4, 2), torch.randn(3, 4)
    >>> result = log_evidence(pair, x, method=ImportanceSampling(10), progress=False)
    >>> bool((result.log_evidence - pair.log_evidence(x)).abs().max() < 1e-4)
    True
    """

    num_samples: int = 1000
    defensive: float = 0.0
    bound: ClassVar[Bound] = "lower"
    smooth: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_integer("ImportanceSampling: num_samples", self.num_samples, 1)
        if not 0 <= self.defensive < 1:
            raise PpvaeError(
                f"ImportanceSampling: expected defensive, a share of the draws, at least 0 and below 1, found "
                f"{self.defensive}" + try_one_of("defensive=0.5", "PriorSampling, all draws from the prior")
            )

    def check(self, run: EvidenceRun) -> None:
        """Every datum has a weight of its own; and a guide with a density, where the proposal is defensive."""
        structure(run.pair, run.example).require_weights_per_datum(
            "ImportanceSampling",
            "AIS(start='prior'), BridgeSampling() or PriorSampling(), which need no log q(z | x)",
            "a guide with a distribution for every datum: AutoNormal, or an encoder",
        )
        if self.defensive and not has_guide_density(run):
            raise PairError(
                "ImportanceSampling(defensive=...) needs log q(z | x) at draws from the prior, which this guide does "
                "not give (it has an auxiliary site)" + try_one_of("defensive=0.0", "PriorSampling()")
            )

    def memory(self, run: EvidenceRun) -> Memory:
        """The log-weights stay; latents do not."""
        return sampling_memory(run, self.num_samples)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """L_K with its error, effective sample size and Pareto k."""
        nothing = draws_nothing(run.pair, x)
        if self.defensive and not nothing:
            weigh = partial(_defensive, run.proposing_prior, self.defensive)
            log_w = collect(run, run.pair, x, "defensive", weigh, self.num_samples)
        else:
            log_w = collect(run, run.pair, x, "importance", guide_weights, self.num_samples)
        estimate = from_weights(log_w, dtype=run.dtype, smooth=self.smooth)
        if self.num_samples < 2 or nothing:
            return estimate
        # Weights of a mixture are not p / q, so the probes' ratios cannot be compared with them.
        largest = None if self.defensive else log_w.amax(0)
        wider, prior = (max(_FEWEST, round(share * self.num_samples)) for share in (FROM_GUIDE, FROM_PRIOR))
        probes = [from_wide_guide(run, x, wider)] + ([] if self.defensive else [from_prior(run, x, prior)])
        return judge_mass(estimate, largest, [probe for probe in probes if probe is not None])


@dataclass(frozen=True)
class PSIS(ImportanceSampling):
    r"""Importance sampling whose largest weights are replaced by quantiles of a Pareto tail fitted to them
    (:func:`pareto_smoothed`; Vehtari, Simpson, Gelman, Yao & Gabry 2024, arXiv 1507.02646).

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \tilde w_k$$

    Less variance where the weights have a heavy tail, for a bias that vanishes as draws are added: it is not a bound.
    Everything else, with the outcome, the options and the errors, is as for :class:`ImportanceSampling`.

    Limitations: below 25 draws there is no tail to fit, and the weights are unchanged; a mode that no draw reached is
    in no tail.

    >>> import torch
    >>> from ppvae.inference.evidence import log_evidence
    >>> from ppvae.models import FactorAnalysis
    >>> pair, x = FactorAnalysis(4, 2), torch.randn(3, 4)
    >>> result = log_evidence(pair, x, method=PSIS(100), progress=False)
    >>> bool((result.log_evidence - pair.log_evidence(x)).abs().max() < 1e-4), result.bound
    (True, 'consistent')
    """

    bound: ClassVar[Bound] = "consistent"
    smooth: ClassVar[bool] = True


@dataclass(frozen=True)
class PriorSampling(EvidenceMethod):
    r"""The naive estimator: the mean likelihood of draws from the prior.

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} p(x \mid z_k),\qquad z_k \sim p(z)$$

    Unbiased in p, so a lower bound in log p, in expectation.

    Limitations: the number of draws that it needs grows exponentially with KL(posterior || prior), so that it fails
    from a few informative dimensions on (``reproductions/prior_or_encoder.py``), as Pareto k shows.

    Args:
        num_samples: K, draws per datum.

    Raises:
        PpvaeError: K not a whole number, or below 1.
    """

    num_samples: int = 1000
    bound: ClassVar[Bound] = "lower"

    def __post_init__(self) -> None:
        require_integer("PriorSampling: num_samples", self.num_samples, 1)

    def memory(self, run: EvidenceRun) -> Memory:
        """The log-weights stay; latents do not."""
        return sampling_memory(run, self.num_samples)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """The mean likelihood with its error, effective sample size and Pareto k."""
        return from_weights(collect(run, run.proposing_prior, x, "prior", _log_likelihood, self.num_samples))


def _defensive(prior: ModelGuidePair, share: float, pair: ModelGuidePair, x: Data, num: int) -> Tensor:
    """Deterministic mixture weights: so many of the draws from the prior, the rest from the guide."""
    num_prior = min(max(1, round(share * num)), max(1, num - 1))
    a, b = draw(prior, x, num_prior).latents, draw(pair, x, max(1, num - num_prior)).latents
    latents = {name: torch.cat([a[name], b[name]])[:num] for name in a}
    joint = log_joint(pair, x, latents, num_draws=num)
    log_q, share = log_guide(pair, x, latents, num_draws=num)[0], num_prior / num
    if num_prior == num:
        return joint.observed
    return joint.local - torch.logaddexp(log_q + math.log1p(-share), joint.local - joint.observed + math.log(share))


def _log_likelihood(pair: ModelGuidePair, x: Data, num_samples: int) -> Tensor:
    # The guide is the model here, so that the log q of `draw` contains the likelihood; it is not used.
    return log_joint(pair, x, draw(pair, x, num_samples).latents, num_draws=num_samples).observed
