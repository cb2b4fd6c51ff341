"""The outcome of one datum's estimate: a small number with its message."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """The outcome of one datum's estimate; zero means that it stands.

    A failure is a value: one datum's failure never stops the others.

    Attributes:
        message: what happened, and what may be done about it.
        has_estimate: whether there is a number at all.

    >>> Outcome(3).message
    'not estimated: the run was interrupted before this datum'
    """

    message: str
    has_estimate: bool

    def __new__(cls, value: int, message: str = "", has_estimate: bool = True) -> Outcome:
        """A code with its message."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.message, code.has_estimate = message, has_estimate
        return code

    OK = 0, "the estimate stands"
    UNRELIABLE = 1, "Pareto k above 0.7: a tail so heavy that the standard error means little"
    NOT_FINITE = 2, "no estimate: the density was infinite, zero everywhere or not a number", False
    INTERRUPTED = 3, "not estimated: the run was interrupted before this datum", False
    REFUSED_TAIL = (
        4,
        "refused: Pareto k above 0.7, the reciprocal weights may have infinite variance (more draws, a truncated "
        "density, or trust=True)",
        False,
    )
    REFUSED_DIMENSION = (
        5,
        "refused: this density is not to be trusted in so many dimensions (another density, BridgeSampling or AIS, or "
        "trust=True)",
        False,
    )
    DIVERGED = 6, "no estimate: every chain diverged (smaller steps, longer warm-up, float64)", False
    NOT_CONVERGED = 7, "the iteration had not settled when it was stopped (more iterations, more draws)"
    DOUBTFUL = 8, "Pareto k between 0.5 and 0.7: the variance may be infinite, and the standard error too small"
    LOOSE = (
        9,
        "loose: a few of the weights carry the sum, or its mass lies where no draw came, so that the bound is off to "
        "its own side by an unknown amount (AIS with more temperatures, a better guide, more draws)",
    )
    MISSED_MASS = (
        10,
        "draws from the prior or from a wider guide found mass that the method's own draws did not: the estimate is "
        "low (AIS(start='prior'), ImportanceSampling(defensive=0.5), a guide with more modes)",
    )
    CHAINS_DISAGREE = (
        11,
        "chains from the guide and chains from the prior ended in different places, as in modes that no chain crosses "
        "between, where more iterations do not help (AIS(start='prior'), ImportanceSampling(defensive=0.5); a longer "
        "warm-up where the posterior has one mode)",
    )
    TOO_FEW_DRAWS = 12, "too few effective draws to tell how good the estimate is (more draws)"

    @property
    def leaves_a_bound(self) -> bool:
        """Whether a lower bound that is flagged so is loose and no more."""
        return self in (Outcome.OK, Outcome.UNRELIABLE, Outcome.LOOSE, Outcome.MISSED_MASS, Outcome.TOO_FEW_DRAWS)
