"""Figures with axes: learning curves, latents, KL per dimension, estimates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .theme import FONT_SIZE, LABELS, Theme, canvas
from ..findings import ACTIVE

Row = Mapping[str, float]
SMALL_POINTS = 1000
"""Of a drawing, each of which takes a hundred bytes."""


class Gap(NamedTuple):
    """One estimate minus another, datum by datum, nats.

    Attributes:
        name: of the estimate.
        side: its own.
        values: [N]; NaN where either cannot be trusted.
        errors: standard errors of the difference, [N]; NaN where they are not known.
    """

    name: str
    side: str
    values: Tensor
    errors: Tensor


def learning_curve(history: Sequence[Row], best_epoch: int | None, theme: Theme) -> Figure:
    """The bound on training and held-out data, epoch by epoch."""
    figure, (axes,) = canvas(theme, 3.5)
    epochs = [row["epoch"] for row in history]
    bounds, ends = [], []
    for key, name, colour in (
        ("elbo_train", "training", theme.first),
        ("elbo_validation", "validation", theme.second),
    ):
        if key in history[-1]:
            values = [row.get(key, math.nan) for row in history]
            axes.plot(epochs, values, color=colour, marker="o" if len(epochs) == 1 else "")
            ends.append((values[-1], name, colour))
            bounds += values
    for place, (end, name, colour) in enumerate(sorted(ends)):
        # The upper name a little higher and the lower one a little lower, so that names of close lines do not meet.
        shift = 0 if len(ends) == 1 else 12 * place - 6
        axes.annotate(name, (epochs[-1], end), xytext=(8, shift), textcoords="offset points", color=colour, va="center")
    if best_epoch and "elbo_validation" in history[-1]:
        best = history[best_epoch - 1]["elbo_validation"]
        axes.plot([best_epoch], [best], "o", color=theme.second, markersize=8, markeredgecolor=theme.paper, zorder=5)
        axes.annotate(
            f"best {best:.2f}, epoch {best_epoch}".replace("-", "−"),
            (best_epoch, best),
            xytext=(0, 11),
            textcoords="offset points",
            color=theme.second,
            ha="right" if best_epoch > 0.7 * epochs[-1] else "center",
            va="bottom",
            path_effects=[patheffects.withStroke(linewidth=4, foreground=theme.paper)],
        )
    _without_the_start(axes, bounds)
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound, nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def bound_parts(history: Sequence[Row], theme: Theme) -> Figure:
    """The two parts of the bound: reconstruction and KL."""
    figure, axes = canvas(theme, 3.3, 2)
    epochs = [row["epoch"] for row in history]
    for ax, part, title in zip(axes, ("reconstruction", "kl"), ("reconstruction", "KL"), strict=True):
        lines = []
        for which, colour in (("train", theme.first), ("validation", theme.second)):
            key = f"{part}_{which}"
            if key in history[-1]:
                values = [row.get(key, math.nan) for row in history]
                name = "training" if which == "train" else which
                ax.plot(epochs, values, color=colour, label=name, marker="o" if len(epochs) == 1 else "")
                lines += values
        if part == "reconstruction":
            _without_the_start(ax, lines)
        ax.set_title(title, color=theme.ink, fontweight="normal")
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes[0].set_ylabel("nats per datum")
    axes[0].legend(loc="lower right", labelcolor="linecolor")
    return figure


def scatter(
    latents: Tensor,
    labels: Tensor | None,
    background: tuple[Tensor, Tensor | None] | None,
    names: Sequence[str],
    theme: Theme,
) -> Figure:
    """Posterior means in the plane, coloured by label."""
    points, plane, how = in_plane(latents)
    figure, (axes,) = canvas(theme, 5.6)
    if background is not None:
        others, other_labels = (None if part is None else part[:SMALL_POINTS] for part in background)
        assert others is not None
        axes.scatter(
            *_xy(plane(others)),
            s=7,
            c=_colours(other_labels, len(others), theme),
            alpha=0.35,
            linewidths=0,
        )
    axes.scatter(
        *_xy(points),
        s=34,
        c=_colours(labels, len(points), theme),
        edgecolors=theme.paper,
        linewidths=0.7,
        zorder=3,
    )
    if labels is not None and labels.dim() == 1 and len(labels.unique()) <= 30:
        for value in labels.unique().tolist():
            middle = points[labels == value].median(0).values
            axes.text(
                float(middle[0]),
                float(middle[1]),
                f"{value:g}",
                fontsize=17,
                fontweight="bold",
                ha="center",
                va="center",
                color=theme.ink,
                zorder=5,
                path_effects=[patheffects.withStroke(linewidth=4, foreground=theme.paper)],
            )
    axes.set_aspect("equal", adjustable="datalim")
    across, up = names if how == "" else ("first principal component", "second principal component")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure


def _xy(points: Tensor) -> tuple[Any, Any]:
    return points[:, 0].numpy(), points[:, 1].numpy()


def in_plane(latents: Tensor) -> tuple[Tensor, Any, str]:
    """Points [N, 2]; their map from the latents; and its name, empty where the latents are two-dimensional."""
    size = latents.shape[1]
    if size == 2:
        return latents, lambda z: z, ""
    if size == 1:
        # One dimension gets a fixed pseudo-random height, so that points do not hide each other.
        def spread(z: Tensor) -> Tensor:
            return torch.cat((z, torch.linspace(0, 1, len(z))[torch.arange(len(z)) * 7919 % len(z)][:, None]), 1)

        return spread(latents), spread, "one latent dimension, spread out vertically"
    mean = latents.mean(0)
    _, _, axes = torch.linalg.svd(latents - mean, full_matrices=False)
    # The sign of a singular vector is arbitrary: make its largest entry positive.
    axes = axes[:2] * axes[:2].gather(1, axes[:2].abs().argmax(1, keepdim=True)).sign()

    def project(z: Tensor) -> Tensor:
        return torch.mm(z - mean, axes.T)

    return project(latents), project, f"the plane of the two largest principal components of {size} dimensions"


def kl_per_dimension(kl: Tensor, active: Tensor | None, names: Sequence[str], theme: Theme) -> Figure:
    """KL of every latent dimension, largest first; inactive ones recede."""
    order = torch.argsort(kl, descending=True)
    figure, (axes,) = canvas(theme, max(1.7, min(7.5, 0.95 + 0.3 * min(len(kl), 40))))
    order = order[:40]
    values = kl[order].numpy()
    live = [active is None or float(active[i]) > ACTIVE for i in order.tolist()]
    places = np.arange(len(values))
    axes.barh(places, values, height=0.68, color=[theme.first if on else theme.rule for on in live])
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:.2f}",
            (float(value), float(place)),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=theme.muted,
        )
    axes.set_yticks(places, [names[i] for i in order.tolist()])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, max(float(values.max()) * 1.12, 1e-6))
    axes.set_xlabel("KL, nats per datum")
    return figure


def estimates(rows: Sequence[Mapping[str, Any]], theme: Theme) -> Figure:
    """Every estimate of the log evidence with two standard errors, and an arrow to the side where the truth is."""
    rows = [row for row in rows if row["mean"] is not None]
    figure, (axes,) = canvas(theme, 1.2 + 0.55 * len(rows))
    means = np.array([row["mean"] for row in rows])
    errors = np.array([2 * (row["monte_carlo_error"] or 0.0) for row in rows])
    width = max(float((means + errors).max() - (means - errors).min()), 1e-3)
    for place, row in enumerate(rows):
        colour = {"lower": theme.first, "upper": theme.second}.get(row["side"], theme.ink)
        axes.errorbar(
            [row["mean"]], [place], xerr=[errors[place]], color=colour, fmt="D" if row["side"] == "exact" else "o",
            markersize=6.5, capsize=4, elinewidth=2, mfc=colour if row["vouched"] else theme.paper,
        )  # fmt: skip
        sign = {"lower": 1, "upper": -1}.get(row["side"], 0)
        if sign:
            axes.annotate(
                "",
                (row["mean"] + sign * (errors[place] + 0.09 * width), place),
                (row["mean"] + sign * (errors[place] + 0.02 * width), place),
                arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.6, "alpha": 0.75},
            )
        axes.annotate(
            f"{row['mean']:.2f}".replace("-", "−"),
            (row["mean"], place),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            color=theme.muted,
        )
    axes.set_yticks(range(len(rows)), [label_of(row["label"]) for row in rows], color=theme.ink)
    axes.set_ylim(len(rows) - 0.4, -0.75)
    axes.margins(x=0.16)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=3 if theme.narrow else 6))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("nats per datum")
    return figure


def sandwich(gaps: Sequence[Gap], reference: str, theme: Theme) -> Figure:
    """Every estimate minus a reference, for each datum: a panel for each estimate, two standard errors of both as
    bars."""
    columns = 1 if theme.narrow or len(gaps) == 1 else 2
    rows = -(-len(gaps) // columns)
    figure = Figure(figsize=(theme.width, 0.5 + 1.45 * rows), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=True).flat)
    order = gaps[0].values.nan_to_num(math.inf).argsort()
    places = np.arange(len(order))
    for axes, gap in zip(grid, gaps, strict=False):
        colour = {"lower": theme.first, "upper": theme.second}.get(gap.side, theme.ink)
        values, errors = gap.values[order].numpy(), 2 * gap.errors[order].nan_to_num(0.0).numpy()
        finite = gap.values[torch.isfinite(gap.values)]
        low, high = (float(torch.quantile(finite, level)) for level in (0.03, 0.97))
        margin = 0.4 * max(high - low, 1e-3)
        low, high = min(low, 0.0) - margin, max(high, 0.0) + margin
        inside = (values >= low) & (values <= high)
        axes.axhline(0, color=theme.muted, linewidth=1.0)
        axes.vlines(
            places[inside], (values - errors)[inside], (values + errors)[inside], color=colour, lw=0.8, alpha=0.45
        )
        axes.scatter(places[inside], values[inside], s=9, color=colour, linewidths=0)
        outside = np.isfinite(values) & ~inside
        edge = np.clip(values[outside], low + 0.04 * (high - low), high - 0.04 * (high - low))
        axes.scatter(places[outside], edge, s=15, facecolors="none", edgecolors=colour, linewidths=0.8)
        axes.set_ylim(low, high)
        axes.set_xticks([])
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.set_title(gap.name, pad=4)
    for axes in grid[len(gaps) :]:
        axes.set_visible(False)
    figure.supylabel(f"minus {reference}, nats", fontsize=FONT_SIZE, color=theme.muted)
    return figure


def per_datum(values: Tensor, labels: Tensor | None, name: str, theme: Theme) -> Figure:
    """The distribution of log p(x) over data, for every label."""
    values = values.double()
    kinds = [] if labels is None or labels.dim() != 1 else labels.unique().tolist()
    if not 1 < len(kinds) <= 30:
        figure, (axes,) = canvas(theme, 2.8)
        axes.hist(values.numpy(), bins=min(40, max(8, len(values) // 10)), color=theme.first, alpha=0.85)
        axes.set_ylabel("data")
    else:
        assert labels is not None
        figure, (axes,) = canvas(theme, 1.0 + 0.33 * len(kinds))
        for place, kind in enumerate(kinds):
            subset = values[labels == kind]
            height = place + (torch.rand(len(subset), generator=torch.Generator().manual_seed(place)) - 0.5) * 0.5
            colour = LABELS[place % len(LABELS)]
            axes.scatter(subset.numpy(), height.numpy(), s=14, color=colour, alpha=0.7, linewidths=0)
            axes.plot([float(subset.mean())] * 2, [place - 0.36, place + 0.36], color=theme.ink, lw=2)
        axes.set_yticks(range(len(kinds)), [f"{kind:g}" for kind in kinds], color=theme.ink)
        axes.invert_yaxis()
        axes.set_ylabel("label")
        axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"{label_of(name)} of one datum, nats")
    return figure


def values_scatter(x: Tensor, reconstructed: Tensor, theme: Theme) -> Figure:
    """Reconstructed against original values, for data that are no pictures."""
    figure, (axes,) = canvas(theme, 4.8)
    few = torch.linspace(0, x.numel() - 1, min(SMALL_POINTS, x.numel())).long()
    a, b = x.flatten()[few].numpy(), reconstructed.flatten()[few].numpy()
    axes.scatter(a, b, s=6, color=theme.first, alpha=0.3, linewidths=0)
    ends = [float(min(a.min(), b.min())), float(max(a.max(), b.max()))]
    axes.plot(ends, ends, color=theme.second, lw=1.2)
    axes.set_xlabel("datum")
    axes.set_ylabel("reconstruction")
    return figure


def _without_the_start(axes: Axes, *lines: Sequence[float]) -> None:
    """Leave the first epochs, which are far below, out of the picture."""
    good = [values for line in lines if len(values := np.array([v for v in line if math.isfinite(v)]))]
    if sum(map(len, good)) > 20:
        low, high = min(np.quantile(values, 0.08) for values in good), max(values.max() for values in good)
        axes.set_ylim(low - 0.15 * (high - low), high + 0.1 * (high - low))


def _colours(labels: Tensor | None, count: int, theme: Theme) -> list[str]:
    if labels is None or labels.dim() != 1:
        return [theme.first] * count
    place = {value: index for index, value in enumerate(labels.unique().tolist())}
    return [LABELS[place[value] % len(LABELS)] for value in labels.tolist()]


def dimensions_of(site: str, shape: Sequence[int]) -> list[str]:
    """What the dimensions of a latent are called: z₁, z₂, ...; z2[1] where the name ends in a number; z[3, 1]."""
    if len(shape) < 2 and not site[-1:].isdigit():
        return [f"{site}{_subscript(i + 1)}" for i in range(math.prod(shape))]
    return [f"{site}[{', '.join(str(i + 1) for i in place)}]" for place in np.ndindex(*(shape or (1,)))]


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def label_of(label: str) -> str:
    """A label with a true subscript: "L_5000" is "L₅₀₀₀"."""
    head, _, tail = label.partition("_")
    return f"{head}{_subscript(int(tail))}" if tail.isdigit() else label
