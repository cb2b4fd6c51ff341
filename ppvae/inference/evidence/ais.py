"""Annealed importance sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .annealing import Path, Schedule, Start, anneal, check_options, check_path, judge_path, path_memory, tune
from .base import Bound, Estimate, EvidenceMethod, Memory
from .outcome import Outcome
from .probe import MARGIN, from_prior, judge_mass
from .run import EvidenceRun, collect, guide_weights
from .weights import from_weights, log_mean
from ...core import Data

_FEWEST = 3  # chains from the prior: of two, no spread is known
_PRIOR_DRAWS = 100
_GUIDE_DRAWS = 500
_LEVEL = 0.995


@dataclass(frozen=True)
class AIS(EvidenceMethod):
    r"""Annealed importance sampling (Neal 2001; for decoders: Wu, Burda, Salakhutdinov & Grosse 2016, arXiv
    1611.04273).

    $$\log \hat p(x) = \log \frac{1}{C} \sum_{c=1}^{C} \exp \sum_{t=1}^{T}
      \log f_{b_t}(z^{(c)}_{t-1}) - \log f_{b_{t-1}}(z^{(c)}_{t-1}),\qquad
      f_b = f_0^{1-b}\, p(x, z)^b$$

    with HMC transitions that leave $f_{b_t}$ invariant. Step sizes and masses are tuned, for every temperature and
    datum, by a pilot run with chains of its own, and then frozen, so that the estimate of p(x) is unbiased and its
    logarithm a lower bound in expectation.

    With start "guide", a quarter as many chains start at the prior as well. They do not enter the estimate
    (``info["from_prior"]`` is theirs): where they find significantly more, the guide's chains have missed a mode, and
    the outcome says so; likewise where single draws from the prior find mass that neither 500 draws of the guide nor
    the ends of the chains reach.

    Limitations: the standard error comes from C chains, and below forty from the variance of log w along the path too
    (:func:`~.annealing.judge_path`); where it says that fewer than 0.3 C chains carry the weight the outcome is
    "loose": use more temperatures. The cost is C (T + 1) (L + 1) gradients per datum, plus the pilot's, and a quarter.

    Args:
        num_temperatures: T.
        num_chains: C.
        start: $f_0$, the "guide" (a better start: fewer temperatures) or the "prior" (independent of the guide).
        schedule: of b, "sigmoid", "linear" or "geometric"; see :func:`~.annealing.temperatures`.
        num_leapfrog: L, steps of one transition.
        target_acceptance: what the pilot tunes to.

    Raises:
        PpvaeError: an option out of range.
    """

    num_temperatures: int = 200
    num_chains: int = 16
    start: Start = "guide"
    schedule: Schedule = "sigmoid"
    num_leapfrog: int = 5
    target_acceptance: float = 0.8
    bound: ClassVar[Bound] = "lower"

    def __post_init__(self) -> None:
        check_options(
            "AIS",
            start=self.start,
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_chains=self.num_chains,
            num_leapfrog=self.num_leapfrog,
        )

    def check(self, run: EvidenceRun) -> None:
        """Continuous latents; a guide with a density."""
        check_path(run, run.example, self.name, self.start)

    def memory(self, run: EvidenceRun) -> Memory:
        """A gradient for every chain, and the tuning."""
        return path_memory(run, self.num_chains + self._others, self.num_temperatures)

    def path(self, run: EvidenceRun) -> Path:
        """The path with these options."""
        return Path(
            run,
            start=self.start,
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_leapfrog=self.num_leapfrog,
            target_acceptance=self.target_acceptance,
            others=self._others,
        )

    @property
    def _others(self) -> int:
        """Chains from the prior beside those from the guide."""
        return 0 if self.start == "prior" else max(_FEWEST, self.num_chains // 4)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """A pilot run, then the annealing run with its tuning."""
        path, batch = self.path(run), run.batch_of(x)
        chains = self.num_chains + path.others
        tuning = tune(path, x, chains, 0.5 * batch)
        result = anneal(path, x, tuning, chains, 0.5 * batch)
        info = {"acceptance": result.acceptance, "divergences": result.divergences}
        estimate = from_weights(result.log_weights[: self.num_chains], info, run.dtype)
        estimate = judge_path(estimate, result.stretches[:, : self.num_chains])
        if not path.others:
            return estimate
        probe = [from_prior(run, x, max(_PRIOR_DRAWS, 2 * self.num_chains * self.num_temperatures))]
        others = result.log_weights[self.num_chains :]
        estimate.info["from_prior"] = log_mean(others)[0].to(run.dtype)
        low = _above(others, estimate)
        estimate = estimate._replace(outcome=torch.where(low, int(Outcome.MISSED_MASS), estimate.outcome))
        # A few chains may not reach a mode that the guide misses, and their total does not show it.
        largest = collect(run, run.pair, x, "importance", guide_weights, _GUIDE_DRAWS, share=0).amax(0)
        came_by = (result.log_ratio[: self.num_chains] > largest + MARGIN).any(0)
        return judge_mass(estimate, torch.where(came_by, math.inf, largest), probe)


def _above(log_weights: Tensor, estimate: Estimate) -> Tensor:
    """Where the few chains from the prior [C, B] find more than the estimate: by Student's t, and Markov."""
    import scipy.stats

    value, _, _ = log_mean(log_weights)
    # Of a mean of logs, which is below the error of the log of the mean.
    error = log_weights.double().std(0) / len(log_weights) ** 0.5
    gain = value - estimate.log_evidence.double()
    there = estimate.standard_error.double().nan_to_num()
    critical = float(scipy.stats.t.ppf(_LEVEL, len(log_weights) - 1))
    low: Tensor = gain > (critical * critical * error.square() + 9 * there.square()).sqrt() + 1e-6
    low |= gain > -math.log(1 - _LEVEL)
    return low & torch.isfinite(value) & torch.isfinite(estimate.log_evidence)
