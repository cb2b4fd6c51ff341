"""Means over common data: of several methods in one evaluation, of several runs by one method.

A mean over other data is another number: what is compared is compared over the data that all have and can be trusted
on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..inference.evidence import Outcome
from ..runs.evaluation.estimates import distinguish, order
from ..runs.evaluation.evaluation import Evaluation

SIGMAS = 2
"""Standard errors beyond which two runs are told apart."""
FEWEST = 10
"""Data of which a standard error tells that: that of fewer is itself too uncertain."""


def columns_of(evaluation: Evaluation | None) -> dict[str, Tensor]:
    """The estimates of every datum by their key, float64, [N]; NaN where they cannot be trusted."""
    keys = [] if evaluation is None else [str(row["key"]) for row in evaluation.rows]
    found = {key: _column_of(evaluation, key) for key in keys if evaluation is not None}
    return {key: column for key, column in found.items() if column is not None}


def _column_of(evaluation: Evaluation, key: str) -> Tensor | None:
    for name in ("log_evidence", "elbo"):
        values = evaluation.columns.get(f"{key}/{name}")
        if values is not None:
            outcome = evaluation.columns.get(f"{key}/outcome", torch.zeros(len(values), dtype=torch.int64))
            return values.double().masked_fill(outcome != Outcome.OK, math.nan)
    return None


def on_common_data(evaluation: Evaluation | None) -> tuple[list[dict[str, Any]], int]:
    """The rows of the evaluation, their means over the data on which every method can be trusted; how many these are.

    A mean over other data is another number: a method that refuses the hard ones would look better than it is. A method
    that can be trusted on no datum is left out. Where there is no datum in common, none can be compared.
    """
    if evaluation is None:
        return [], 0
    rows = [row for row in evaluation.rows if row["mean"] is not None]
    columns = columns_of(evaluation)
    if any(row["key"] not in columns for row in rows) or not rows:
        return [row for row in rows if row["num_trusted"] == row["num_data"]], max(
            (row["num_data"] for row in rows), default=0
        )
    both = torch.stack([torch.isfinite(columns[row["key"]]) for row in rows]).all(0)
    count = int(both.sum())
    if count == len(both):
        return rows, count
    if count == 0:
        return [], 0
    result = []
    for row in rows:
        mean, error = _mean_over(evaluation, row, columns[row["key"]], both)
        result.append({**row, "mean": mean, "monte_carlo_error": error})
    return result, count


def _mean_over(
    evaluation: Evaluation, row: Mapping[str, Any], column: Tensor, chosen: Tensor
) -> tuple[float, float | None]:
    """The mean of an estimate over some of its data, bool [N], and its Monte Carlo error; at least one datum."""
    count = int(chosen.sum())
    # Fewer data of the same noise, where no error is known for each; where they share draws of the weights, too,
    # whose errors do not average out.
    error = row["monte_carlo_error"] and row["monte_carlo_error"] * math.sqrt(row["num_trusted"] / count)
    errors = evaluation.columns.get(f"{row['key']}/standard_error")
    if errors is not None and not _shares_draws(row):
        error = float(errors.double()[: len(chosen)][chosen].square().sum().sqrt()) / count
    return float(column[chosen].mean()), error


def _shares_draws(row: Mapping[str, Any]) -> bool:
    """Whether all data share draws of the weights, so that their errors do not average out."""
    return "draws" in str(row.get("info", {}).get("global_sites"))


def _row_of(evaluation: Evaluation, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(own for own in evaluation.rows if own["key"] == row["key"])


def tightest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of the lower bounds over common data the largest; None where there is none besides the ELBO."""
    lower = [row for row in rows if row["side"] == "lower"]
    return max(lower, key=lambda row: float(row["mean"]), default=None) if len(lower) > 1 else None


class Mean(NamedTuple):
    """The mean of an estimate over common data, nats per datum.

    Attributes:
        value: the mean.
        monte_carlo_error: what another seed of the evaluation would change, one standard error; None where unknown.
        sampling_error: what other data of the same kind would change, the noise included; NaN of one datum.
    """

    value: float
    monte_carlo_error: float | None
    sampling_error: float


class Difference(NamedTuple):
    """The mean paired difference of two runs over common data, nats per datum.

    Attributes:
        value: the mean over data of this run minus the other.
        error: its standard error over the choice of data, the noise of each datum included; NaN of one datum.
        num_data: pairs.
    """

    value: float
    error: float
    num_data: int

    @property
    def told_apart(self) -> bool:
        """Whether it is further from zero than two standard errors, of no fewer data than ten."""
        return self.num_data >= FEWEST and abs(self.value) > SIGMAS * self.error


