"""Figures and table of the predictive checks, and of the aggregate posterior against the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .findings import Findings
from .page import number, table
from .pictures import Picture
from .theme import DARK, LIGHT, Theme, draw
from ..inference import AggregatePosterior, PosteriorChecks, PredictiveCheck

PANELS = 6
BINS = 24
TAIL = 0.01
"""A p-value beyond this, on either side, is called a misfit."""

CHECKED = ("predictive_checks", "aggregate_posterior")


def checked(found: Findings) -> dict[str, Picture]:
    """The pictures that there are, by name."""
    made = (_predictive(found), _aggregate(found))
    return {picture.name: picture for picture in made if picture is not None}


def check_table(found: Findings) -> str:
    """What was compared, in words and as a table; empty where nothing was."""
    if found.checks is None:
        return ""
    checks = found.checks
    part = found.kind
    outside = [name for name, check in checks.items() if not TAIL <= check.p_value <= 1 - TAIL]
    told = (
        f"{len(outside)} of {len(checks)} quantities of the data lie outside or among the outermost {TAIL:.0%} on a "
        f"side: {', '.join(outside)}."
        if outside
        else f"None of {len(checks)} quantities of the data lies outside or among the outermost {TAIL:.0%} on a side."
    )
    text = (
        f"<p>{checks.num_data} {part} data against {checks.num_replicates} data sets of the same size that the model "
        "made. <em>p</em> is the share of replicates with a higher value (uniform for the right model), <em>z</em> how "
        f"many of their standard deviations the data lie above their mean; ± is Monte Carlo noise. {escape(told)}</p>"
    )
    again = found.latent_checks
    discrepancies = [] if again is None else [check for name, check in again.items() if name not in checks]
    if discrepancies:
        text += (
            "<p>Quantities <em>given z</em> compare each datum with what the model makes from the datum's own latents, "
            "x ~ p(x | z) with z ~ q(z | x). Their p lies near one half unless the likelihood misfits.</p>"
        )
    text += "".join(f"<p>{escape(note[0].upper() + note[1:])}.</p>" for note in checks.notes)
    rows = [_row(check, "") for check in checks.values()] + [_row(check, ", given z") for check in discrepancies]
    columns = ("quantity", "data", "model", "p", "z")
    return text + table([(name, place > 0) for place, name in enumerate(columns)], rows)


def aggregate_table(found: Findings) -> str:
    """Moments of the aggregate posterior and of the prior; empty where there is none."""
    aggregated = found.aggregate
    if aggregated is None:
        return ""

    def pair(value: Any, error: Any, i: int) -> str:
        return f"{number(float(value[i]), 2)} ± {number(float(error[i]), 2)}"

    rows = [
        (
            f"z<sub>{i + 1}</sub>",
            pair(aggregated.mean, aggregated.mean_error, i),
            pair(aggregated.prior_mean, aggregated.prior_mean_error, i),
            pair(aggregated.variance, aggregated.variance_error, i),
            pair(aggregated.prior_variance, aggregated.prior_variance_error, i),
            f"{float(aggregated.distance[i]):.3f} ± {float(aggregated.distance_error[i]):.3f}",
            f"{float(aggregated.p_value[i]):.2g}",
        )
        for i in _furthest(aggregated)
    ]
    columns = ("dimension", "mean", "prior", "variance", "prior", "distance", "p")
    return table([(name, place > 0) for place, name in enumerate(columns)], rows)


def _row(check: PredictiveCheck, given: str) -> tuple[str, ...]:
    p = f"{check.p_value:.3f} ± {check.p_value_error:.3f}"
    if not TAIL <= check.p_value <= 1 - TAIL:
        p = f'<span class="warn" title="a misfit: the model hardly ever makes this value">{p}</span>'
    mean, spread = float(check.replicated.mean()), float(check.replicated.std())
    # As many digits as the spread has, and one more.
    digits = min(max(1 - math.floor(math.log10(spread)), 0), 8) if 0 < spread < math.inf else 3
    z, error = check.z_score, check.z_score_error
    told = "–" if math.isnan(z) else ("−∞" if z < 0 else "∞") if math.isinf(z) else number(z, 1)
    return (
        escape(check.name + given),
        number(check.observed, digits),
        f"{number(mean, digits)} ± {number(spread, digits)}",
        p,
        told + (f" ± {number(error, 1)}" if math.isfinite(error) else ""),
    )


def predictive(checks: PosteriorChecks, theme: Theme) -> Figure:
    """The replicates' distribution of every quantity, and the data as a line."""

    def panel(axes: Axes, check: PredictiveCheck) -> None:
        values = check.replicated[torch.isfinite(check.replicated)].numpy()
        axes.hist(values, bins=_bins(values), color=theme.first, alpha=0.55, label="data sets that the model made")
        axes.axvline(check.observed, color=theme.second, linewidth=2.4, label="the data")
        low, high = min(values.min(), check.observed), max(values.max(), check.observed)
        margin = 0.07 * max(high - low, 1e-12)
        if high > low:
            axes.set_xlim(low - margin, high + margin)
        _titled(axes, check.name, f"p = {check.p_value:.3f} ± {check.p_value_error:.3f}", theme)

    return _multiples(_drawable(checks), panel)


