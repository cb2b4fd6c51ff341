"""The look of figures: as PNG files on white, and as drawings in a page, whose colours are the page's own."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
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
"""Colours of classes, told apart on both pages; of marks, never of text, for which some are too light."""

FONT_SIZE = 11.5
"""Points, of which a page shows one as at least 0.96 px: no text of a figure is smaller than 11 px there."""
WIDTH, NARROW_WIDTH = 5.7, 3.95  # inches of 72 points: a place of 410 px or more; of 284 or more, on a phone


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
        narrow: for a phone: half as wide, panels below each other.
    """

    name: str
    paper: str
    ink: str
    muted: str
    rule: str
    first: str
    second: str
    ink_images: bool
    narrow: bool = False

    def settings(self) -> Any:
        """Settings of matplotlib, for an ``rc_context`` around all drawing."""
        return {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": FONT_SIZE,
            "axes.titlesize": FONT_SIZE,
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
            "legend.fontsize": FONT_SIZE,
            "xtick.labelsize": FONT_SIZE,
            "ytick.labelsize": FONT_SIZE,
            "svg.fonttype": "none",
            "svg.hashsalt": "ppvae",
            "text.parse_math": False,  # a dollar in a name is a dollar
        }


LIGHT = Theme("light", "#ffffff", "#1d2430", "#5d6778", "#e4e7ec", "#2d6cb5", "#b1510c", True)
DARK = Theme("dark", "#171a21", "#e9eaee", "#9aa3b2", "#323845", "#7db4ee", "#f3a365", False)
NARROW = replace(LIGHT, name="narrow", narrow=True)

# The page's variables (page.css) for the colours of a drawing.
_VARIABLES = {
    LIGHT.paper: "--card",
    LIGHT.ink: "--ink",
    LIGHT.muted: "--muted",
    LIGHT.rule: "--rule",
    LIGHT.first: "--first",
    LIGHT.second: "--second",
}


def canvas(theme: Theme, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of a height in inches, with panels side by side, below each other where narrow; pyplot's global state is
    not touched."""
    rows, columns = (columns, 1) if theme.narrow else (1, columns)
    figure = Figure(figsize=(NARROW_WIDTH if theme.narrow else WIDTH, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw(chart: Callable[..., Figure], *args: Any, theme: Theme = LIGHT, dpi: int = 144) -> bytes:
    """``chart(*args, theme)`` as a PNG file, the same bytes for the same arguments."""
    return _save(chart, *args, theme=theme, format="png", dpi=dpi, metadata={"Software": None})


def draw_inline(chart: Callable[..., Figure], *args: Any, theme: Theme, name: str) -> str:
    """``chart(*args, theme)`` as an SVG element of a page, as wide as its place; its colours are the page's variables.

    Args:
        chart: returns the figure.
        args: its arguments.
        theme: LIGHT or NARROW.
        name: unique in the page, of letters, digits, - and _.
    """
    text = _save(chart, *args, theme=theme, format="svg", dpi=144, metadata={"Date": None}).decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    # Names of groups say nothing here; names that are referred to must be the drawing's own in the page.
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = re.sub(r'xlink:href="', 'href="', body)
    body = re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg {box[0]} aria-hidden="true">{body}'


def _save(chart: Callable[..., Figure], *args: Any, theme: Theme, **options: Any) -> bytes:
    with rc_context(theme.settings()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a name in another script, which a browser can show
        buffer = io.BytesIO()
        chart(*args, theme).savefig(buffer, **options)
    return buffer.getvalue()
