"""Figures of several runs: their estimates and paired differences, seeds, learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from .charts import label_of
from .picture import Picture, chart
from .theme import LABELS, Theme, elide
from ..common_data import OverSeeds, RunComparison, SharedPart
from ..several_runs import Curve, SeveralRuns
from ...inference.evidence.difference import FEWEST, SIGMAS

_MARKERS = "os^vDPX*"
_DASHES: Any = (0, (3, 2))


def forest_of(row: RunComparison, part: SharedPart, names: Sequence[str], place: str) -> Picture:
    """One estimate of the runs that have it: their means, and their paired differences to the best."""
    told = [(name, mean) for name, mean in zip(names, row.means, strict=True) if mean is not None]
    means = "; ".join(f"{name} {signed(mean.value, 3)}" for name, mean in told)
    best = "" if row.best is None else f" The highest is {names[row.best]}."
    return chart(
        f"forest-{place}",
        label_of(row.label),
        f"Interval chart of {row.label}, nats per datum: {means}.{best}",
        over_data(row, part),
        _forest,
        row,
        names,
        broad=True,
    )


def over_data(row: RunComparison, part: SharedPart) -> str:
    """The side of an estimate, the data that it is over, and whether they are too few."""
    some = "" if row.num_data == part.num_data else f"{row.num_data} of "
    few = f" Fewer than {FEWEST} are too few to tell runs apart." if row.num_data < FEWEST else ""
    return f"{side_of(row.side)}, over {some}{part.num_data} data.{few}"


def side_of(side: str) -> str:
    """The side of an estimate in words."""
    return {
        "lower": "A lower bound",
        "upper": "An upper bound",
        "exact": "The exact value",
        "consistent": "On neither side",
    }.get(side, side)


def _forest(row: RunComparison, names: Sequence[str], theme: Theme) -> Figure:
    shown = [number for number, mean in enumerate(row.means) if mean is not None]
    narrow = theme.narrow
    height = 44 * len(shown) + 66 if narrow else 34 * len(shown) + 70
    figure = Figure(figsize=(theme.width, height * (2 if narrow else 1) / 72), layout="constrained")
    means, gaps = figure.subplots(2 if narrow else 1, 1 if narrow else 2, squeeze=False).flatten()
    for place, number in enumerate(shown):
        mean, gap = row.means[number], row.differences[number]
        assert mean is not None
        apart = gap is None or gap.told_apart
        _interval(means, place, mean.value, mean.sampling_error, theme, thin=True)
        _interval(means, place, mean.value, mean.monte_carlo_error or 0.0, theme)
        _point(means, place, mean.value, apart, theme)
        if gap is not None:
            _interval(gaps, place, gap.value, gap.error, theme, thin=True)
        _point(gaps, place, 0.0 if gap is None else gap.value, apart, theme, "D" if gap is None else "o")
        _told(means, place, names[number], signed(mean.value, 3), theme, above=narrow, names_at_left=True)
        text = "the highest" if gap is None else f"{signed(gap.value, 3)} ± {gap.error:.3f}"
        _told(gaps, place, names[number], text, theme, above=narrow, names_at_left=False)
    # In pieces where numbers stand above the rows, so that it does not strike them out.
    places, up = np.arange(len(shown)), 0.22 if narrow else 0.5
    gaps.vlines([0] * len(shown), places - up, places + 0.5 - 0.2 * narrow, color=theme.muted, lw=1, zorder=1)
    assert row.best is not None
    means.set_title("mean, nats per datum", color=theme.ink)
    gaps.set_title(f"minus {elide(names[row.best], 20)}, datum by datum", color=theme.ink)
    _finish((means, gaps), len(shown), narrow)
    return figure


def seeds_of(row: RunComparison, part: SharedPart, runs: SeveralRuns, place: str) -> Picture:
    """One estimate over seeds: the runs of each group, their mean and its interval."""
    groups = [(group.name, mean) for group, mean in zip(runs.groups, row.over_seeds, strict=True) if mean is not None]
    told = "; ".join(f"{name} {over_seeds(mean)}" for name, mean in groups)
    return chart(
        f"seeds-{place}",
        label_of(row.label),
        f"Interval chart of {row.label} over seeds, nats per datum: {told}.",
        over_data(row, part),
        _seeds,
        row,
        runs,
    )


def over_seeds(mean: OverSeeds) -> str:
    """Its mean with the standard error over seeds, and how many they are."""
    error = f" ± {mean.error:.3f}" if mean.num_seeds > 1 else ""
    return f"{signed(mean.value, 3)}{error}, n = {mean.num_seeds}"


def _seeds(row: RunComparison, runs: SeveralRuns, theme: Theme) -> Figure:
    shown = [(group, mean) for group, mean in zip(runs.groups, row.over_seeds, strict=True) if mean is not None]
    figure = Figure(figsize=(theme.width, (46 * len(shown) + 70) / 72), layout="constrained")
    axes = figure.subplots()
    for place, (group, mean) in enumerate(shown):
        values = [one.value for number in group.members if (one := row.means[number]) is not None]
        if mean.num_seeds > 1:
            _interval(axes, place, mean.value, mean.half_width / SIGMAS, theme, thin=True)
            axes.plot([mean.value], [place], "D", color=theme.ink, markersize=6.5, zorder=4)
        axes.plot(
            values, [place] * len(values), "o", color=theme.first, markersize=4.5, zorder=5, markeredgecolor=theme.paper
        )
        _told(axes, place, group.name, over_seeds(mean), theme, above=True, names_at_left=False)
    axes.set_title("mean, nats per datum", color=theme.ink)
    _finish((axes,), len(shown), True)
    return figure


def _interval(axes: Axes, place: int, middle: float, error: float, theme: Theme, *, thin: bool = False) -> None:
    """Two standard errors to both sides."""
    reach = SIGMAS * error if math.isfinite(error) else 0.0
    axes.plot(
        [middle - reach, middle + reach],
        [place, place],
        color=theme.first,
        lw=1.3 if thin else 4.5,
        solid_capstyle="butt",
        zorder=2,
        alpha=1 if thin else 0.55,
    )


def _point(axes: Axes, place: int, value: float, filled: bool, theme: Theme, marker: str = "o") -> None:
    axes.plot(
        [value],
        [place],
        marker,
        color=theme.first,
        markerfacecolor=theme.first if filled else theme.paper,
        markersize=6.5,
        markeredgewidth=1.4,
        zorder=5,
    )


def _told(axes: Axes, place: int, name: str, text: str, theme: Theme, *, above: bool, names_at_left: bool) -> None:
    """The name of a row and its number: above the row, or on both sides of it."""
    style: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    style["annotation_clip"] = False
    if above:
        room = int(theme.width * 10) - len(text) - 2
        axes.annotate(elide(name, room), (0, place - 0.28), xytext=(0, 0), va="bottom", color=theme.ink, **style)
        axes.annotate(text, (1, place - 0.28), xytext=(0, 0), va="bottom", ha="right", color=theme.muted, **style)
        return
    if names_at_left:
        axes.annotate(elide(name, 24), (0, place), xytext=(-8, 0), ha="right", va="center", color=theme.ink, **style)
    axes.annotate(text, (1, place), xytext=(6, 0), va="center", color=theme.muted, **style)


def _finish(all_axes: Sequence[Axes], count: int, above: bool) -> None:
    for axes in all_axes:
        axes.set_yticks([])
        axes.set_ylim(count - 0.4, -0.95 if above else -0.6)
        axes.margins(x=0.06)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, min_n_ticks=3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))


def curves_of(runs: SeveralRuns) -> Iterator[Picture]:
    """The learning curves by data seen and by seconds: two charts for each data set, of one range of bounds."""
    charts: dict[tuple[str, ...], dict[int, Curve]] = {}
    for number, curve in enumerate(runs.curves):
        if curve is not None:
            charts.setdefault(runs.judged_on(number), {})[number] = curve
    for curves in charts.values():
        names = [runs.names[number] for number in curves]
        of = f": {elide(', '.join(names), 60)}" if len(charts) > 1 else ""
        for clock, title, unit in (("samples", "By data seen", "data seen"), ("seconds", "By time", "seconds")):
            yield chart(
                f"curves-{clock}-{next(iter(curves))}",
                title + of,
                f"Line chart of the bound: {_ends(curves, runs.names)}.",
                _which(curves),
                _curves,
                curves,
                runs,
                clock,
                unit,
            )


def spreads_of(runs: SeveralRuns) -> Iterator[Picture]:
    """The mean of the learning curves over the seeds of each group, with its spread: one chart for each data set.

    A mean is over all runs of its group at every epoch: after the end of the first of them there is none.
    """
    charts: dict[tuple[str, ...], dict[int, list[Curve]]] = {}
    for place, group in enumerate(runs.groups):
        curves = [curve for number in group.members if (curve := runs.curves[number]) is not None]
        if len(curves) > 1 and len(curves) == len(group.members):
            charts.setdefault(runs.judged_on(group.members[0]), {})[place] = curves
    for key, groups in charts.items():
        ends = [f"{runs.groups[place].name} {mean_of(curves)}" for place, curves in groups.items()]
        what = "validation" if all(c.validation for curves in groups.values() for c in curves) else "training"
        yield chart(
            f"spread-{next(iter(groups))}",
            "Over seeds" + (f": {elide(key[0], 40)}" if len(charts) > 1 else ""),
            f"Line chart of the mean bound over seeds on {what} data, at the end: {'; '.join(ends)}.",
            f"The bound on {what} data: the mean over seeds, and one standard deviation of a single run to both sides.",
            _spreads,
            groups,
            runs,
            what,
        )


def _spreads(groups: Mapping[int, list[Curve]], runs: SeveralRuns, what: str, theme: Theme) -> Figure:
    columns = 1 if theme.narrow else 2
    figure = Figure(figsize=(theme.width, (250 + 19 * math.ceil(len(groups) / columns)) / 72), layout="constrained")
    axes = figure.subplots()
    handles = []
    for place, curves in groups.items():
        shortest = min(len(curve.train) for curve in curves)
        lines = [(curve.train if what == "training" else curve.validation or [])[:shortest] for curve in curves]
        values, times = np.array(lines), np.array(curves[0].samples[:shortest])
        mean, deviation = values.mean(0), values.std(0, ddof=1)
        colour = LABELS[place % len(LABELS)]
        axes.fill_between(times, mean - deviation, mean + deviation, color=colour, alpha=0.25, lw=0)
        handles += axes.plot(times, mean, color=colour, lw=1.7)
    axes.set_ylim(*bounds_shown([curve for curves in groups.values() for curve in curves]))
    axes.set_xlim(left=0)
    axes.set_xlabel("data seen")
    axes.set_ylabel("bound, nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    names = [elide(runs.groups[place].title, 34 if columns == 1 else 24) for place in groups]
    figure.legend(handles, names, loc="outside lower left", ncols=columns)
    return figure


def mean_of(curves: Sequence[Curve]) -> str:
    """The mean of the last values over seeds, with the standard deviation of a single run."""
    last = np.array([(curve.validation or curve.train)[-1] for curve in curves])
    return f"{signed(float(last.mean()), 3)} ± {last.std(ddof=1):.3f}"


def _ends(curves: Mapping[int, Curve], names: Sequence[str]) -> str:
    ends = [
        f"{names[number]} ends at {signed(curve.train[-1], 2)} in training"
        + (f" and {signed(curve.validation[-1], 2)} in validation" if curve.validation else "")
        for number, curve in curves.items()
    ]
    return "; ".join(ends)


def _which(curves: Mapping[int, Curve]) -> str:
    if all(curve.validation is None for curve in curves.values()):
        return "The bound on training data: there are no validation data."
    return "The bound on validation data (solid) and on training data (dashed)."


def _curves(curves: Mapping[int, Curve], runs: SeveralRuns, clock: str, unit: str, theme: Theme) -> Figure:
    place_of = {number: i for i, group in enumerate(runs.groups) for number in (*group.members, *group.copies)}
    groups = list(dict.fromkeys(place_of[number] for number in curves))
    columns = 1 if theme.narrow else 2
    entries = len(groups) + 2
    figure = Figure(figsize=(theme.width, (250 + 19 * math.ceil(entries / columns)) / 72), layout="constrained")
    axes = figure.subplots()
    for number, curve in curves.items():
        times: Any = np.array(getattr(curve, clock))
        place = place_of[number]
        style: dict[str, Any] = {"color": LABELS[place % len(LABELS)], "marker": _MARKERS[place % len(_MARKERS)]}
        every = max(1, len(times) // 6)
        alone = 4 if curve.validation is None else 0
        axes.plot(times, curve.train, ls=_DASHES, lw=1.1, markersize=alone, markevery=every, **style)
        if curve.validation is not None:
            axes.plot(times, curve.validation, lw=1.7, markersize=4, markevery=(every // 2, every), **style)
    axes.set_ylim(*bounds_shown(list(curves.values())))
    axes.set_xlim(left=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("bound, nats per datum")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    if clock == "samples":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    handles = [
        Line2D([], [], color=LABELS[i % len(LABELS)], marker=_MARKERS[i % len(_MARKERS)], markersize=4) for i in groups
    ]
    names = [elide(runs.groups[i].title, 34 if columns == 1 else 24) for i in groups]
    handles += [Line2D([], [], color=theme.muted, lw=1.7), Line2D([], [], color=theme.muted, lw=1.1, ls=_DASHES)]
    figure.legend(handles, [*names, "validation", "training"], loc="outside lower left", ncols=columns)
    return figure


def bounds_shown(curves: Sequence[Curve]) -> tuple[float, float]:
    """The range of bounds of a chart: of most epochs of every run, without the first, which are far below."""
    lines = [line for curve in curves for line in (curve.train, curve.validation or [])]
    good = [values for line in lines if len(values := np.array([v for v in line if math.isfinite(v)]))]
    if not good:
        return -1.0, 0.0
    low, high = min(np.quantile(v, 0.08 if len(v) > 4 else 0.0) for v in good), max(v.max() for v in good)
    margin = max(high - low, 1e-3)
    return float(low - 0.12 * margin), float(high + 0.08 * margin)


def signed(value: float, digits: int) -> str:
    """A number with a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")
