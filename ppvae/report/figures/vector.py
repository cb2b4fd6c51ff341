"""Figures as vectors inside the page: one drawing for both themes, whose colours are those of the page's style."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from .theme import Theme

WIDE, NARROW = 800, 300
"""Pixels across of a drawing at its own size, where its text is of 12 pixels: on a desk, and on a phone."""

# Colours that no other colour of a figure equals: each stands for a variable of the page's style.
_PAGE = Theme("page", "#fe0001", "#fe0002", "#fe0003", "#fe0004", "#fe0005", "#fe0006", True)
_VARIABLES = {
    _PAGE.paper: "card",
    _PAGE.ink: "ink",
    _PAGE.muted: "muted",
    _PAGE.rule: "rule",
    _PAGE.first: "first",
    _PAGE.second: "second",
}
_HEAD = re.compile(r"<svg [^>]*?viewBox=\"([^\"]*)\"[^>]*>")
_NOT_SHOWN = re.compile(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", re.DOTALL)
_NAMES = re.compile(r" id=\"[A-Za-z0-9.]+_\d+\"")


@dataclass(frozen=True)
class Drawing:
    """One figure of the page.

    Attributes:
        name: of the element.
        title: its heading.
        alt: its text alternative.
        caption: how to read it.
        wide: SVG for a desk.
        narrow: the same, drawn for a phone.
    """

    name: str
    title: str
    alt: str
    caption: str
    wide: str
    narrow: str


def drawing(
    name: str, title: str, alt: str, caption: str, chart: Callable[..., Figure], *args: Any, wide: int = WIDE
) -> Drawing:
    """``chart(*args, theme, pixels)`` for a wide and for a narrow page."""
    return Drawing(name, title, alt, caption, _svg(f"{name}-wide", chart, args, wide), _svg(name, chart, args, NARROW))


def _svg(name: str, chart: Callable[..., Figure], args: tuple[Any, ...], pixels: int) -> str:
    """An ``svg`` element: the same text for the same arguments, hidden from screen readers, who get the alternative."""
    settings = {
        **_PAGE.settings(),
        "font.size": 9,  # points: 12 pixels
        "axes.titlesize": 9,
        "axes.titleweight": "normal",
        "axes.titlepad": 7,
        "lines.linewidth": 1.5,
        "svg.hashsalt": name,  # names of its parts that no other drawing of the page has
        "text.parse_math": False,
    }
    with rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has it
        buffer = io.StringIO()
        chart(*args, _PAGE, pixels).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = _NAMES.sub("", _NOT_SHOWN.sub("", text[text.index("<svg ") :]))
    text = text.replace("'DejaVu Sans', sans-serif", "var(--font, system-ui, sans-serif)")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return _HEAD.sub(r'<svg viewBox="\1" aria-hidden="true">', text, count=1)


def elide(text: str, length: int) -> str:
    """A text of so many characters at most, without its middle."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: (length - 1) // 2]}…{text[len(text) - length // 2 :]}"
