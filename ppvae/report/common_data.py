"""Means over common data: of several methods in one evaluation, of several runs by one method.

A mean over other data is another number: what is compared is compared over the data that all have and can be trusted
on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.measure import Measure
from ..inference.evidence import Difference, Outcome
from ..inference.evidence.difference import paired_difference, standard_error
from ..runs.evaluation.estimates import distinguish, order
from ..runs.evaluation.evaluation import Evaluation

_SHARE = 0.75  # of the data that one method can be trusted on, which must be left when others are added


def columns_of(evaluation: Evaluation | None) -> dict[str, Tensor]:
    """The estimates of every datum by their key, float64, [N]; NaN where they cannot be trusted."""
    keys = [] if evaluation is None else [str(row["key"]) for row in evaluation.rows]
    found = {key: _column_of(evaluation, key) for key in keys if evaluation is not None}
    return {key: column for key, column in found.items() if column is not None}


def _raw(evaluation: Evaluation, key: str) -> Tensor | None:
    """The estimates of every datum, whether they can be trusted or not; NaN where there is none."""
    for name in ("log_evidence", "elbo"):
        values = evaluation.columns.get(f"{key}/{name}")
        if values is not None:
            return values.double()
    return None


def _column_of(evaluation: Evaluation, key: str) -> Tensor | None:
    values = _raw(evaluation, key)
    outcome = evaluation.columns.get(f"{key}/outcome")
    return values if values is None or outcome is None else values.masked_fill(outcome != Outcome.OK, math.nan)


def on_common_data(evaluation: Evaluation | None) -> tuple[list[dict[str, Any]], int]:
    """The rows of the evaluation with their means over the same data; how many these are.

    A mean over other data is another number: a method that refuses the hard ones would look better than it is. The data
    are those on which all can be trusted that are ``vouched`` for: the methods that can be trusted on most data, as
    many of them as leave three quarters of the data of the first. Of the others a lower bound, which at worst is loose,
    has its mean over the same data, without an error; one that is on no side, or did not settle, has none.
    """
    if evaluation is None:
        return [], 0
    raw = {row["key"]: _raw(evaluation, row["key"]) for row in evaluation.rows}
    columns = columns_of(evaluation)
    chosen, members = _members(evaluation.rows, columns)
    count = int(chosen.sum())
    result = []
    for row in evaluation.rows:
        values, vouched = raw[row["key"]], row["key"] in members
        mean, error, spread = None, None, None
        if values is None:  # one number for all data together
            vouched = row["num_trusted"] == row["num_data"]
            if count in (0, row["num_data"]) and row["mean"] is not None:
                mean, error, spread = row["mean"], row["monte_carlo_error"], row["sampling_error"]
        elif count and (vouched or (row["side"] == "lower" and _still_below(evaluation, row["key"], chosen))):
            mean, error = _mean_over(evaluation, row, values, chosen)
            error, spread = (error, standard_error(values[chosen]) if count > 1 else None) if vouched else (None, None)
        errors = {"monte_carlo_error": error, "sampling_error": spread, "vouched": vouched and mean is not None}
        result.append({**row, "mean": mean, **errors})
    return result, count or max((row["num_data"] for row in result if row["vouched"]), default=0)


def _still_below(evaluation: Evaluation, key: str, chosen: Tensor) -> bool:
    """Whether what is flagged in a lower bound makes it loose, and no more."""
    outcome = evaluation.columns.get(f"{key}/outcome")
    return outcome is not None and all(Outcome(code).leaves_a_bound for code in outcome[chosen].unique().tolist())


def _members(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Tensor]) -> tuple[Tensor, set[str]]:
    """The data in common, bool [N], and the keys of the methods that can be trusted on all of them."""
    some = [row for row in rows if row["key"] in columns and row["num_trusted"]]
    # The ELBO, which can always be trusted, has no say in how many data are needed.
    ordered = sorted(some, key=lambda row: (row["method"] == "elbo", -int(row["num_trusted"])))
    if not ordered:
        return torch.zeros(0, dtype=torch.bool), set()
    chosen = torch.isfinite(columns[ordered[0]["key"]])
    first, members = int(chosen.sum()), {str(ordered[0]["key"])}
    for row in ordered[1:]:
        both = chosen & torch.isfinite(columns[row["key"]])
        if int(both.sum()) >= _SHARE * first:
            chosen = both
            members.add(str(row["key"]))
    return chosen, members


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
        error = float(errors.double()[chosen].square().sum().sqrt()) / count
    return float(column[chosen].mean()), error


def _shares_draws(row: Mapping[str, Any]) -> bool:
    """Whether all data share draws of the weights, so that their errors do not average out."""
    return "draws" in str(row.get("info", {}).get("global_sites"))


def _row_of(evaluation: Evaluation, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(own for own in evaluation.rows if own["key"] == row["key"])


def tightest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of the lower bounds over common data the largest; None where there is none besides the ELBO."""
    lower = [row for row in rows if row["side"] == "lower" and row["vouched"]]
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
        num_data: how many of its data all runs with an evaluation of it have.
        members: which runs these are, by number.
        rows: one for each estimate.
        whole: the fingerprint of the whole part.
        measure: of their models: probabilities do not compare with densities, nor densities of other values.
    """

    name: str
    part: str
    num_data: int
    members: list[int]
    rows: list[RunComparison]
    whole: str = ""
    measure: Measure | None = None

    @property
    def data_key(self) -> tuple[str, str, str]:
        """Equal for parts of the same data."""
        return self.name, self.part, self.whole


def compare_runs(
    evaluations: Sequence[Sequence[Evaluation]],
    groups: Sequence[Sequence[int]] = (),
    measures: Sequence[Measure | None] = (),
) -> list[SharedPart]:
    """Compare runs over common data.

    Two evaluations have data in common where the whole part is the same to the byte; then the rows of it in both.
    Those of models with probabilities and with densities of the same data, or of other values of it, are apart.

    Args:
        evaluations: for each run those of its parameters.
        groups: of runs that differ in the seed alone, by number.
        measures: of each run's model; empty where it is the same of all.

    Returns:
        for each part that was evaluated, the parts that most runs have first.
    """
    parts: dict[tuple[str, str, str, Measure | None], dict[int, Evaluation]] = {}
    for number, (own, measure) in enumerate(zip(evaluations, measures or [None] * len(evaluations), strict=True)):
        for one in sorted(own, key=lambda one: int(one.data["num_data"])):  # that on most data stays
            key = (str(one.data["name"]), str(one.data["part"]), str(one.data["whole"]), measure)
            parts.setdefault(key, {})[number] = one
    num_runs = len(evaluations)
    found = [
        replace(_shared_part(name, part, members, num_runs, groups), whole=whole, measure=measure)
        for (name, part, whole, measure), members in parts.items()
    ]
    return sorted(found, key=lambda part: -len(part.members))


def _shared_part(
    name: str, part: str, members: Mapping[int, Evaluation], num_runs: int, groups: Sequence[Sequence[int]]
) -> SharedPart:
    rows_of = [set(one.datum.tolist()) for one in members.values()]
    common = torch.tensor(sorted(set.intersection(*rows_of)), dtype=torch.int64)
    members = {number: one.on(common) for number, one in members.items()}
    every = {row["key"]: row for one in members.values() for row in one.rows}
    rows = []
    for row in distinguish(sorted(every.values(), key=order)):
        columns = {number: _column_of(one, row["key"]) for number, one in members.items()}
        values = {number: column for number, column in columns.items() if column is not None}
        if values:
            rows.append(_comparison(row, values, members, num_runs, groups))
    return SharedPart(name, part, len(common), sorted(members), rows)


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
        means[number] = Mean(*average, standard_error(value[chosen]))
    best = max(values, key=lambda number: value_of(means[number])) if count else None
    for number, value in values.items():
        if best is not None and number != best:
            shared = [means[one] for one in (number, best) if _shares_draws(_row_of(members[one], row))]
            noises = [given.monte_carlo_error or 0.0 for given in shared if given is not None]
            differences[number] = paired_difference(value[chosen], values[best][chosen], noises)
    over_seeds = [_over_seeds([mean for number in group if (mean := means[number]) is not None]) for group in groups]
    return RunComparison(
        str(row["label"]), str(row["method"]), str(row["side"]), count, means, best, differences, over_seeds
    )


def value_of(mean: Mean | None) -> float:
    """The mean; minus infinity where there is none, so that it is never the highest."""
    return -math.inf if mean is None else mean.value


def _over_seeds(means: Sequence[Mean]) -> OverSeeds | None:
    import scipy.stats

    if not means:
        return None
    values, count = torch.tensor([mean.value for mean in means], dtype=torch.float64), len(means)
    error = standard_error(values)
    half_width = error * float(scipy.stats.t.ppf(0.975, count - 1)) if count > 1 else math.nan
    return OverSeeds(float(values.mean()), error, half_width, count)
