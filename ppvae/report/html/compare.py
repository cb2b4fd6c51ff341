"""Several runs side by side on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .page import fill, number
from ..figures import charts
from ..figures.pictures import Picture
from ..figures.theme import DARK, LIGHT, draw
from ...core.errors import RunError
from ...runs import Run
from ...runs.evaluation.estimates import of_all, of_data
from ...runs.evaluation.evaluation import read_evaluation
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
    evaluations = [read_evaluation(run.folder) for run in runs]
    return fill(
        "comparison.html",
        title="Comparison",
        names=names,
        estimates=_estimates(evaluations),
        num_data_sets=len({str(e["data"]["fingerprint"]) for e in evaluations if e is not None}),
        curves=_curves({name: run.history for name, run in zip(names, runs, strict=True) if run.history}),
        differences=_differences(runs),
    )


def _curves(histories: Mapping[str, Sequence[charts.Row]]) -> Picture | None:
    if not histories:
        return None
    light, dark = (draw(charts.curves, histories, theme=theme) for theme in (LIGHT, DARK))
    alt = "; ".join(
        f"{name} ends at {history[-1]['elbo_train']:.2f} in training" for name, history in histories.items()
    )
    return Picture("curves", "Learning curves", f"Line chart of the bound: {alt}.", _which(histories), light, dark)


def _which(histories: Mapping[str, Sequence[charts.Row]]) -> str:
    without = [name for name, history in histories.items() if "elbo_validation" not in history[-1]]
    if len(without) == len(histories):
        return "The bound on training data: no run has validation data."
    return "The bound on validation data" + (f", and on training data of {', '.join(without)}." if without else ".")


def _names(runs: Sequence[Run]) -> list[str]:
    short = [run.folder.path.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder.path) for run in runs]


def _estimates(evaluations: Sequence[Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    tables = [{} if e is None else {row["key"]: row for row in e["estimates"]} for e in evaluations]
    labels = {key: row["label"] for rows in tables for key, row in rows.items()}
    result = []
    for key, label in labels.items():
        cells = ["–" if key not in rows else _cell(rows[key]) for rows in tables]
        result.append((label.replace("_", " "), cells))
    return result


def _cell(row: Mapping[str, Any]) -> str:
    text = f"{number(row['mean'], 3)} ± {number(row['monte_carlo_error'], 3)}"
    if row["num_trusted"] == row["num_data"]:
        return text
    return f"{text}, over the {of_data(row)} that can be trusted ({of_all(row)})"


def _differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    flat = [
        {
            **_flat(run.recipe.to_dict()),
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


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
