"""Figures of discrete latents: their probabilities over data, how sure these are, and whether rightly so."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .picture import Picture, chart
from .theme import Theme, canvas
from ..findings import ReportData
from ...inference import Calibration, DiscretePosterior
from ...inference.prediction.classes import entropy

PANELS = 6
DISCRETE_NAMES = ("discrete_values", "discrete_entropy", "discrete_calibration")


@dataclass(frozen=True, eq=False)
class Scores:
    """A discrete latent against labels.

    Attributes:
        site: the discrete latent.
        matched: whether its values were matched with the labels, for the most agreement.
        accuracy: the share of labels that are the most probable value.
        calibration: of the same.
        num_labels: how many labels count.
    """

    site: str
    matched: bool
    accuracy: float
    calibration: Calibration
    num_labels: int


def discrete_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of discrete latents, by name."""
    posterior = report.discrete
    if posterior is None:
        return {}
    pictures = (_values(report, posterior), _entropies(report, posterior), _calibration(report, posterior))
    return {picture.name: picture for picture in pictures if picture is not None}


def scores(posterior: DiscretePosterior, labels: Tensor | None) -> Scores | None:
    """How the first site with as many values as there are labels agrees with them; None where there is none.

    A site that stands beside observed labels (``observe_with_gaps``) has their classes. The values of others are names,
    which are matched with the labels one to one, for the most agreement.
    """
    if labels is None or labels.dim() != 1:
        return None
    kinds, names = labels.unique(return_inverse=True)
    for name, p in posterior.probabilities.items():
        seen, known, number = name.endswith("_unobserved"), p.isfinite().all(-1), p.shape[-1]
        fits = int(labels.max()) < number if seen else len(kinds) == number
        if p.dim() != 2 or not fits or not bool(known.any()):
            continue
        places = labels if seen else names
        if not seen:
            from scipy.optimize import linear_sum_assignment

            counts = torch.zeros(number, number)
            counts.index_put_((posterior.values[name][known], places[known]), torch.ones(()), accumulate=True)
            label_of = torch.as_tensor(linear_sum_assignment(counts.numpy(), maximize=True)[1])
            matched = torch.empty_like(p)
            matched[:, label_of] = p
            posterior = replace(posterior, probabilities={**posterior.probabilities, name: matched})
        table = posterior.calibration(places, site=name)
        return Scores(name, not seen, posterior.accuracy(places, site=name), table, int(table.count.sum()))
    return None


