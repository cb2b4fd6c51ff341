"""One figure of a page: drawn as vectors, for a wide place and for a phone, or as pixels, for both themes."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from .images import grid
from .theme import BROAD, DARK, LIGHT, NARROW, draw, draw_inline


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its file, without ``.png``.
        title: its heading.
        alt: its text alternative.
        caption: how to read it.
        drawing: as HTML, without words.
        png: draws it as a PNG file.
    """

    name: str
    title: str
    alt: str
    caption: str
    drawing: Markup
    png: Callable[[], bytes]


def of_site(name: str, title: str, label: str) -> tuple[str, str]:
    """Name and title of a figure that there is for each of several sites; as they are where the label is empty."""
    return (f"{name}_{re.sub(r'[^0-9A-Za-z]', '-', label)}", f"{title}: {label}") if label else (name, title)


def of_names(pictures: Mapping[str, Picture], names: Sequence[str]) -> list[str]:
    """The figures of these names, each for all of its sites, in the order of the names."""
    return [full for name in names for full in pictures if full == name or full.startswith(f"{name}_")]


def chart(
    name: str, title: str, alt: str, caption: str, drawn: Callable[..., Figure], *args: Any, broad: bool = False
) -> Picture:
    """A figure with axes.

    Args:
        name: unique in a page.
        title: its heading.
        alt: its text alternative.
        caption: how to read it.
        drawn: (*args, theme) to a figure, as wide as the theme says.
        args: its arguments.
        broad: whether it has a row to itself.
    """
    theme = replace(LIGHT, width=BROAD) if broad else LIGHT
    desk, png = draw_inline(drawn, *args, theme=theme, name=f"{name}-{theme.name}")
    phone, _ = draw_inline(drawn, *args, theme=NARROW, name=f"{name}-{NARROW.name}")
    drawing = Markup('<div class="{}"><div class="desk">{}</div><div class="phone">{}</div></div>').format(
        "broad" if broad else "half", Markup(desk), Markup(phone)
    )
    return Picture(name, title, alt, caption, drawing, (lambda: draw(drawn, *args)) if broad else png)


def tiles(name: str, title: str, alt: str, caption: str, images: Tensor, columns: int, **options: Any) -> Picture:
    """A figure of enlarged pixels; options of :func:`~.images.grid`."""
    light, dark = (grid(images, columns, theme, **options) for theme in (LIGHT, DARK))
    drawing = Markup(
        '<picture><source media="(prefers-color-scheme: dark)" srcset="{}">'
        '<img class="pixels" src="{}" alt=""></picture>'
    ).format(_uri(dark), _uri(light))
    return Picture(name, title, alt, caption, drawing, lambda: light)


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
