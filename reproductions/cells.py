"""What every reproduction shares: cells that resume, and keep what they found with what it came from."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ppvae.report.figures.theme import LIGHT
from ppvae.runs.storage.atomic import make_folder, write_text
from ppvae.runs.training import provenance

Found = Mapping[str, Mapping[str, Any]]
"""Of each cell, by its name, what it found; cells that were not worked through are absent."""


Pictures = Mapping[str, Callable[[], Figure]]
"""By name, what draws a picture."""


@dataclass(frozen=True)
class Size:
    """How large the experiments are.

    Attributes:
        quick: the bundled digits and small nets, in minutes.
        samples: training data seen by the end of a run.
        runs: the folder of run folders, which an interrupted cell goes on from.
        results: the folder of results and pictures.
    """

    quick: bool
    samples: float
    runs: Path
    results: Path


@dataclass(frozen=True)
class Cell:
    """A part of an experiment that is worked through at once.

    Attributes:
        name: within its figure.
        work: does it, and keeps what it finds.
    """

    name: str
    work: Callable[[Bench], None]


@dataclass
class Bench:
    """Where a cell is worked through.

    Attributes:
        size: how large.
        folder: its own, for run folders.
        path: the file of what it found.
        found: what it found so far, in this and in earlier sessions.
    """

    size: Size
    folder: Path
    path: Path
    found: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))
        self._since = time.perf_counter()

    def keep(self, **values: Any) -> None:
        """Add to what was found, and write it with the versions and the wall time that it took."""
        now = time.perf_counter()
        seconds = self.found.get("seconds", 0.0) + now - self._since
        self._since = now
        self.found |= values | {"seconds": round(seconds, 1), "versions": versions()}
        make_folder(self.path.parent)
        write_text(self.path, json.dumps(self.found, indent=1) + "\n")

    def keep_figure(self, name: str, draw: Callable[[], Figure]) -> None:
        """Write a picture as PNG and SVG."""
        save_figure(self.path.parent / name, draw)


def versions() -> dict[str, str]:
    """What numbers depend on beside recipe, seed and data."""
    return {**provenance.versions(), "python": platform.python_version(), "machine": platform.machine()}


def save_figure(path: Path, draw: Callable[[], Figure]) -> None:
    """Draw in the house's style, and write PNG and SVG files that are the same for the same figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paper: Any = {"figure.facecolor": LIGHT.paper, "savefig.facecolor": LIGHT.paper, "svg.hashsalt": path.name}
    with rc_context({**LIGHT.settings(), **paper}):
        figure = draw()
        figure.savefig(path.with_suffix(".png"), dpi=110, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def samples_axis(axes: Axes, title: str = "", shown: Sequence[float] = ()) -> None:
    """Training samples seen, on a logarithmic axis; a curve far below what is to be shown leaves the picture."""
    if shown and axes.get_ylim()[0] < (lowest := min(shown) - 0.5 * (max(shown) - min(shown)) - 10):
        axes.set_ylim(lowest, max(shown) + 5)
    axes.set(xscale="log", xlabel="training samples seen", title=title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+0", "e")))
    axes.xaxis.set_minor_formatter(NullFormatter())
