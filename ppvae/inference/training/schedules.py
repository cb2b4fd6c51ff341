"""Schedules: numbers that change while a pair is trained, as functions of the epochs or steps done."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ...core import PpvaeError
from ...core.errors import did_you_mean, try_one_of

Unit: TypeAlias = Literal["epochs", "steps"]


class Schedule(ABC):
    """A number as a function of the time in a run: a frozen dataclass that states its formula.

    Attributes:
        unit: what time is counted in: "epochs", which pass in fractions, step by step, or "steps".
    """

    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise PpvaeError(
                f"{self._name}: unknown unit {self.unit!r}: {did_you_mean(str(self.unit), get_args(Unit))}"
            )
        for name, value in vars(self).items():
            if name != "unit" and value is not None and not _is_finite(value):
                raise PpvaeError(f"{self._name}: expected a finite number for {name}, found {value!r}")

    @abstractmethod
    def value(self, time: float) -> float:
        """The number after a time of at least 0, in :attr:`unit`."""

    @property
    @abstractmethod
    def lowest(self) -> float:
        """The smallest number that :meth:`value` gives."""

    def at(self, epochs: float, steps: int) -> float:
        """The number for the step before which so many epochs, and so many steps, are done."""
        return float(self.value(steps if self.unit == "steps" else epochs))

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _require(self, holds: bool, expected: str, found: object) -> None:
        if not holds:
            raise PpvaeError(f"{self._name}: expected {expected}, found {found}")


@dataclass(frozen=True)
class Constant(Schedule):
    r"""$v(t) = c$.

    Attributes:
        constant: c.
    """

    constant: float

    def value(self, time: float) -> float:
        return self.constant

    @property
    def lowest(self) -> float:
        return self.constant

    def __str__(self) -> str:
        return f"{self.constant:g} throughout"


@dataclass(frozen=True)
class Linear(Schedule):
    r"""$v(t) = a + (b - a) \min(1, t / T)$: along a line from a to b, and b from then on.

    Attributes:
        start: a.
        end: b.
        over: T, in ``unit``.
        unit: "epochs" or "steps".

    >>> from ppvae.inference import Linear
    >>> [Linear(0.0, 1.0, over=4).value(t) for t in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    start: float
    end: float
    over: float
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.over > 0, f"over to be a positive number of {self.unit}", self.over)

    def value(self, time: float) -> float:
        return self.start + (self.end - self.start) * min(1.0, time / self.over)

    @property
    def lowest(self) -> float:
        return min(self.start, self.end)

    def __str__(self) -> str:
        return f"linearly from {self.start:g} to {self.end:g} over {self.over:g} {self.unit}"


@dataclass(frozen=True)
class Exponential(Schedule):
    r"""$v(t) = a (b / a)^{\min(1, t / T)}$: by equal factors from a to b, and b from then on.

    As temperatures of relaxed distributions are lowered (Jang, Gu & Poole 2016, arXiv 1611.01144, section 4).

    Attributes:
        start: a, positive.
        end: b, positive.
        over: T, in ``unit``.
        unit: "epochs" or "steps".
    """

    start: float
    end: float
    over: float
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.over > 0, f"over to be a positive number of {self.unit}", self.over)
        self._require(min(self.start, self.end) > 0, "start and end to be positive", f"{self.start} and {self.end}")

    def value(self, time: float) -> float:
        return self.start * math.pow(self.end / self.start, min(1.0, time / self.over))

    @property
    def lowest(self) -> float:
        return min(self.start, self.end)

    def __str__(self) -> str:
        return f"by equal factors from {self.start:g} to {self.end:g} over {self.over:g} {self.unit}"


@dataclass(frozen=True)
class Cyclic(Schedule):
    r"""$v(t) = a + (b - a) \min(1, \tau / R)$ with $\tau = (t \bmod P) / P$: a saw tooth with a flat top.

    Cyclical annealing (Fu et al. 2019, arXiv 1903.10145, eq. 6): in every period along a line from a to b in the share
    R of it, then b.

    Attributes:
        start: a.
        end: b.
        period: P, in ``unit``.
        rise: R, in (0, 1].
        num_periods: after so many periods b for good; None for no end.
        unit: "epochs" or "steps".
    """

    start: float
    end: float
    period: float
    rise: float = 0.5
    num_periods: int | None = None
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.period > 0, f"period to be a positive number of {self.unit}", self.period)
        self._require(0 < self.rise <= 1, "rise to be in (0, 1]", self.rise)
        self._require(self.num_periods is None or self.num_periods >= 1, "num_periods of at least 1", self.num_periods)

    def value(self, time: float) -> float:
        if self.num_periods is not None and time >= self.num_periods * self.period:
            return self.end
        return self.start + (self.end - self.start) * min(1.0, time % self.period / self.period / self.rise)

    @property
    def lowest(self) -> float:
        return min(self.start, self.end)

    def __str__(self) -> str:
        times = "" if self.num_periods is None else f", {self.num_periods} times"
        return f"in periods of {self.period:g} {self.unit} from {self.start:g} to {self.end:g}{times}"


@dataclass(frozen=True)
class KLWarmup(Schedule):
    """Raise the weight of the KL in the objective linearly to one (Bowman et al. 2015, Sønderby et al. 2016).

    Attributes:
        num_epochs: epochs until the weight is one.
        start: weight at the first step, in [0, 1].
    """

    num_epochs: int
    start: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(
            self.num_epochs >= 1 and 0 <= self.start <= 1,
            "num_epochs >= 1 and 0 <= start <= 1",
            f"{self.num_epochs} and {self.start}",
        )

    def value(self, time: float) -> float:
        return Linear(self.start, 1.0, self.num_epochs).value(time)

    @property
    def lowest(self) -> float:
        return self.start

    def __str__(self) -> str:
        return str(Linear(self.start, 1.0, self.num_epochs))


def as_schedule(value: float | Schedule, key: str) -> Schedule:
    """A schedule; a number becomes a constant one.

    Args:
        value: a number or a schedule.
        key: what it is of, for messages.

    Raises:
        PpvaeError: neither, or not finite.
    """
    if isinstance(value, Schedule):
        return value
    if not _is_finite(value):
        raise PpvaeError(
            f"{key}: expected a finite number or a schedule, found {value!r} ({type(value).__name__})"
            + try_one_of("Linear(0.0, 1.0, over=10)", "1.0")
        )
    return Constant(float(value))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
