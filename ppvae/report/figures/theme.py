"""The look of figures, on a light page and on a dark one."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS = (
    "#4e79a7",
    "#f28e2b",
    "#e15759",
    "#59a14f",
    "#b07aa1",
    "#d4a92a",
    "#3fa7a0",
    "#f06f9f",
    "#9c755f",
    "#8a8f98",
)
"""Colours of classes, told apart on both pages."""


@dataclass(frozen=True)
class Theme:
    """Colours of one page.

    Attributes:
        name: "light" or "dark".
        paper: behind everything (figures themselves are transparent).
        ink: text.
        muted: secondary text.
        rule: grid lines and frames.
        first: the main colour: training, estimates.
        second: the other colour: held-out data.
        ink_images: whether high values of a grey image are dark.
    """

    name: str
    paper: str
    ink: str
    muted: str
    rule: str
    first: str
    second: str
    ink_images: bool

    def settings(self) -> Any:
        """Settings of matplotlib, for an ``rc_context`` around all drawing."""
        return {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10.5,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titleweight": "bold",
            "axes.titlepad": 12,
            "axes.labelcolor": self.muted,
            "axes.edgecolor": self.rule,
            "axes.facecolor": "none",
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.spines.left": False,
            "grid.color": self.rule,
            "grid.linewidth": 0.8,
            "text.color": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.major.size": 0,
            "ytick.major.size": 0,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
            "lines.solid_capstyle": "round",
            "figure.facecolor": "none",
            "savefig.facecolor": "none",
            "svg.fonttype": "none",
        }


LIGHT = Theme("light", "#ffffff", "#1d2430", "#667085", "#e4e7ec", "#2d6cb5", "#d96c1f", True)
DARK = Theme("dark", "#171a21", "#e9eaee", "#9aa3b2", "#323845", "#7db4ee", "#f3a365", False)


def canvas(theme: Theme, width: float = 7.2, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure in inches, with axes side by side; pyplot's global state is not touched."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def draw(chart: Callable[..., Figure], *args: Any, theme: Theme, dpi: int = 144) -> bytes:
    """``chart(*args, theme)`` as a PNG file, the same bytes for the same arguments."""
    with rc_context(theme.settings()):
        figure = chart(*args, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
