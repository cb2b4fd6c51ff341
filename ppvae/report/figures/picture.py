"""One figure of a page: drawn as vectors, for a wide place and for a phone, or as pixels, for both themes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from .images import grid
from .theme import DARK, LIGHT, NARROW, draw, draw_inline


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its file, without ``.png``.
        title: its heading.
        caption: how to read it.
        body: the drawing as HTML, with its text alternative.
        png: draws it as a PNG file.
    """

    name: str
    title: str
    caption: str
    body: Markup
    png: Callable[[], bytes]


def chart(name: str, title: str, alt: str, caption: str, drawn: Callable[..., Figure], *args: Any) -> Picture:
    """A figure with axes.

    Args:
        name: unique in a page.
        title: its heading.
        alt: its text alternative.
        caption: how to read it.
        drawn: (*args, theme) to a figure.
        args: its arguments.
    """
    body = Markup('<div class="drawing" role="img" aria-label="{}"><div class="broad">{}</div>').format(
        alt, Markup(draw_inline(drawn, *args, theme=LIGHT, name=name))
    )
    body += Markup('<div class="slim">{}</div></div>').format(
        Markup(draw_inline(drawn, *args, theme=NARROW, name=f"{name}-n"))
    )
    return Picture(name, title, caption, body, lambda: draw(drawn, *args))


def tiles(name: str, title: str, alt: str, caption: str, images: Tensor, columns: int, **options: Any) -> Picture:
    """A figure of enlarged pixels; options of :func:`~.images.grid`."""
    light, dark = (grid(images, columns, theme, **options) for theme in (LIGHT, DARK))
    body = Markup(
        '<picture><source media="(prefers-color-scheme: dark)" srcset="{}">'
        '<img class="pixels" src="{}" alt="{}"></picture>'
    ).format(uri(dark), uri(light), alt)
    return Picture(name, title, caption, body, lambda: light)


def uri(content: bytes) -> str:
    """A PNG file as an address."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
