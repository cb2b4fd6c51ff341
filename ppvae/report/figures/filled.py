"""Figures of gaps: known values that were hidden against what fills them, and pictures with gaps filled."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from .charts import SMALL_POINTS
from .images import as_images
from .picture import Picture, chart, tiles
from .theme import LABELS, Theme, canvas
from ..filled import HIDDEN, FilledFindings
from ..findings import ReportData

FILLED_NAMES = ("filled", "hidden_values")
_LEGEND = 10  # columns with a colour each


def filled_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of gaps, by name."""
    if report.filled is None:
        return {}
    pictures = (_filled(report, report.filled), _hidden(report, report.filled))
    return {picture.name: picture for picture in pictures if picture is not None}


def hidden_values(found: FilledFindings, names: tuple[str, ...] | None, theme: Theme) -> Figure:
    """The mean of what fills a gap against the truth, with two standard deviations, beside the diagonal."""
    figure, (axes,) = canvas(theme, 5.2)
    few = torch.linspace(0, len(found.truth) - 1, min(SMALL_POINTS // 2, len(found.truth))).long().unique()
    truth, mean, deviation = (v[few].numpy() for v in (found.truth, found.mean, found.standard_deviation))
    ends = [float(min(truth.min(), mean.min())), float(max(truth.max(), mean.max()))]
    axes.plot(ends, ends, color=theme.muted, linewidth=1.0)
    kinds = found.column[few]
    for place, column in enumerate(kinds.unique().tolist() if names is not None else [None]):
        some = slice(None) if column is None else (kinds == column).numpy()
        colour, label = (theme.first, None) if names is None else (LABELS[place % len(LABELS)], names[column])
        axes.errorbar(
            truth[some], mean[some], yerr=2 * deviation[some], fmt="o", markersize=3.5, color=colour, elinewidth=0.9,
            alpha=0.75, label=label,
        )  # fmt: skip
    axes.set_xlabel("the value that was hidden")
    axes.set_ylabel("mean of what the model says")
    if names is not None:
        columns = 1 if theme.narrow else 2
        figure.legend(loc="outside upper left", ncols=columns, labelcolor=theme.ink, columnspacing=1.4)
    return figure


def _hidden(report: ReportData, found: FilledFindings) -> Picture | None:
    if len(found.truth) < 2:
        return None
    share, error = found.within_two
    rmse = float((found.truth - found.mean).square().mean().sqrt())
    names = report.data.feature_names
    names = None if names is None or len(names) > _LEGEND else names
    return chart(
        "hidden_values",
        "Known values, hidden and filled",
        f"Scatter plot of {len(found.truth)} filled values against the truth; {share:.0%} lie within two standard "
        "deviations.",
        f"A trial on {report.kind} data: each known value was hidden with probability {HIDDEN:.0%}, and filled given "
        f"the rest of its datum. Bars are two standard deviations of the posterior predictive; {share:.0%} ± "
        f"{2 * error:.0%} (two standard errors over data) of {len(found.truth)} bars reach the diagonal, where about "
        f"95 % should. Root mean squared error {rmse:.2f}. Real gaps may be of another kind than these.",
        hidden_values,
        found,
        names,
    )


def _filled(report: ReportData, found: FilledFindings) -> Picture | None:
    again = found.restoration
    seen = as_images(found.x * found.present, report.data)
    if again is None or seen is None:
        return None
    largest = max(float(again.standard_deviation.max()), 1e-12)
    spread = as_images(again.standard_deviation / largest, report.data)
    mean = as_images(again.mean, report.data)
    draws = [as_images(draw, report.data) for draw in again.draws[:3]]
    assert spread is not None and mean is not None
    columns = [seen, mean, spread, *(draw for draw in draws if draw is not None)]
    return tiles(
        "filled",
        "Gaps, filled",
        f"Rows of {len(seen)} data: what is there, the posterior mean, its standard deviation, and draws.",
        f"From left to right: what is there of {report.kind} data (gaps are 0), the mean of p(x | what is there), its "
        f"standard deviation (0 to {largest:.2g}), and {len(columns) - 3} draws.",
        torch.stack(columns, 1).flatten(0, 1),
        len(columns),
        size=48,
    )
