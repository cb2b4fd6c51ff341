"""Figures of a comparison of ELBO estimators, and of forward against reverse KL; the comparison for ArviZ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theme import LABELS, LIGHT, Theme, canvas, draw, plain_numbers
from ...inference.comparison.result import Comparison
from ...inference_data import to_arviz
from ...runs.storage.atomic import make_folder, write_bytes


def bounds(comparison: Comparison, theme: Theme) -> Figure:
    """The ladder: every estimator's bound with two standard errors, and the reference where there is one."""
    last = comparison.checkpoints[-1]
    rows = [row for row in comparison.estimators if row.checkpoint == last]
    figure, (axes,) = canvas(theme, 0.9 + 0.36 * len(rows))
    places = range(len(rows) - 1, -1, -1)
    values = [row.bound for row in rows]
    errors = [2 * row.bound_error for row in rows]
    axes.errorbar(values, list(places), xerr=errors, fmt="o", color=theme.first, capsize=3, linewidth=1.4)
    if comparison.reference:
        truth = comparison.truth(last)
        axes.axvline(truth, color=theme.second, linewidth=1.4)
        axes.annotate(
            f"log p(x) {truth:.2f}".replace("-", "−"),
            (truth, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 3),
            textcoords="offset points",
            color=theme.second,
            ha="right",
        )
    axes.set_yticks(list(places), [short(row.estimator) for row in rows])
    axes.set_xlabel("bound, nats per datum")
    return figure


def gradient_noise(comparison: Comparison, theme: Theme) -> Figure:
    """The gradient's signal-to-noise ratio of every estimator, block by block."""
    last = comparison.checkpoints[-1]
    names = list(dict.fromkeys(row.block for row in comparison.blocks))
    estimators = list(dict.fromkeys(row.estimator for row in comparison.estimators))
    figure = Figure(figsize=(theme.width, (1.0 + 0.36 * len(estimators)) * len(names)), layout="constrained")
    all_axes = list(figure.subplots(len(names), 1, squeeze=False).flat)
    places = list(range(len(estimators) - 1, -1, -1))
    for axes, block in zip(all_axes, names, strict=True):
        rows = [comparison.block(name, block, last) for name in estimators]
        for place, row in zip(places, rows, strict=True):
            if not (math.isfinite(row.snr) and row.snr > 0):
                continue
            error = [[min(2 * row.snr_error, 0.9 * row.snr)], [2 * row.snr_error]]
            axes.errorbar(
                [row.snr],
                [place],
                xerr=None if math.isnan(row.snr_error) else error,
                fmt="o",
                color=theme.first,
                capsize=3,
                linewidth=1.4,
            )
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
        axes.set_ylim(-0.6, len(estimators) - 0.4)
        axes.set_title(f"parameters: {block}", color=theme.ink, fontweight="normal")
        axes.set_xlabel("signal-to-noise ratio")
        axes.set_yticks(places, [short(name) for name in estimators])
    return figure


def cost(comparison: Comparison, theme: Theme, *, block: str | None = None) -> Figure:
    """Time of a step against the variance of the gradient of one block: towards the lower left is better."""
    block = block or comparison.blocks[0].block
    last = comparison.checkpoints[-1]
    figure, (axes,) = canvas(theme, 4.2)
    for index, row in enumerate(r for r in comparison.estimators if r.checkpoint == last):
        of_block = comparison.block(row.estimator, block, last)
        if of_block.variance <= 0:
            continue
        colour = LABELS[index % len(LABELS)]
        axes.plot([1e3 * row.seconds], [of_block.variance], "o", color=colour, markersize=8, label=short(row.estimator))
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_xlabel("milliseconds per step")
    axes.set_ylabel(f"variance of the gradient, {block}")
    figure.legend(loc="outside lower left", ncols=1 if theme.narrow else 2, labelcolor=theme.ink)
    return figure


def along_run(comparison: Comparison, theme: Theme, *, block: str | None = None) -> Figure:
    """Bound and signal-to-noise ratio at every checkpoint of a training run."""
    block = block or comparison.blocks[0].block
    labels = comparison.checkpoints
    numeric = all(_is_number(label) for label in labels)
    places = [float(label) for label in labels] if numeric else list(range(len(labels)))
    figure, (left, right) = canvas(theme, 3.6, 2)
    for index, name in enumerate(dict.fromkeys(row.estimator for row in comparison.estimators)):
        colour = LABELS[index % len(LABELS)]
        rows = [comparison.row(name, label) for label in labels]
        bound, error = [row.bound for row in rows], [2 * row.bound_error for row in rows]
        left.errorbar(places, bound, yerr=error, color=colour, marker="o", label=short(name))
        right.plot(places, [comparison.block(name, block, label).snr for label in labels], color=colour, marker="o")
    for axes in (left, right):
        axes.set_xlabel("checkpoint")
        if not numeric:
            axes.set_xticks(places, labels)
    left.set_ylabel("bound, nats per datum")
    right.set_yscale("log")
    plain_numbers(right.yaxis)
    right.set_ylabel(f"signal-to-noise ratio, {block}")
    figure.legend(loc="outside lower left", ncols=1 if theme.narrow else 2, labelcolor=theme.ink)
    return figure


def save_figures(comparison: Comparison, folder: str | Path, *, theme: Theme = LIGHT) -> list[Path]:
    """Write every figure of a comparison as PNG files.

    Args:
        comparison: the comparison.
        folder: of the files; made if absent.
        theme: colours.

    Returns:
        the files.

    Raises:
        RunError: they cannot be written.
    """
    where = Path(folder)
    make_folder(where)
    charts: dict[str, Any] = {"bounds": bounds, "gradient_noise": gradient_noise, "cost": cost}
    if len(comparison.checkpoints) > 1:
        charts["along_run"] = along_run
    paths = []
    for name, chart in charts.items():
        path = where / f"{name}.png"
        write_bytes(path, draw(chart, comparison, theme=theme))
        paths.append(path)
    return paths


def comparison_to_arviz(comparison: Comparison) -> Any:
    """The bounds of all repeats for ArviZ: group ``posterior``, one variable ``bound`` [chain, draw, estimator].

    ``arviz.summary`` then gives mean, Monte Carlo error and interval of every estimator's bound. The first
    checkpoint's values are taken where there are several.
    """
    first = comparison.checkpoints[0]
    names = [row.estimator for row in comparison.estimators if row.checkpoint == first]
    values = np.stack([comparison.values[first, name].numpy() for name in names], -1)[None]
    return to_arviz(
        {"posterior": {"bound": values}},
        {"posterior": {"bound": ["chain", "draw", "estimator"]}},
        {"estimator": np.array(names)},
        {"inference_library": "ppvae", "reference": comparison.reference or "none"},
    )


def short(estimator: str) -> str:
    """A label: ``ImportanceWeightedELBO(num_particles=5)`` is ``ImportanceWeighted(5)``."""
    name = estimator.replace("num_particles=", "").replace("baseline=", "").replace("ELBO(", "(")
    return name.removesuffix("(1)")


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True


def _without_zero_margin(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.margins(x=0)
