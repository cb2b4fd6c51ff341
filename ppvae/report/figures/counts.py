"""Figures of counts: variance against mean, and the quantile levels of the data among the model's draws."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from .charts import SMALL_POINTS
from .picture import Picture, chart
from .theme import Theme, canvas, plain_numbers
from ..counts import BINS, EXPECTED, CountFindings
from ..findings import ReportData

COUNT_NAMES = ("mean_variance", "residuals")


def count_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of counts, by name."""
    if report.counts is None:
        return {}
    pictures = (_mean_variance(report, report.counts), _residuals(report, report.counts))
    return {picture.name: picture for picture in pictures if picture is not None}


def mean_variance(found: CountFindings, theme: Theme) -> Figure:
    """Variance against mean of every entry, of the data and expected by the model; the line of a Poisson."""
    figure, (axes,) = canvas(theme, 4.6)
    few = torch.linspace(0, len(found.mean) - 1, min(SMALL_POINTS, len(found.mean))).long().unique()
    points = [
        (found.mean, found.variance, theme.second, "the data"),
        (found.model_mean.mean(0), found.model_variance.mean(0), theme.first, "what the model expects"),
    ]
    ends = [np.inf, 0.0]
    for mean, variance, colour, name in points:
        a, b = mean[few].numpy(), variance[few].numpy()
        some = (a > 0) & (b > 0)
        axes.scatter(a[some], b[some], s=9, color=colour, alpha=0.55, linewidths=0, label=name)
        ends = [min(ends[0], a[some].min(initial=np.inf)), max(ends[1], a[some].max(initial=0.0))]
    axes.plot(ends, ends, color=theme.muted, linewidth=1.2, label="variance = mean, a Poisson")
    axes.set_xscale("log")
    axes.set_yscale("log")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_xlabel("mean over data")
    axes.set_ylabel("variance over data")
    axes.legend(labelcolor=theme.ink, markerscale=2)
    return figure


def residuals(found: CountFindings, theme: Theme) -> Figure:
    """How many levels there are in each bin, beside one, with two standard errors."""
    figure, (axes,) = canvas(theme, 3.8)
    assert found.share is not None and found.share_error is not None
    middles = (np.arange(BINS) + 0.5) / BINS
    share, error = found.share.numpy(), 2 * found.share_error.numpy()
    axes.bar(middles, share, width=0.92 / BINS, color=theme.first, alpha=0.55)
    axes.errorbar(middles, share, yerr=error, fmt="none", color=theme.first, elinewidth=1.6, capsize=3)
    axes.axhline(1.0, color=theme.second, linewidth=1.6, label="expected of the right model")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("quantile level among the model's draws")
    axes.set_ylabel("data, relative to even")
    figure.legend(loc="outside upper left", labelcolor=theme.ink)
    return figure


def _mean_variance(report: ReportData, found: CountFindings) -> Picture | None:
    if len(found.mean) < 2:
        return None
    sets, outside, size = len(found.model_mean), found.outside, len(found.mean)
    expected = 2 / (sets + 1)
    return chart(
        "mean_variance",
        "How counts scatter",
        f"Scatter plot of variance against mean of {size} entries, of the data and as the model expects; "
        f"{outside} lie outside the model's.",
        f"Mean and variance over {report.kind} data of each entry that is not always 0, on logarithmic scales; points "
        "of the data above those of the model vary more than it says. The model's are means over "
        f"{sets} data sets that it makes, z from the prior; {outside / size:.0%} of the variances of the data "
        f"are outside the range of these, of at most about {expected:.0%} under the right model.",
        mean_variance,
        found,
    )


def _residuals(report: ReportData, found: CountFindings) -> Picture | None:
    if found.share is None or found.share_error is None:
        return None
    ends = float(found.share[[0, -1]].mean())
    return chart(
        "residuals",
        "Where each count stands among the model's",
        f"Histogram of {found.num_levels} quantile levels in {BINS} bins; the outermost two have {ends:.2f} times an "
        "even share.",
        f"Each count's level among draws of p(x | z) at a draw z of q(z | x), ties broken at random (randomised "
        f"quantile residuals); of the {found.num_levels} counts of {report.kind} data of which {EXPECTED:g} or more is "
        "expected. Even under the right model with its posterior. High at both ends: counts vary more than the model "
        "says; high in the middle: less; leaning to one side: too few or too many. Bars: two standard errors.",
        residuals,
        found,
    )
