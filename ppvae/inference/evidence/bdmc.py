"""Bidirectional Monte Carlo: the evidence between two bounds, on simulated data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .annealing import Path, Schedule, Start, anneal, check_options, check_path, judge_path, path_memory, tune
from .base import Bound, Estimate, EvidenceMethod, Memory
from .run import EvidenceRun
from .weights import from_weights, log_mean
from ...core import Data, DataError
from ...core.errors import try_one_of


@dataclass(frozen=True)
class BDMC(EvidenceMethod):
    r"""Bidirectional Monte Carlo (Grosse, Ghahramani & Adams 2015, arXiv 1511.02543): a sandwich around log p(x).

    $$\mathbb{E} \log \tfrac{1}{C} \textstyle\sum_c w_c \;\le\; \log p(x) \;\le\;
      \mathbb{E} \left[- \log \tfrac{1}{C} \textstyle\sum_c w'_c\right]$$

    with $w$ from annealing forward and $w'$ from annealing in reverse, which needs one exact draw from the posterior:
    the z that x was simulated from. So it is valid on simulated data only, where it measures the accuracy of the
    sampler; it says nothing of a real datum's posterior. Use it as

    ``log_evidence(pair, simulate_data(pair, like=x, num_data=100), method=BDMC(...))``.

    The result's ``log_evidence`` is the lower bound; ``info`` has, for each datum, ``upper``, ``upper_standard_error``
    and ``width``, upper minus lower.

    Limitations: the reverse chains of a datum share their one exact draw, so their spread understates the error of that
    datum's upper bound; over data the draws are independent, and the mean width is judged by its spread over data.

    Args:
        num_temperatures: T.
        num_chains: C, in each direction.
        start: the other end of the path, "guide" or "prior".
        schedule: of the temperatures.
        num_leapfrog: L, steps of one transition.
        target_acceptance: what the pilot tunes to.

    Raises:
        DataError: real data.
        PpvaeError: an option out of range.
    """

    num_temperatures: int = 500
    num_chains: int = 16
    start: Start = "guide"
    schedule: Schedule = "sigmoid"
    num_leapfrog: int = 5
    target_acceptance: float = 0.8
    bound: ClassVar[Bound] = "lower"

    def __post_init__(self) -> None:
        check_options(
            "BDMC",
            start=self.start,
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_chains=self.num_chains,
            num_leapfrog=self.num_leapfrog,
        )

    def check(self, run: EvidenceRun) -> None:
        """Simulated data; continuous latents; a guide with a density."""
        if run.truth is None:
            raise DataError(
                "BDMC is valid on simulated data only: its upper bound starts from an exact draw of p(z | x), and only "
                "for data that the model itself has made is one known (the z that made them)"
                + try_one_of(
                    "log_evidence(pair, simulate_data(pair, like=x, num_data=100), method=BDMC())",
                    "AIS on real data: the lower side of the sandwich",
                )
            )
        check_path(run, run.example, self.name, self.start)

    def memory(self, run: EvidenceRun) -> Memory:
        """A gradient for every chain, and the tuning."""
        return path_memory(run, self.num_chains, self.num_temperatures)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """A pilot run, then forward and reverse with its tuning."""
        path = Path(
            run,
            start=self.start,
            schedule=self.schedule,
            num_temperatures=self.num_temperatures,
            num_leapfrog=self.num_leapfrog,
            target_acceptance=self.target_acceptance,
        )
        batch = run.batch_of(x)
        tuning = tune(path, x, self.num_chains, 0.2 * batch)
        forward = anneal(path, x, tuning, self.num_chains, 0.4 * batch)
        reverse = anneal(path, x, tuning, self.num_chains, 0.4 * batch, run.truth)
        value, error, _ = log_mean(reverse.log_weights)
        lower, _, _ = log_mean(forward.log_weights)
        info = {
            "upper": -value,
            "upper_standard_error": error,
            "width": -value - lower,
            "acceptance": 0.5 * (forward.acceptance + reverse.acceptance),
            "divergences": forward.divergences + reverse.divergences,
        }
        return judge_path(from_weights(forward.log_weights, info, run.dtype), forward.stretches)
