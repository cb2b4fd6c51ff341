"""What several runs make, side by side: samples and reconstructions of the same data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from .images import as_images
from .picture import Picture, chart, tiles
from .theme import Theme, canvas
from ..findings import kind_of
from ..several_runs import NUM_RECONSTRUCTED, Examples, SeveralRuns, same_data


@dataclass(frozen=True)
class StripCard:
    """Images of several runs, or the data themselves, in strips below each other: each a figure without a caption."""

    title: str
    caption: str
    rows: list[Picture]


def strips_of(runs: SeveralRuns) -> Iterator[StripCard]:
    """Samples and reconstructions of every run whose data are pictures."""
    samples = [
        _strip(name, f"data that {name} makes", one.samples, one)
        for name, one in zip(runs.names, runs.examples, strict=True)
    ]
    rows = [strip for strip in samples if strip is not None]
    if rows:
        yield StripCard("Samples from the prior", "New data: z from the prior, then the mean of p(x | z).", rows)
    for numbers in _by_data(runs.examples):
        one, run = runs.examples[numbers[0]], runs.runs[numbers[0]]
        source, part = run.data.name, run.held_out
        rows = []
        for number in numbers:
            own, name = runs.examples[number], runs.names[number]
            strip = _strip(name, f"the same data reconstructed by {name}", own.reconstructed, own)
            rows += [] if strip is None else [strip]
        before = _strip("the data", f"data of {source}", one.x, one)
        if rows and before is not None:
            yield StripCard(
                f"Reconstructions of {source}",
                f"{kind_of(part).capitalize()} data ({part}); below them, the mean of p(x | z) at each guide's mean.",
                [before, *rows],
            )


def _strip(name: str, what: str, x: Tensor | None, examples: Examples) -> Picture | None:
    images = None if x is None else as_images(x[: 2 * NUM_RECONSTRUCTED], examples.data)
    if images is None:
        return None
    return tiles(name, name, f"{len(images)} {what}.", "", images, min(len(images), NUM_RECONSTRUCTED), size=36)


def _by_data(examples: Sequence[Examples]) -> list[list[int]]:
    """The runs by number, those with the same held-out data together."""
    groups: list[list[int]] = []
    for number, one in enumerate(examples):
        group = next((group for group in groups if same_data(examples[group[0]], one)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


def scatters_of(runs: SeveralRuns) -> Iterator[Picture]:
    """Reconstructed against original values of every run whose data are no pictures."""
    for numbers in _by_data(runs.examples):
        chosen: dict[int, tuple[Any, Any]] = {}
        for number in numbers:
            one = runs.examples[number]
            if one.reconstructed is not None and as_images(one.x, one.data) is None:
                chosen[number] = (_few(one.x), _few(one.reconstructed))
        values = np.concatenate([value for pair in chosen.values() for value in pair] or [np.zeros(1)])
        reach = (float(values.min()), float(values.max()))
        for number, (before, after) in chosen.items():
            part = kind_of(runs.runs[number].held_out)
            yield chart(
                f"scatter-{number}",
                f"Reconstructions by {runs.names[number]}",
                "Scatter plot of reconstructed against original values, beside the diagonal.",
                f"Values of {part} data of {runs.runs[number].data.name} against the mean of p(x | z) at the "
                "guide's mean; the line is equality.",
                _scatter,
                before,
                after,
                reach,
            )


def _few(x: Tensor) -> Any:
    """At most 300 values, spread evenly over all."""
    values = x.detach().flatten().double().cpu().numpy()
    return values[np.linspace(0, len(values) - 1, min(300, len(values))).astype(int)]


def _scatter(before: Any, after: Any, reach: tuple[float, float], theme: Theme) -> Figure:
    figure, (axes,) = canvas(theme, 4.6)
    axes.plot(before, after, "o", color=theme.first, markersize=4, alpha=0.5, markeredgewidth=0)
    axes.plot(reach, reach, color=theme.second, lw=1.6)
    axes.set_xlabel("datum")
    axes.set_ylabel("reconstruction")
    return figure
