"""Several runs side by side on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .page import fill, number
from ..common_data import RunComparison, SharedPart, compare_runs
from ..figures import charts
from ..figures.picture import Picture, chart
from ...core.errors import RunError
from ...runs import Run
from ...runs.evaluation.evaluation import digest_of_parameters, read_evaluations
from ...runs.storage.atomic import write_text


def write_comparison(runs: Sequence[Run], *, out: Path | None = None) -> Path:
    """Write one page that compares runs: what differs, the estimates, the learning curves.

    Args:
        runs: two or more.
        out: the page; ``comparison.html`` beside the first run folder where None.

    Raises:
        RunError: one run only, or the page cannot be written.
    """
    if len(runs) < 2:
        raise RunError("a comparison needs at least two runs")
    path = out or runs[0].folder.path.parent / "comparison.html"
    write_text(path, render(runs))
    return path


def render(runs: Sequence[Run]) -> str:
    """The page."""
    names = _names(runs)
    problems: list[str] = []
    stored = [(digest_of_parameters(run), read_evaluations(run.folder, problems)) for run in runs]
    own = [[one for one in found if one.values["parameters_sha256"] == digest] for digest, found in stored]
    parts = compare_runs(own)
    stale = [name for name, mine, (_, found) in zip(names, own, stored, strict=True) if found and not mine]
    return fill(
        "comparison.html",
        title="Comparison",
        names=names,
        parts=[_part(part, names) for part in parts],
        apart=len(parts) > 1 and len({(part.name, part.part) for part in parts}) < len(parts),
        stale=stale,
        problems=problems,
        curves=_curves({name: run.history for name, run in zip(names, runs, strict=True) if run.history}),
        differences=_differences(runs),
    )


def _curves(histories: Mapping[str, Sequence[charts.Row]]) -> Picture | None:
    if not histories:
        return None
    alt = "; ".join(
        f"{name} ends at {history[-1]['elbo_train']:.2f} in training" for name, history in histories.items()
    )
    return chart(
        "curves", "Learning curves", f"Line chart of the bound: {alt}.", _which(histories), charts.curves, histories
    )


def _which(histories: Mapping[str, Sequence[charts.Row]]) -> str:
    without = [name for name, history in histories.items() if "elbo_validation" not in history[-1]]
    if len(without) == len(histories):
        return "The bound on training data: no run has validation data."
    return "The bound on validation data" + (f", and on training data of {', '.join(without)}." if without else ".")


def _names(runs: Sequence[Run]) -> list[str]:
    short = [run.folder.path.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder.path) for run in runs]


def _part(part: SharedPart, names: Sequence[str]) -> dict[str, Any]:
    """The tables of a part of the data: means of the runs that have it, and differences between them."""
    present = [names[number] for number in part.members]
    pairs = [(row, [row.differences[number] for number in part.members]) for row in part.rows]
    return {
        "title": f"{part.num_data} data of {part.name} ({part.part})",
        "names": present,
        "single": len(present) == 1,
        "means": [(row.label, row.side, _count(row, part), _cells(row, part)) for row in part.rows],
        "differences": [
            (row.label, row.num_data, ["–" if gap is None else _difference(*gap) for gap in gaps])
            for row, gaps in pairs
            if any(gap is not None for gap in gaps)
        ],
    }


def _cells(row: RunComparison, part: SharedPart) -> list[str]:
    found = [row.means[number] for number in part.members]
    return ["–" if one is None else f"{number(one[0], 3)} ± {number(one[1], 3)}" for one in found]


def _count(row: RunComparison, part: SharedPart) -> str:
    return str(row.num_data) if row.num_data == part.num_data else f"{row.num_data} of {part.num_data}"


def _difference(mean: float, error: float) -> str:
    sign = "+" if mean > 0 else ""
    return f"{sign}{number(mean, 3)} ± {number(error, 3)}"


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    flat = [
        {
            **run.recipe.flat(),
            "seconds": round(run.info.get("seconds", 0.0), 1),
            "epochs run": len(run.history),
        }
        for run in runs
    ]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [
        (key, [str(values.get(key, "–")) for values in flat])
        for key in keys
        if len({str(values.get(key)) for values in flat}) > 1
    ] or [("nothing", [""] * len(runs))]
