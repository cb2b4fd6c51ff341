"""The first lines of a comparison: which run is best, by how much, and what to be wary of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .page import number
from .verdict import warnings
from ..common_data import RunComparison, SharedPart, value_of
from ..figures.charts import label_of
from ..figures.several_runs import over_seeds
from ..findings import kind_of
from ..several_runs import SeveralRuns
from ...inference.evidence.difference import FEWEST

_SIDES = {"lower": ", a lower bound,", "upper": ", an upper bound,", "exact": ", which is exact,"}


def verdict_of_runs(several: SeveralRuns) -> str:
    """One sentence: the best run by the estimate that says most, or that the runs cannot be told apart."""
    found = _decisive(several.parts)
    if found is None or found[1].best is None:
        if len({str(part.measure) for part in several.parts}) > 1:
            return (
                "The runs cannot be compared: what one has probabilities of, another has densities of, and the "
                "logarithms of these differ by the unit of the data."
            )
        if _observe_others(several.parts):
            return "The runs cannot be compared: their models observe other values of the same data."
        return (
            "The runs cannot be compared: no two of them have an estimate over the same data that can be trusted. "
            "The same ppvae evaluate for each gives one."
        )
    (part, row), names, best = found, several.names, found[1].best
    # From high to low, as the next is told.
    others = sorted(
        (number for number, gap in enumerate(row.differences) if gap is not None),
        key=lambda number: -value_of(row.means[number]),
    )
    tied = [number for number in others if (gap := row.differences[number]) is not None and not gap.told_apart]
    over = f"by {label_of(row.label)}{_SIDES.get(row.side, '')} over {_data(part, row)}"
    mean = row.means[best]
    assert mean is not None
    height = f"{number(mean.value, 2)} nats per datum"
    below = [f"{_gap(row, other)} below it lies {names[other]}" for other in others if other not in tied]
    if not tied:
        return f"{names[best]} is best {over}: {height}; {below[0]}{', the next' if len(others) > 1 else ''}."
    text = f"{_listed([names[best], *(names[other] for other in tied)])} cannot be told apart {over}: "
    text += f"the highest, {names[best]}, at {height}, is {_gap(row, tied[0])} above {names[tied[0]]}"
    return text + (f"; {below[0]}." if below else ".")


def verdict_over_seeds(several: SeveralRuns) -> str:
    """The same estimate, over runs that differ in the seed alone; empty where there are none such."""
    found = _decisive(several.parts)
    if found is None or not several.has_seeds:
        return ""
    groups = zip(several.groups, found[1].over_seeds, strict=True)
    told = [f"{group.name}: {over_seeds(mean)}" for group, mean in groups if mean is not None]
    return f"Over seeds, ± one standard error of them: {'; '.join(told)}."


def warnings_of_runs(several: SeveralRuns) -> list[str]:
    """What a reader should know before the numbers; each a sentence."""
    return [*_of_data(several), *_of_estimates(several), *_of_recipes(several), *_of_each(several), *several.problems]


def _observe_others(parts: Sequence[SharedPart]) -> bool:
    """Whether models have as many probabilities and densities of the same data, and of other values of it."""
    return len({(*part.data_key, str(part.measure)) for part in parts}) < len(parts)


def _decisive(parts: Sequence[SharedPart]) -> tuple[SharedPart, RunComparison] | None:
    """The row that most runs have; of several no mere ELBO, then that over most data, an exact one, a lower bound."""
    rows = [(part, row) for part in parts for row in part.rows if sum(mean is not None for mean in row.means) > 1]

    def rank(found: tuple[SharedPart, RunComparison]) -> tuple[float, ...]:
        part, row = found
        held_out, shared = part.part != "train", sum(mean is not None for mean in row.means)
        highest = max(map(value_of, row.means))
        enough, side = row.num_data >= FEWEST, (row.side == "exact", row.side == "lower")
        return shared, held_out, enough, row.method != "elbo", row.num_data, *side, highest

    return max(rows, key=rank, default=None)


def _data(part: SharedPart, row: RunComparison) -> str:
    some = "" if row.num_data == part.num_data else f"{row.num_data} of "
    return f"{some}{part.num_data} {kind_of(part.part)} data of {part.name}"


def _gap(row: RunComparison, number_of_run: int) -> str:
    gap = row.differences[number_of_run]
    assert gap is not None
    return f"{number(abs(gap.value), 3)} ± {number(gap.error, 3)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def _of_data(several: SeveralRuns) -> Iterator[str]:
    names, parts = several.names, several.parts
    measures: dict[str, list[str]] = {}
    for name, measure in zip(names, several.measures, strict=False):
        measures.setdefault(str(measure), []).append(name)
    if len(measures) > 1:
        told = "; ".join(f"{measure}: {', '.join(members)}" for measure, members in measures.items())
        yield f"Log evidences of different measures do not compare, so there is a section for each ({told})."
    if _observe_others(parts):
        yield (
            "Models that observe other values of the same data do not compare, as obs=(x - mean) / scale beside obs=x, "
            "so there is a section for each."
        )
    if len({(part.name, part.part) for part in parts}) < len({part.data_key for part in parts}):
        yield (
            "Data of one name differ between the runs, so there is a section for each: numbers of two sections do not "
            "compare."
        )
    for part in parts[1:]:
        alone = [names[number] for number in part.members if number not in parts[0].members]
        if alone and part.data_key != parts[0].data_key:
            data = f"{kind_of(part.part)} data of {part.name} ({part.part})"
            yield f"Evaluated on other data than the rest, {data}: {', '.join(alone)}."
    stale = [
        name
        for name, report in zip(names, several.reports, strict=True)
        if report.stale_evaluations and report.evaluation is None
    ]
    if stale:
        yield f"Left out, as they were evaluated with other parameters than they have now: {', '.join(stale)}."
    missing = [
        name
        for name, report in zip(names, several.reports, strict=True)
        if report.evaluation is None and not report.stale_evaluations
    ]
    if missing:
        yield f"Not evaluated: {', '.join(missing)}."


def _of_estimates(several: SeveralRuns) -> Iterator[str]:
    found = _decisive(several.parts)
    if found is None:
        return
    part, row = found
    others = [
        f"{label_of(other.label)}: {several.names[other.best]}"
        for other in part.rows
        if other.best is not None
        and row.best is not None
        and (gap := other.differences[row.best]) is not None
        and gap.told_apart
    ]
    if others:
        yield f"The estimates do not agree on the best run ({'; '.join(others)})."
    if row.method == "elbo":
        yield "The ELBO is all that the runs have in common: how far it lies below log p(x) may differ between them."
    held = {
        str(own.get("info", {}).get("global_sites"))
        for number, report in enumerate(several.reports)
        if number in part.members and report.evaluation is not None
        for own in report.evaluation.rows
        if own["method"] != "elbo"
    }
    if len(held) > 1:
        yield "The weights of some runs have a posterior, and those of others have none or are averaged otherwise."


def _of_recipes(several: SeveralRuns) -> Iterator[str]:
    estimators = {run.recipe.training.elbo["name"] for run in several.runs}
    if len(estimators) > 1:
        yield (
            f"Trained by different estimators ({', '.join(sorted(estimators))}): a learning curve is the bound of its "
            "own."
        )
    copies = [several.names[copy] for group in several.groups for copy in group.copies]
    if copies:
        yield f"Of the recipe and the seed of another run, so no further evidence: {', '.join(copies)}."


def _of_each(several: SeveralRuns) -> Iterator[str]:
    """What the page of each run warns of; once for those of which it is the same."""
    told: dict[str, list[str]] = {}
    for name, report in zip(several.names, several.reports, strict=True):
        for line in warnings(replace(report, stale_evaluations=())):
            told.setdefault(line, []).append(name)
    for line, names in told.items():
        yield f"{', '.join(names)}: {line[0].lower()}{line[1:]}"
