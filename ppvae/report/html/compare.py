"""Several runs side by side on one page."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .compare_verdict import verdict_of_runs, verdict_over_seeds, warnings_of_runs
from .page import fill, number
from ..common_data import Mean, OverSeeds, RunComparison, SharedPart
from ..figures.charts import label_of
from ..figures.several_runs import curves_of, forest_of, seeds_of, side_of, spreads_of
from ..figures.side_by_side import scatters_of, strips_of
from ..findings import kind_of
from ..several_runs import SeveralRuns, agreeing, differing, find_several
from ...core.errors import RunError
from ...inference.evidence import Difference
from ...runs import Run
from ...runs.evaluation.estimates import distinguish, order
from ...runs.storage.atomic import write_text
from ...runs.training.several import row_of_result

_PARTS = ("train", "validation")


def write_comparison(runs: Sequence[Run], *, out: Path | None = None, seed: int = 0, device: str = "auto") -> Path:
    """Write one page that compares runs: estimates over common data, seeds, learning curves, samples, time, recipes.

    Args:
        runs: two or more.
        out: the page; ``comparison.html`` beside the first run folder where None.
        seed: of samples.
        device: "auto", "cpu", "cuda".

    Returns:
        the path of the page.

    Raises:
        RunError: one run only, or the page cannot be written.
    """
    if len(runs) < 2:
        raise RunError("a comparison needs at least two runs")
    path = out or runs[0].folder.path.parent / "comparison.html"
    write_text(path, render(find_several(runs, seed=seed, device=device), path))
    return path


def render(several: SeveralRuns, path: Path | None = None) -> str:
    """The page; with links to those of the runs where it is said where it is to stand."""
    return fill(
        "comparison.html",
        title="Comparison",
        names=several.names,
        verdict=verdict_of_runs(several),
        verdict_over_seeds=verdict_over_seeds(several),
        warnings=warnings_of_runs(several),
        parts=[_part(part, several, place) for place, part in enumerate(several.parts)],
        curves=[*spreads_of(several), *curves_of(several)],
        bounds=_bounds(several, path),
        strips=list(strips_of(several)),
        scatters=list(scatters_of(several)),
        time=_time(several),
        differences=differing(several.runs) + _circumstances(several),
        same=agreeing(several.runs),
    )


def _bounds(several: SeveralRuns, path: Path | None) -> dict[str, Any]:
    """The bound of every run at the epoch of its parameters, with a link to its own page, and their mean over seeds."""
    groups, rows = [], []
    results = [row_of_result(run.recipe, run.info, run.history) if run.history else {} for run in several.runs]
    for name, run, row in zip(several.names, several.runs, results, strict=True):
        page = run.folder.report
        link = os.path.relpath(page, path.parent) if path is not None and page.is_file() else ""
        cells = [str(int(row["epoch"])) if row else "–", *(number(row.get(f"elbo_{part}"), 3) for part in _PARTS)]
        rows.append((name, Path(link).as_posix() if link else "", [*cells, str(run.info.get("outcome", "–"))]))
    for group in several.groups if several.has_seeds else ():
        cells = [str(len(group.members))]
        for part in _PARTS:
            values = [results[n][f"elbo_{part}"] for n in group.members if f"elbo_{part}" in results[n]]
            whole = len(values) == len(group.members)
            spread = f" ± {number(statistics.stdev(values), 3)}" if len(values) > 1 else ""
            cells.append(f"{number(statistics.fmean(values), 3)}{spread}" if values and whole else "–")
        groups.append((group.name, cells))
    return {"groups": groups, "rows": rows}


def _part(part: SharedPart, several: SeveralRuns, place: int) -> dict[str, Any]:
    """The figures and tables of a part of the data: of the runs that have it."""
    present = [several.names[number] for number in part.members]
    apart = len({str(one.measure) for one in several.parts}) > 1
    shared = [(f"{place}-{i}", row) for i, row in enumerate(part.rows) if len(_given(row.means)) > 1]
    seeds = [(key, row) for key, row in shared if any(mean and mean.num_seeds > 1 for mean in row.over_seeds)]
    return {
        "title": f"{part.num_data} {kind_of(part.part)} data of {part.name} ({part.part})"
        + (f": {part.measure}" if apart else ""),
        "names": present,
        "single": len(present) == 1,
        "forests": [forest_of(row, part, several.names, key) for key, row in shared],
        "means": [(row.label, row.side, _count(row, part), _cells(row, part)) for row in part.rows],
        "differences": [
            (row.label, _count(row, part), [_difference(row.differences[n], n == row.best) for n in part.members])
            for _, row in shared
        ],
        "seeds": [seeds_of(row, part, several, key) for key, row in seeds],
        "over_seeds": [
            (row.label, side_of(row.side), group.name, _over_seeds(mean), _spread(row, group.members), mean.num_seeds)
            for _, row in seeds
            for group, mean in zip(several.groups, row.over_seeds, strict=True)
            if mean is not None
        ],
    }


def _given(means: Sequence[Mean | None]) -> list[Mean]:
    return [mean for mean in means if mean is not None]


def _cells(row: RunComparison, part: SharedPart) -> list[str]:
    found = [row.means[number] for number in part.members]
    return ["–" if one is None else f"{number(one.value, 3)} ± {number(one.monte_carlo_error, 3)}" for one in found]


def _count(row: RunComparison, part: SharedPart) -> str:
    return str(row.num_data) if row.num_data == part.num_data else f"{row.num_data} of {part.num_data}"


def _difference(gap: Difference | None, is_best: bool) -> str:
    if gap is None:
        return "the highest" if is_best else "–"
    return f"{number(gap.value, 3)} ± {_finite(gap.error)}"


def _over_seeds(mean: OverSeeds) -> str:
    return f"{number(mean.value, 3)} ± {_finite(mean.error)}"


def _finite(error: float) -> str:
    return number(error if math.isfinite(error) else None, 3)


def _spread(row: RunComparison, members: Sequence[int]) -> str:
    values = [mean.value for mean in _given([row.means[number] for number in members])]
    return f"{number(min(values), 3)} … {number(max(values), 3)}" if len(values) > 1 else "–"


def _time(several: SeveralRuns) -> dict[str, Any]:
    """What each run took: training, and every estimate of its parameters."""
    evaluations = [[one for one in (r.evaluation, *r.more_evaluations) if one is not None] for r in several.reports]
    every = {row["key"]: row for own in evaluations for one in own for row in one.rows}
    labels = distinguish(sorted(every.values(), key=order))
    rows = []
    for name, run, curve, own in zip(several.names, several.runs, several.curves, evaluations, strict=True):
        seconds = run.info.get("seconds")
        rate = curve.samples[-1] / seconds if curve is not None and seconds else None
        cells = [str(len(run.history)), number(seconds, 1), number(rate, 0)]
        for label in labels:
            spent = [
                f"{number(row['seconds'], 1)} ({row['num_data']} data)"
                for one in own
                for row in one.rows
                if row["key"] == label["key"]
            ]
            cells.append("; ".join(spent) or "–")
        rows.append((name, cells))
    return {
        "columns": ["epochs", "training, s", "data per second", *(f"{label_of(row['label'])}, s" for row in labels)],
        "rows": rows,
    }


def _circumstances(several: SeveralRuns) -> list[tuple[str, list[str]]]:
    """What else differed: epochs done, changes on the way, machine, threads, versions."""
    found: list[dict[str, str]] = []
    for run in several.runs:
        versions: Mapping[str, Any] = run.info.get("versions", {})
        found.append(
            {
                "epochs done": str(len(run.history)),
                "changes on the way": str(len(run.info.get("segments", []))),
                "parameters": str(run.info.get("num_parameters", "–")),
                "parameters shown": run.parameters,
                "threads": str(run.info.get("threads", "–")),
                "machine": str(run.info.get("machine", "–")),
                **{f"version of {name}": str(version) for name, version in versions.items()},
            }
        )
    keys = dict.fromkeys(key for values in found for key in values)
    table = [(key, [values.get(key, "–") for values in found]) for key in keys]
    return [(key, values) for key, values in table if len(set(values)) > 1]
