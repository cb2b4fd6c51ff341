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

    @property
    def message(self) -> str:
        """What happened, and what may be done about it."""
        return _MESSAGES[self]

    @property
    def has_estimate(self) -> bool:
        """Whether there is a number at all."""
        return self in (Outcome.OK, Outcome.UNRELIABLE, Outcome.NOT_CONVERGED, Outcome.DOUBTFUL)


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
}
