"""Means over common data: of several methods in one evaluation, of several runs by one method.

A mean over other data is another number: what is compared is compared over the data that all have and can be trusted
on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inference.evidence import Outcome
from ..runs.evaluation.estimates import distinguish, order
from ..runs.evaluation.evaluation import Evaluation


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
    if errors is not None and "draws" not in str(row.get("info", {}).get("global_sites")):
        error = float(errors.double()[: len(chosen)][chosen].square().sum().sqrt()) / count
    return float(column[chosen].mean()), error


def tightest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of the lower bounds over common data the largest; None where there is none besides the ELBO."""
    lower = [row for row in rows if row["side"] == "lower"]
    return max(lower, key=lambda row: float(row["mean"]), default=None) if len(lower) > 1 else None


@dataclass(frozen=True)
class RunComparison:
    """One estimate of several runs, over the data that all of them have and can be trusted on.

    Attributes:
        label: of the estimate.
        side: "lower", "consistent", "upper", "exact".
        num_data: data in common.
        means: for each run the mean and its Monte Carlo error, nats per datum; None for a run without this estimate.
        differences: the mean paired difference to the first run that has the estimate, and its standard error over the
            choice of data, the noise included; None for that run and for those without.
    """

    label: str
    side: str
    num_data: int
    means: list[tuple[float, float | None] | None]
    differences: list[tuple[float, float] | None]


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


def compare_runs(evaluations: Sequence[Sequence[Evaluation]]) -> list[SharedPart]:
    """Compare runs over common data.

    Two evaluations have data in common where the whole part is the same to the byte; then the first so many of it.

    Args:
        evaluations: for each run those of its parameters.

    Returns:
        for each part that was evaluated, the parts that most runs have first.
    """
    parts: dict[tuple[str, str, str], dict[int, Evaluation]] = {}
    for number, own in enumerate(evaluations):
        for one in sorted(own, key=lambda one: int(one.data["num_data"])):  # that on most data stays
            key = (str(one.data["name"]), str(one.data["part"]), str(one.data["whole"]))
            parts.setdefault(key, {})[number] = one
    found = [_shared_part(name, part, members, len(evaluations)) for (name, part, _), members in parts.items()]
    return sorted(found, key=lambda part: -len(part.members))


def _shared_part(name: str, part: str, members: Mapping[int, Evaluation], num_runs: int) -> SharedPart:
    size = min(int(one.data["num_data"]) for one in members.values())
    every = {row["key"]: row for one in members.values() for row in one.rows}
    rows = []
    for row in distinguish(sorted(every.values(), key=order)):
        columns = {number: _column_of(one, row["key"]) for number, one in members.items()}
        values = {number: column[:size] for number, column in columns.items() if column is not None}
        if values:
            rows.append(_comparison(row, values, members, num_runs))
    return SharedPart(name, part, size, list(members), rows)


def _comparison(
    row: Mapping[str, Any], values: Mapping[int, Tensor], members: Mapping[int, Evaluation], num_runs: int
) -> RunComparison:
    chosen = torch.stack([torch.isfinite(value) for value in values.values()]).all(0)
    count, first = int(chosen.sum()), next(iter(values.values()))
    means: list[tuple[float, float | None] | None] = [None] * num_runs
    differences: list[tuple[float, float] | None] = [None] * num_runs
    for number, value in values.items() if count else ():
        own = next(own for own in members[number].rows if own["key"] == row["key"])
        means[number] = _mean_over(members[number], own, value, chosen)
        if value is not first:
            gap = (value - first)[chosen]
            error = float(gap.std()) / math.sqrt(count) if count > 1 else math.nan
            differences[number] = (float(gap.mean()), error)
    return RunComparison(str(row["label"]), str(row["side"]), count, means, differences)