def aggregate(found: AggregatePosterior, theme: Theme) -> Figure:
    """The draws of the aggregate posterior and of the prior, for the dimensions where they differ most."""

    def panel(axes: Axes, i: int) -> None:
        q, p = (values[..., i].flatten().numpy() for values in (found.draws, found.prior))
        low, high = np.quantile(np.concatenate((q, p)), (0.002, 0.998)).tolist()
        edges = np.linspace(low, high, 41)
        axes.hist(q, bins=edges.tolist(), density=True, color=theme.first, alpha=0.55, label="the data")
        heights, _ = np.histogram(p, edges, density=True)
        axes.stairs(heights, edges, color=theme.ink, linewidth=1.5, label="the prior", baseline=None)
        name = f"z{str(i + 1).translate(str.maketrans('0123456789', '₀₁₂₃₄₅₆₇₈₉'))}"
        told = f"distance {float(found.distance[i]):.3f} ± {float(found.distance_error[i]):.3f}"
        _titled(axes, name, told, theme)

    return _multiples(_furthest(found), panel)


def _multiples(items: Sequence[Any], panel: Callable[[Axes, Any], None]) -> Figure:
    """Two panels a row, so that they are read on a phone; one legend."""
    rows = max(1, math.ceil(len(items) / 2))
    figure = Figure(figsize=(5.8, 0.55 + 1.75 * rows), layout="constrained")
    grid = list(figure.subplots(rows, 2, squeeze=False).flat)
    for axes, item in zip(grid, items, strict=False):
        panel(axes, item)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for axes in grid[len(items) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, handlelength=1.2, columnspacing=1.4)
    return figure


def _titled(axes: Axes, name: str, told: str, theme: Theme) -> None:
    axes.set_title(f"{name}\n", fontsize=10, pad=4)
    axes.text(0, 1.03, told, transform=axes.transAxes, fontsize=9, color=theme.muted, va="bottom")


def _predictive(found: Findings) -> Picture | None:
    checks = found.checks
    shown = [] if checks is None else _drawable(checks)
    if checks is None or not shown:
        return None
    told = "; ".join(f"{check.name}: p {check.p_value:.2f}" for check in shown)
    return _picture(
        "predictive_checks",
        "The data among data sets of the model",
        f"Histograms of {len(shown)} quantities over {checks.num_replicates} generated data sets, with "
        f"the data as a line. {told}.",
        "Each histogram shows one quantity of data sets that the model generates; the line is the same quantity of the "
        "data. A line outside its histogram is what the model does not reproduce.",
        predictive,
        checks,
    )


def _aggregate(found: Findings) -> Picture | None:
    aggregated = found.aggregate
    if aggregated is None:
        return None
    shown, count = _furthest(aggregated), len(aggregated.distance)
    told = "; ".join(f"z{i + 1} {float(aggregated.distance[i]):.2f}" for i in shown)
    which = f" The {len(shown)} of {count} dimensions that differ most." if count > len(shown) else ""
    return _picture(
        "aggregate_posterior",
        "The latents of all data against the prior",
        f"Histograms of the latents of data with the prior as an outline. Kolmogorov-Smirnov distances: {told}.",
        "Draws of q(z | x) over all data (filled) and the prior (outline): where only the prior has mass, samples are "
        f"unlike the data. Above each, the Kolmogorov-Smirnov distance, from 0 (one and the same) to 1.{which}",
        aggregate,
        aggregated,
    )


def _picture(name: str, title: str, alt: str, caption: str, chart: Callable[..., Figure], what: Any) -> Picture:
    light, dark = (draw(chart, what, theme=theme) for theme in (LIGHT, DARK))
    return Picture(name, title, alt, caption, light, dark)


def _drawable(checks: PosteriorChecks) -> list[PredictiveCheck]:
    """The first few whose values are numbers."""
    fine = [c for c in checks.values() if math.isfinite(c.observed) and bool(torch.isfinite(c.replicated).any())]
    return fine[:PANELS]


def _furthest(found: AggregatePosterior) -> list[int]:
    order = found.distance.argsort(descending=True, stable=True)[:PANELS].tolist()
    return sorted(order)


def _bins(values: Any) -> Any:
    """At most so many bins; one for each value where these are few, as of counts."""
    distinct = np.unique(values)
    if len(distinct) < BINS / 2:
        step = np.diff(distinct).min() if len(distinct) > 1 else max(abs(float(distinct[0])), 1.0) * 0.1
        return np.append(distinct - step / 2, distinct[-1] + step / 2)
    return BINS
