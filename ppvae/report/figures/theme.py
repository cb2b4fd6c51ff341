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
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

LABELS = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
"""Ten colours that the colour-blind can tell apart (Petroff 2021, arXiv 2107.02270), on both pages; of marks, never of
text, for which some are too light."""

FONT_SIZE = 11.5
"""Units, of which a page shows one as at least 0.96 px: no text of a figure is smaller than 11 px there."""
BROAD = 11.2
"""Inches: a figure that has a row of the page to itself."""


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
        width: of a figure, inches of 72 units: a page shows a unit as at least 0.96 px.
    """

    name: str
    paper: str
    ink: str
    muted: str
    rule: str
    first: str
    second: str
    ink_images: bool
    width: float = 5.7  # for a place of 410 px or more

    @property
    def narrow(self) -> bool:
        """Whether it is for a phone: panels stand below each other."""
        return self.width <= NARROW.width

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
            "text.parse_math": False,
        }


LIGHT = Theme("light", "#ffffff", "#1d2430", "#5d6778", "#e4e7ec", "#2d6cb5", "#b1510c", True)
DARK = Theme("dark", "#171a21", "#e9eaee", "#9aa3b2", "#323845", "#7db4ee", "#f3a365", False)
NARROW = replace(LIGHT, name="narrow", width=3.95)

# The page's variables (page.css) for the colours of a drawing.
_VARIABLES = {
    LIGHT.paper: "--card",
    LIGHT.ink: "--ink",
    LIGHT.muted: "--muted",
    LIGHT.rule: "--rule",
    LIGHT.first: "--first",
    LIGHT.second: "--second",
}

_HEAD = re.compile(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>")
_NOT_SHOWN = re.compile(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.DOTALL)
_NAMES = re.compile(r" id=\"[A-Za-z0-9.]+_\d+\"")
_LARGEST = 1.6  # pixels a unit: a figure alone in its row


def canvas(theme: Theme, height: float = 3.6, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of a height in inches, with panels side by side, below each other where narrow; pyplot's global state is
    not touched."""
    rows, columns = (columns, 1) if theme.narrow else (1, columns)
    figure = Figure(figsize=(theme.width, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def draw(chart: Callable[..., Figure], *args: Any, theme: Theme = LIGHT, dpi: int = 144) -> bytes:
    """``chart(*args, theme)`` as a PNG file, the same bytes for the same arguments."""
    return _save(_make(chart, *args, theme=theme), theme, format="png", dpi=dpi, metadata={"Software": None})


def draw_inline(chart: Callable[..., Figure], *args: Any, theme: Theme, name: str) -> tuple[str, Callable[[], bytes]]:
    """``chart(*args, theme)`` as an SVG element of a page, as wide as its place; its colours are the page's variables.

    Args:
        chart: returns the figure.
        args: its arguments.
        theme: LIGHT or NARROW, perhaps of another width.
        name: unique in the page, of letters, digits, - and _.

    Returns:
        the element, and a function that writes the same figure as a PNG file.
    """
    figure = _make(chart, *args, theme=theme)
    # The salt makes names of parts that no other drawing of the page has.
    text = _save(figure, theme, salt=name, format="svg", dpi=144, metadata={"Date": None}).decode()
    figure.set_layout_engine("none")  # it is laid out, which takes longer than to draw it
    text = _NAMES.sub("", _NOT_SHOWN.sub("", text[text.index("<svg") :])).replace("xlink:href", "href")
    text = re.sub("|".join(_VARIABLES), lambda match: f"var({_VARIABLES[match[0]]})", text)
    text = re.sub(r"\n\s*", "\n", text)
    widest = round(theme.width * 72 * _LARGEST)
    text = _HEAD.sub(rf'<svg viewBox="\1" style="max-width: {widest}px" aria-hidden="true">', text, count=1)
    return text, lambda: _save(figure, theme, format="png", dpi=144, metadata={"Software": None})


def plain_numbers(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of a logarithmic axis, written as plain numbers."""
    axis.axes.autoscale_view()
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 30 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def elide(text: str, length: int) -> str:
    """A text of so many characters at most, without its middle."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: (length - 1) // 2]}…{text[len(text) - length // 2 :]}"


def _make(chart: Callable[..., Figure], *args: Any, theme: Theme) -> Figure:
    with rc_context(theme.settings()):
        return chart(*args, theme)


def _save(figure: Figure, theme: Theme, *, salt: str = "", **options: Any) -> bytes:
    with rc_context({**theme.settings(), "svg.hashsalt": salt or None}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a browser has it
        buffer = io.BytesIO()
        figure.savefig(buffer, **options)
    return buffer.getvalue()
