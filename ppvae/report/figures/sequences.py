"""Sequences: binary ones as piano rolls, real ones as lines, and the states of a chain of discrete latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .picture import Picture, chart, tiles
from .theme import LABELS, Theme
from ..findings import ReportData
from ..sequences import SequenceFindings

SEQUENCE_NAMES = ("sequences", "new_sequences", "states")
CHANNELS = 4  # of real values, those that vary most
_LINES = 3  # sequences drawn as lines
_END = 0.35  # how dark the line after the last step is
_STRIP = 20  # pixels, before they are enlarged, of all states together
_WIDTH = 320  # pixels, of which two fit into a page


def sequence_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of sequences, by name."""
    found = report.sequences
    if found is None:
        return {}
    pictures = _rolls(report, found) if found.binary else [_lines(report, found)]
    states = _states(report, found)
    return {picture.name: picture for picture in (*pictures, states) if picture is not None}


def roll(x: Tensor, lengths: Tensor) -> Tensor:
    """Sequences [N, T, D] as images [N, D, longest], time to the right and the last entry on top, a line after each
    end that is not that of the longest."""
    images = x[:, : int(lengths.max())].float().clamp(0, 1).mT.flip(1).clone()
    for image, length in zip(images, lengths.tolist(), strict=True):
        image[:, length : length + 1] = _END
    return images


def _used(*parts: Tensor) -> slice:
    """The entries that are ever one."""
    ever = torch.stack([(x > 0.5).flatten(0, 1).any(0) for x in parts]).any(0).nonzero().flatten()
    return slice(int(ever.min()), int(ever.max()) + 1) if len(ever) else slice(None)


def _rolls(report: ReportData, found: SequenceFindings) -> list[Picture]:
    used = _used(found.x, found.generated)
    names = report.data.feature_names
    ends = (used.start or 0, (used.stop or found.x.shape[2]) - 1)
    low, high = (f"entry {i + 1}" if names is None else names[i] for i in ends)
    how = f"Time runs to the right, one column a step; from below, {low} to {high}; the grey line is the end."
    data = roll(found.x[..., used], found.lengths)
    again = None if found.reconstructed is None else roll(found.reconstructed[..., used], found.lengths)
    beside = "" if again is None else " on the left; on the right, the mean of p(x | z) at the guide's mean"
    first = tiles(
        "sequences",
        "Sequences" if again is None else "Sequences and their reconstructions",
        f"Piano rolls of {len(data)} {report.kind} sequences{'' if again is None else ', each beside its mean'}.",
        f"{report.kind.capitalize()} data ({report.part}){beside}. {how} Grey is a probability: a blurred "
        "reconstruction is one that z does not settle."
        if again is not None
        else f"{report.kind.capitalize()} data ({report.part}). {how}",
        data if again is None else torch.stack((data, again), 1).flatten(0, 1),
        2,
        gap=6,
        size=_WIDTH,
    )
    second = tiles(
        "new_sequences",
        "New sequences",
        f"Piano rolls of {len(found.generated)} sequences drawn from the model.",
        f"Drawn from the model, latents and steps, each as long as a datum. {how} Compare how many are on at once, how "
        "long each holds, and what follows what, with the data.",
        roll(found.generated[..., used], found.new_lengths),
        2,
        gap=6,
        size=_WIDTH,
    )
    return [first, second]


def lines(found: SequenceFindings, channels: Sequence[int], names: Sequence[str], theme: Theme) -> Figure:
    """Rows of data with their reconstructions beside new sequences, a colour for each channel."""
    number = min(_LINES, len(found.x))
    columns = 1 if theme.narrow else 2
    rows = number * (2 // columns)
    figure = Figure(figsize=(theme.width, 0.9 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for place in range(number):
        own = grid[place if columns == 2 else 2 * place, 0]
        new = grid[place, 1] if columns == 2 else grid[2 * place + 1, 0]
        sides = (
            (own, found.x[place], int(found.lengths[place]), f"datum {place + 1}"),
            (new, found.generated[place], int(found.new_lengths[place]), f"new sequence {place + 1}"),
        )
        for axes, x, length, title in sides:
            steps = range(1, length + 1)
            for colour, channel in zip(LABELS, channels, strict=False):
                axes.plot(steps, x[:length, channel].numpy(), ".", color=colour, markersize=4, label=names[channel])
                if axes is own and found.reconstructed is not None:
                    axes.plot(steps, found.reconstructed[place, :length, channel].numpy(), color=colour, linewidth=1.5)
                else:
                    axes.plot(steps, x[:length, channel].numpy(), color=colour, linewidth=0.7, alpha=0.6)
            axes.set_title(title, pad=4, fontweight="normal")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    for axes in grid[-1]:
        axes.set_xlabel("step")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, markerscale=2.5)
    return figure


def _lines(report: ReportData, found: SequenceFindings) -> Picture:
    inside = found.x[torch.arange(found.x.shape[1]) < found.lengths[:, None]]
    order = inside.var(0).argsort(descending=True, stable=True)[:CHANNELS]
    size, names = inside.shape[1], report.data.feature_names
    names = tuple(f"channel {i + 1}" for i in range(size)) if names is None else names
    some = f" The {CHANNELS} of {size} channels that vary most." if size > CHANNELS else ""
    drawn = "" if found.reconstructed is None else " as points, and the mean of p(x | z) at the guide's mean as lines"
    return chart(
        "sequences",
        "Sequences, and new ones",
        f"Lines of {len(order)} channels over the steps of {min(_LINES, len(found.x))} {report.kind} sequences, and of "
        "as many drawn from the model.",
        f"Left, {report.kind} data{drawn}. Right, sequences drawn from the model, latents and noise, each as long as "
        f"the datum on its left: are they as smooth, as far apart and as wide as the data?{some}",
        lines,
        found,
        sorted(order.tolist()),
        names,
    )


def _states(report: ReportData, found: SequenceFindings) -> Picture | None:
    if found.states is None:
        return None
    number = found.states.shape[2]
    images = roll(found.states.nan_to_num(0.0), found.lengths).flip(1)  # the first state on top
    wide = max(1, _WIDTH // 4 // images.shape[2])
    tall = images.repeat_interleave(max(wide, _STRIP // number), 1).repeat_interleave(wide, 2)
    return tiles(
        "states",
        "Which state at each step",
        f"Strips of the probabilities of {number} states over the steps of {len(images)} {report.kind} sequences.",
        f"The probability of each of {number} states given the whole sequence, in full ink where it is one; time runs "
        f"to the right, the first state is on top, the grey line is the end. {report.kind.capitalize()} data, two a "
        "row. A state that is never inked is not used; steps with several grey states are not settled by the data.",
        tall,
        2,
        gap=6,
        size=_WIDTH,
    )
