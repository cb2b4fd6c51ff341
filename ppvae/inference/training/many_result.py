"""The result of several fits: a list of them, and their mean and spread over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from .state import Fit, Row
from ...core import FitError, PpvaeError
from ...core.errors import did_you_mean
from ...notebook import curves, number, panel, table


@dataclass(frozen=True, repr=False, eq=False)
class ManyFits(Sequence[Fit]):
    """The result of :func:`ppvae.inference.fit_many`: a list of the fits in the order of the seeds, and their mean.

    Attributes:
        seeds: of the fits.
        results: of each seed its fit, or the error of one that was stopped by a value that is not finite; to take that
            one from the list raises its error.
        how: "stacked", "processes" or "sequence".
        reason: why not all in one stack; empty where they were, or where another way was asked for.
        restores_best: whether each pair has the parameters of its best epoch.
    """

    seeds: tuple[int, ...]
    results: tuple[Fit | FitError, ...]
    how: str
    reason: str = ""
    restores_best: bool = False

    @overload
    def __getitem__(self, index: int) -> Fit: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fit]: ...
    def __getitem__(self, index: int | slice) -> Fit | list[Fit]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        result = self.results[index]
        if isinstance(result, FitError):
            raise result
        return result

    def __len__(self) -> int:
        return len(self.results)

    @property
    def fits(self) -> dict[int, Fit]:
        """The fits by seed, without those that failed."""
        return {seed: one for seed, one in zip(self.seeds, self.results, strict=True) if isinstance(one, Fit)}

    @property
    def failures(self) -> dict[int, FitError]:
        """The errors by seed; a mean over the other seeds is one over those that did not fail."""
        return {seed: one for seed, one in zip(self.seeds, self.results, strict=True) if isinstance(one, FitError)}

    @property
    def history(self) -> list[Row]:
        """One row per epoch: for each column of the fits ``NAME_mean`` and ``NAME_sd``, over ``num_seeds`` seeds.

        The standard deviation (over n - 1) is that of a single run, not of the mean; NaN where there is one seed. After
        an early stop ``num_seeds`` falls: rows of different ``num_seeds`` are means over different seeds.
        """
        histories = [one.history for one in self.fits.values()]
        rows = []
        for place in range(max(map(len, histories), default=0)):
            there = [history[place] for history in histories if place < len(history)]
            row: Row = {"epoch": place + 1, "num_seeds": len(there)}
            for name in there[0]:
                if name not in ("epoch", "step") and all(name in other for other in there):
                    row[f"{name}_mean"], row[f"{name}_sd"] = mean_and_deviation([other[name] for other in there])
            rows.append(row)
        return rows

    @property
    def final(self) -> dict[int, Row]:
        """By seed, the row of the epoch whose parameters its pair has."""
        rows = {}
        for seed, one in self.fits.items():
            best = one.best_epoch if self.restores_best and one.outcome.code != "interrupted" else None
            if one.history:
                rows[seed] = one.history[best - 1 if best else -1]
        return rows

    def mean(self, column: str = "elbo_train") -> tuple[float, float]:
        """Mean and standard deviation over seeds of a column of :attr:`final`.

        Raises:
            PpvaeError: no such column.
        """
        rows = list(self.final.values())
        for row in rows or [{}]:
            if column not in row:
                raise PpvaeError(f"the fits have no column {column!r}: {did_you_mean(column, row)}")
        return mean_and_deviation([row[column] for row in rows])

    def table(self) -> list[dict[str, Any]]:
        """One row per seed: how it ended, its epochs, and the row of the epoch whose parameters its pair has."""
        final = self.final
        rows = []
        for seed, one in zip(self.seeds, self.results, strict=True):
            told = {"outcome": "failed"} if isinstance(one, FitError) else {"outcome": one.outcome.code}
            rows.append({"seed": seed, **told, **final.get(seed, {})})
        return rows

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """By seed, what ``fit_many(..., resume=...)`` goes on from; a seed that failed is not in it."""
        return {
            seed: {"state": one.state.state_dict(), "outcome": one.outcome.code, "best_epoch": one.best_epoch}
            for seed, one in self.fits.items()
        }

    def __repr__(self) -> str:
        told = [f"{name} {_spread(*self.mean(name))}" for name in self._bounds()]
        failed = f"; failed: seeds {', '.join(map(str, self.failures))}" if self.failures else ""
        return f"ManyFits({len(self)} seeds, {self.how}; {', '.join(told)} (mean ± sd over {len(self.final)}){failed})"

    def _bounds(self) -> list[str]:
        rows = list(self.final.values())
        return [name for name in ("elbo_train", "elbo_validation") if rows and all(name in row for row in rows)]

    def _repr_html_(self) -> str:
        """For notebooks: the last values, and the mean of the learning curves with their spread."""
        names, rows = self._bounds(), self.history
        facts = {"seeds": str(len(self)), "run": self.how}
        facts |= {f"{name}, mean ± sd": _spread(*self.mean(name)) for name in names}
        series = {
            f"{name}{label}": [row[f"{name}_mean"] + sign * row[f"{name}_sd"] for row in rows]
            for name in names[-1:]
            for label, sign in (("", 0.0), (" + sd", 1.0), (" - sd", -1.0))
            if sign == 0.0 or len(self.final) > 1
        }
        picture = curves(series, label="bound by epoch, nats per datum", start=1) if series and rows else ""
        cells = [[str(row["seed"]), row["outcome"], *(number(row.get(name)) for name in names)] for row in self.table()]
        notes = [f"seed {seed}: {str(error).splitlines()[0]}" for seed, error in self.failures.items()]
        return panel(f"{len(self)} fits", facts, picture, notes, table(["seed", "outcome", *names], cells))


class ManyFitsInterrupt(KeyboardInterrupt):
    """Training was ended by Ctrl-C; each pair has the parameters of its last step.

    Attributes:
        fits: what :func:`ppvae.inference.fit_many` would have returned, to go on from:
            ``fit_many(..., resume=error.fits.state_dict())``.
    """

    def __init__(self, fits: ManyFits) -> None:
        ended = sum(one.outcome.code != "interrupted" for one in fits.fits.values())
        super().__init__(f"interrupted with {ended} of {len(fits)} fits at their end")
        self.fits = fits


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation over n - 1, which is NaN for one value."""
    if not values:
        return math.nan, math.nan
    finite = all(map(math.isfinite, values))
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 and finite else math.nan


def _spread(mean: float, deviation: float) -> str:
    return f"{mean:.3f} ± {deviation:.3f}"
