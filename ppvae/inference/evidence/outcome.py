"""What became of one datum's estimate: a small number whose text is its message."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """What became of one datum's estimate; zero means that it stands.

    A failure is a value: one datum's trouble never stops the others.

    >>> Outcome(3).message
    'not estimated: the run was interrupted before this datum'
    """

    OK = 0
    UNRELIABLE = 1
    NOT_FINITE = 2
    INTERRUPTED = 3
    REFUSED_TAIL = 4
    REFUSED_DIMENSION = 5
    DIVERGED = 6
    NOT_CONVERGED = 7
    DOUBTFUL = 8
    LOOSE = 9
    MISSED_MASS = 10
    CHAINS_DISAGREE = 11
    TOO_FEW_DRAWS = 12

    @property
    def message(self) -> str:
        """What happened, and what may be done about it."""
        return _MESSAGES[self]

    @property
    def has_estimate(self) -> bool:
        """Whether there is a number at all."""
        return self not in _WITHOUT


_MESSAGES = {
    Outcome.OK: "the estimate stands",
    Outcome.UNRELIABLE: "Pareto k above 0.7: a tail so heavy that the standard error means little",
    Outcome.NOT_FINITE: "no estimate: the density was infinite, zero everywhere or not a number",
    Outcome.INTERRUPTED: "not estimated: the run was interrupted before this datum",
    Outcome.REFUSED_TAIL: "refused: Pareto k above 0.7, the reciprocal weights may have infinite variance "
    "(more draws, a truncated density, or trust=True)",
    Outcome.REFUSED_DIMENSION: "refused: this density is not to be trusted in so many dimensions "
    "(another density, BridgeSampling or AIS, or trust=True)",
    Outcome.DIVERGED: "no estimate: every chain diverged (smaller steps, longer warm-up, float64)",
    Outcome.NOT_CONVERGED: "the iteration had not settled when it was stopped (more iterations, more draws)",
    Outcome.DOUBTFUL: "Pareto k between 0.5 and 0.7: the variance may be infinite, and the standard error too small",
    Outcome.LOOSE: "loose: a few of the weights carry the sum, or its mass lies where no draw came, so that the bound "
    "is off to its own side by an unknown amount (AIS with more temperatures, a better guide, more draws)",
    Outcome.MISSED_MASS: "draws from the prior or from a wider guide found mass that the method's own draws did not: "
    "the estimate is low (AIS(start='prior'), ImportanceSampling(defensive=0.5), a guide with more modes)",
    Outcome.CHAINS_DISAGREE: "chains from the guide and chains from the prior ended in different places, as in modes "
    "that no chain crosses between, where more iterations do not help (AIS(start='prior'), "
    "ImportanceSampling(defensive=0.5); a longer warm-up where the posterior has one mode)",
    Outcome.TOO_FEW_DRAWS: "too few effective draws to tell how good the estimate is (more draws)",
}

_WITHOUT = (
    Outcome.NOT_FINITE,
    Outcome.INTERRUPTED,
    Outcome.REFUSED_TAIL,
    Outcome.REFUSED_DIMENSION,
    Outcome.DIVERGED,
)