class OverSeeds(NamedTuple):
    """The mean over runs that differ in the seed of training alone.

    Attributes:
        value: the mean of the runs' means, nats per datum.
        error: its standard error over seeds.
        half_width: of the 95 % interval, by Student's t with ``num_seeds - 1`` degrees of freedom.
        num_seeds: runs in it; where there is one, the two errors are NaN.
    """

    value: float
    error: float
    half_width: float
    num_seeds: int


@dataclass(frozen=True)
class RunComparison:
    """One estimate of several runs, over the data that all of them have and can be trusted on.

    Attributes:
        label: of the estimate.
        method: "elbo", "ais", ….
        side: "lower", "consistent", "upper", "exact".
        num_data: data in common.
        means: of each run; None for a run without this estimate.
        best: the run with the highest mean, by number; None where no datum is in common.
        differences: of each run to that one; None for that one and for those without the estimate.
        over_seeds: of each group of runs that differ in the seed alone; None where none of it has the estimate.
    """

    label: str
    method: str
    side: str
    num_data: int
    means: list[Mean | None]
    best: int | None
    differences: list[Difference | None]
    over_seeds: list[OverSeeds | None]


@dataclass(frozen=True)
class SharedPart:
    """The comparisons of runs on one part of one data set.

    Attributes:
        name: of the data set.
        part: "test", "validation", "train".
        num_data: the first so many of it, which all runs with an evaluation of it have.
        members: which runs these are, by number.
        rows: one for each estimate.
    """

    name: str
    part: str
    num_data: int
    members: list[int]
    rows: list[RunComparison]


def compare_runs(evaluations: Sequence[Sequence[Evaluation]], groups: Sequence[Sequence[int]] = ()) -> list[SharedPart]:
    """Compare runs over common data.

    Two evaluations have data in common where the whole part is the same to the byte; then the first so many of it.

    Args:
        evaluations: for each run those of its parameters.
        groups: of runs that differ in the seed alone, by number.

    Returns:
        for each part that was evaluated, the parts that most runs have first.
    """
    parts: dict[tuple[str, str, str], dict[int, Evaluation]] = {}
    for number, own in enumerate(evaluations):
        for one in sorted(own, key=lambda one: int(one.data["num_data"])):  # that on most data stays
            key = (str(one.data["name"]), str(one.data["part"]), str(one.data["whole"]))
            parts.setdefault(key, {})[number] = one
    found = [_shared_part(name, part, members, len(evaluations), groups) for (name, part, _), members in parts.items()]
    return sorted(found, key=lambda part: -len(part.members))


def _shared_part(
    name: str, part: str, members: Mapping[int, Evaluation], num_runs: int, groups: Sequence[Sequence[int]]
) -> SharedPart:
    size = min(int(one.data["num_data"]) for one in members.values())
    every = {row["key"]: row for one in members.values() for row in one.rows}
    rows = []
    for row in distinguish(sorted(every.values(), key=order)):
        columns = {number: _column_of(one, row["key"]) for number, one in members.items()}
        values = {number: column[:size] for number, column in columns.items() if column is not None}
        if values:
            rows.append(_comparison(row, values, members, num_runs, groups))
    return SharedPart(name, part, size, sorted(members), rows)


def _comparison(
    row: Mapping[str, Any],
    values: Mapping[int, Tensor],
    members: Mapping[int, Evaluation],
    num_runs: int,
    groups: Sequence[Sequence[int]],
) -> RunComparison:
    chosen = torch.stack([torch.isfinite(value) for value in values.values()]).all(0)
    count = int(chosen.sum())
    means: list[Mean | None] = [None] * num_runs
    differences: list[Difference | None] = [None] * num_runs
    for number, value in values.items() if count else ():
        average = _mean_over(members[number], _row_of(members[number], row), value, chosen)
        means[number] = Mean(*average, _standard_error(value[chosen]))
    best = max(values, key=lambda number: value_of(means[number])) if count else None
    for number, value in values.items():
        if best is not None and number != best:
            gap = (value - values[best])[chosen]
            shared = [means[one] for one in (number, best) if _shares_draws(_row_of(members[one], row))]
            noises = [given.monte_carlo_error or 0.0 for given in shared if given is not None]
            differences[number] = Difference(float(gap.mean()), math.hypot(_standard_error(gap), *noises), count)
    over_seeds = [_over_seeds([mean for number in group if (mean := means[number]) is not None]) for group in groups]
    return RunComparison(
        str(row["label"]), str(row["method"]), str(row["side"]), count, means, best, differences, over_seeds
    )


def value_of(mean: Mean | None) -> float:
    """The mean; minus infinity where there is none, so that it is never the highest."""
    return -math.inf if mean is None else mean.value


def _standard_error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _over_seeds(means: Sequence[Mean]) -> OverSeeds | None:
    import scipy.stats

    if not means:
        return None
    values, count = torch.tensor([mean.value for mean in means], dtype=torch.float64), len(means)
    error = _standard_error(values)
    half_width = error * float(scipy.stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan
    return OverSeeds(float(values.mean()), error, half_width, count)
