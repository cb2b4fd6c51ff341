"""Annealed importance sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .annealing import Path, Schedule, Start, anneal, check_options, check_path, path_memory, tune
from .base import Bound, Estimate, EvidenceMethod, Memory
from .run import Run
from .weights import from_weights
from ...core import Data


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

    Limitations: the standard error comes from C chains, and says little where it is above about half a nat: use more
    temperatures. The cost is C (T + 1) (L + 1) gradients per datum, plus the pilot's.

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

    def check(self, run: Run) -> None:
        """Continuous latents; a guide with a density."""
        check_path(run, run.example, self.name, self.start)

    def memory(self, run: Run) -> Memory:
        """A gradient for every chain, and the tuning."""
        return path_memory(run, self.num_chains, self.num_temperatures)

    def path(self, run: Run) -> Path:
        """The path with these options."""
        return Path(
            run,
            start=self.start,
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_leapfrog=self.num_leapfrog,
            target_acceptance=self.target_acceptance,
        )

    def estimate(self, run: Run, x: Data) -> Estimate:
        """A pilot run, then the annealing run with what it found."""
        path, batch = self.path(run), run.batch_of(x)
        tuning = tune(path, x, self.num_chains, 0.5 * batch)
        found = anneal(path, x, tuning, self.num_chains, 0.5 * batch)
        info = {"acceptance": found.acceptance, "divergences": found.divergences}
        return from_weights(found.log_weights, info, run.dtype)