def values(means: dict[str, Tensor], theme: Theme) -> Figure:
    """The mean probability of every value of some sites, two panels a row."""
    columns = 1 if theme.narrow or len(means) == 1 else 2
    rows = math.ceil(len(means) / columns)
    figure = Figure(figsize=(theme.width, 0.5 + (2.9 if rows == 1 else 1.9) * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, (name, mean) in zip(grid, means.items(), strict=False):
        axes.bar(range(len(mean)), mean.tolist(), color=theme.first, width=0.8)
        axes.set_title(name)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=min(10, len(mean)), integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    grid[-1].set_xlabel("value")
    grid[0].set_ylabel("mean probability")
    for axes in grid[len(means) :]:
        axes.set_visible(False)
    return figure


def entropies(per_datum: Tensor, most: float, theme: Theme) -> Figure:
    """A histogram of entropies, and the largest that there is as a line."""
    figure, (axes,) = canvas(theme, 3.4)
    axes.hist(per_datum.numpy(), bins=30, range=(0, most), color=theme.first, alpha=0.8)
    axes.axvline(most, color=theme.second, linewidth=2.0)
    axes.annotate(
        "all values alike",
        (most, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-6, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        color=theme.muted,
    )
    axes.set_xlabel("entropy, nats")
    axes.set_ylabel("data")
    return figure


def calibration(table: Calibration, theme: Theme) -> Figure:
    """Accuracy against confidence with two standard errors, beside the diagonal."""
    figure, (axes,) = canvas(theme, 3.8)
    full = table.count > 0
    confidence, accuracy, count = table.confidence[full], table.accuracy[full], table.count[full].double()
    error = (accuracy * (1 - accuracy) / count).sqrt()
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1.0)
    x, y = confidence.numpy(), accuracy.numpy()
    axes.errorbar(x, y, yerr=2 * error.numpy(), fmt="none", color=theme.first, elinewidth=1.6, capsize=3)
    axes.scatter(x, y, s=20 + 400 * (count / count.sum()).numpy(), color=theme.first, alpha=0.8, linewidths=0, zorder=3)
    axes.set_xlim(0, 1.03)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("probability of the most probable value")
    axes.set_ylabel("how often it is the label")
    axes.set_aspect("equal")
    return figure


def _rows(p: Tensor) -> Tensor:
    """The probabilities that there are, [n, K]."""
    rows = p.reshape(-1, p.shape[-1]).double()
    return rows[rows.isfinite().all(-1)]


def _shown(posterior: DiscretePosterior) -> dict[str, Tensor]:
    return {name: _rows(p) for name, p in posterior.probabilities.items() if len(_rows(p))}


def _values(report: ReportData, posterior: DiscretePosterior) -> Picture | None:
    means = {name: rows.mean(0) for name, rows in list(_shown(posterior).items())[:PANELS]}
    if not means:
        return None
    said = "; ".join(f"{name}: {', '.join(f'{p:.2f}' for p in mean[:12].tolist())}" for name, mean in means.items())
    number = len(posterior.probabilities)
    some = f" The first {len(means)} of {number} sites." if number > len(means) else ""
    return chart(
        "discrete_values",
        "Which values it uses",
        f"Bars of the mean probability of each value. {said}.",
        f"The posterior probability of each value of a discrete latent, averaged over {len(posterior.outcome)} "
        f"{report.kind} data and the draws of the guide. A value without a bar is not used.{some}",
        values,
        means,
    )


def _entropies(report: ReportData, posterior: DiscretePosterior) -> Picture | None:
    shown = _shown(posterior)
    parts = [entropy(p.double()).reshape(len(p), -1) for name, p in posterior.probabilities.items() if name in shown]
    if not parts:
        return None
    per_datum = torch.cat(parts, 1).nanmean(1)
    per_datum = per_datum[per_datum.isfinite()]
    mean = float(per_datum.mean())
    most = sum(math.log(rows.shape[-1]) * part.shape[1] for rows, part in zip(shown.values(), parts, strict=True))
    most /= sum(part.shape[1] for part in parts)
    several = ", averaged over its discrete latents" if sum(part.shape[1] for part in parts) > 1 else ""
    return chart(
        "discrete_entropy",
        "How sure it is of each datum",
        f"Histogram of the entropies of {len(per_datum)} data: mean {mean:.2f} of at most {most:.2f} nats.",
        f"The entropy of each {report.kind} datum's discrete latents given its x{several}: zero where one value has "
        f"all probability, {most:.2f} nats where all are alike. The mean is {mean:.2f} nats.",
        entropies,
        per_datum,
        most,
    )


def _calibration(report: ReportData, posterior: DiscretePosterior) -> Picture | None:
    found = scores(posterior, report.labels)
    if found is None:
        return None
    how = (
        "The model has not seen the labels: its values were matched with them one to one, for the most agreement on "
        "these data, so that the accuracy is what the best names give. "
        if found.matched
        else ""
    )
    return chart(
        "discrete_calibration",
        f"Does {found.site} agree with the labels?",
        f"Accuracy against confidence in bins, of {found.num_labels} labels: accuracy {found.accuracy:.3f}, expected "
        f"calibration error {found.calibration.error:.3f}.",
        f"The most probable value is the label for {found.accuracy:.1%} of {found.num_labels} {report.kind} data. {how}"
        f"On the diagonal it is right as often as it says; the expected calibration error is "
        f"{found.calibration.error:.3f}. Large points are bins of many data, bars two standard errors.",
        calibration,
        found.calibration,
    )
