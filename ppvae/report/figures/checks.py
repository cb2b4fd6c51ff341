"""Figures and table of the predictive checks, and of the aggregate posterior against the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .charts import dimensions_of
from .picture import Picture, chart, of_site
from .theme import Theme, canvas
from ..findings import ReportData
from ..sites import LatentFindings, ObservedFindings
from ...inference import AggregatePosterior, PosteriorChecks, PredictiveCheck

PANELS = 6
BINS = 24
TAIL = 0.01
"""A p-value beyond this, on either side, is called a misfit."""

CHECK_NAMES = ("predictive_checks", "aggregate_posterior", "reliability")


def is_misfit(check: PredictiveCheck) -> bool:
    """Whether a quantity of the data lies outside those of the model's data, or among the outermost of them."""
    return check.p_value < TAIL or check.p_value > 1 - TAIL


def check_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of these checks, by name."""
    pictures = [_predictive(found) for found in report.observed.values()]
    pictures += [_aggregate(found) for found in report.latent.values()]
    pictures += [_reliability(report, found) for found in report.observed.values()]
    return {picture.name: picture for picture in pictures if picture is not None}


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
        _set_title(axes, check.name, f"p = {check.p_value:.3f} ± {check.p_value_error:.3f}", theme)

    return _multiples(_drawable(checks), panel, theme)


def aggregate(posterior: AggregatePosterior, names: Sequence[str], theme: Theme) -> Figure:
    """The draws of the aggregate posterior and of the prior, for the dimensions where they differ most."""

    def panel(axes: Axes, i: int) -> None:
        q, p = (values[..., i].flatten().numpy() for values in (posterior.draws, posterior.prior))
        low, high = np.quantile(np.concatenate((q, p)), (0.002, 0.998)).tolist()
        edges = np.linspace(low, high, 41)
        axes.hist(q, bins=edges.tolist(), density=True, color=theme.first, alpha=0.55, label="the data")
        heights, _ = np.histogram(p, edges, density=True)
        axes.stairs(heights, edges, color=theme.ink, linewidth=1.5, label="the prior", baseline=None)
        subtitle = f"distance {float(posterior.distance[i]):.3f} ± {float(posterior.distance_error[i]):.3f}"
        _set_title(axes, names[i], subtitle, theme)

    return _multiples(furthest(posterior), panel, theme)


def _multiples(items: Sequence[Any], panel: Callable[[Axes, Any], None], theme: Theme) -> Figure:
    """Two panels a row, one on a phone; one legend."""
    columns = 1 if theme.narrow else 2
    rows = max(1, math.ceil(len(items) / columns))
    figure = Figure(figsize=(theme.width, 0.6 + 1.85 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, item in zip(grid, items, strict=False):
        panel(axes, item)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    for axes in grid[len(items) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper left", ncols=1 if theme.narrow else 2, handlelength=1.2, columnspacing=1.4
    )
    return figure


def _set_title(axes: Axes, name: str, subtitle: str, theme: Theme) -> None:
    axes.set_title(f"{name}\n", pad=4)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, color=theme.muted, va="bottom")


def _predictive(found: ObservedFindings) -> Picture | None:
    checks = found.checks
    panels = [] if checks is None else _drawable(checks)
    if checks is None or not panels:
        return None
    p_values = "; ".join(f"{check.name}: p {check.p_value:.2f}" for check in panels)
    return chart(
        *of_site("predictive_checks", "The data among data sets of the model", found.label),
        f"Histograms of {len(panels)} quantities over {checks.num_replicates} generated data sets, with "
        f"the data as a line. {p_values}.",
        "Each histogram shows one quantity of data sets that the model generates; the line is the same quantity of the "
        "data. A line outside its histogram is what the model does not reproduce.",
        predictive,
        checks,
    )


def _aggregate(found: LatentFindings) -> Picture | None:
    posterior = found.aggregate
    if posterior is None:
        return None
    dimensions, count = furthest(posterior), len(posterior.distance)
    names = dimensions_of(found.site, found.shape)
    distances = "; ".join(f"{names[i]} {float(posterior.distance[i]):.2f}" for i in dimensions)
    which = f" The {len(dimensions)} of {count} dimensions that differ most." if count > len(dimensions) else ""
    return chart(
        *of_site("aggregate_posterior", "The latents of all data against the prior", found.label),
        f"Histograms of the latents of data with the prior as an outline. Kolmogorov-Smirnov distances: {distances}.",
        f"Draws of q({found.site} | x) over all data (filled) and the prior (outline): where only the prior has "
        f"mass, samples are unlike the data. Above each, the Kolmogorov-Smirnov distance, from 0 (one and the same) to "
        f"1.{which}",
        aggregate,
        posterior,
        names,
    )


def reliability(rows: Tensor, theme: Theme) -> Figure:
    """Frequency against predicted probability with two standard errors, beside the diagonal."""
    figure, (axes,) = canvas(theme, 3.8)
    p, frequency, error, share = (column.numpy() for column in rows.T)
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1.0)
    axes.errorbar(p, frequency, yerr=2 * error, fmt="none", color=theme.first, elinewidth=1.6, capsize=3)
    axes.scatter(p, frequency, s=20 + 400 * share, color=theme.first, alpha=0.8, linewidths=0, zorder=3)
    axes.set_xlabel("predicted probability of a one")
    axes.set_ylabel("frequency of ones")
    axes.set_aspect("equal")
    return figure


def _reliability(report: ReportData, found: ObservedFindings) -> Picture | None:
    rows = found.reliability
    if rows is None or len(rows) < 2:
        return None
    worst = int((rows[:, 1] - rows[:, 0]).abs().argmax())
    p, frequency = float(rows[worst, 0]), float(rows[worst, 1])
    return chart(
        *of_site("reliability", "Are its probabilities right?", found.label),
        f"Scatter plot of frequency against probability in {len(rows)} bins; furthest from the diagonal where {p:.2f} "
        f"is predicted and {frequency:.2f} are ones.",
        f"Every value of {report.kind} data: p({found.site} = 1 | z) with z drawn from q(z | x), in bins, against how "
        "often it is one. On the diagonal probabilities are frequencies; large points are bins of many values, bars "
        "two standard errors over data.",
        reliability,
        rows,
    )


def _drawable(checks: PosteriorChecks) -> list[PredictiveCheck]:
    """The first few whose values are numbers, and not one and the same for the data and all that the model made."""
    fine = [c for c in checks.values() if math.isfinite(c.observed) and bool(torch.isfinite(c.replicated).any())]
    return [c for c in fine if float(c.replicated.std()) > 0 or c.z_score != 0][:PANELS]


def furthest(posterior: AggregatePosterior) -> list[int]:
    """The dimensions whose aggregate lies furthest from the prior, at most as many as there are panels."""
    order = posterior.distance.argsort(descending=True, stable=True)[:PANELS].tolist()
    return sorted(order)


def _bins(values: Any) -> Any:
    """At most so many bins; one for each value where these are few, as of counts."""
    distinct = np.unique(values)
    if len(distinct) < BINS / 2:
        step = np.diff(distinct).min() if len(distinct) > 1 else max(abs(float(distinct[0])), 1.0) * 0.1
        return np.append(distinct - step / 2, distinct[-1] + step / 2)
    return BINS
