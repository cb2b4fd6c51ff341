"""One self-contained page of HTML: nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from ..figures.pictures import Picture


def page(title: str, body: str, script: str = "") -> str:
    """The whole page around its content."""
    template = _resource("page.html")
    parts = {"/*STYLE*/": _resource("page.css"), "<!--TITLE-->": escape(title), "<!--SCRIPT-->": script}
    for mark, text in parts.items():
        template = template.replace(mark, text, 1)
    return template.replace("<!--CONTENT-->", body, 1)


def explorer(data: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """The interactive manifold: its markup, and its script with the data."""
    # "</" would end the script element: a title or label must not be able to.
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    markup = (
        '<figure class="wide" id="manifold-explorer"><figcaption><h3>Walk through the latent plane</h3>'
        '<p class="caption">Move the pointer (or a finger, or the arrow keys) over the plane: beside it is what the '
        f"decoder makes of that point. Dots are {kind} data.</p></figcaption>"
        '<div class="explore"><canvas class="plane" id="manifold-plane" tabindex="0" role="application" '
        f'aria-label="The latent plane with {kind} data. Arrow keys move the point that is decoded."></canvas>'
        '<div><canvas class="decoded" id="manifold-image" role="img" aria-label="The decoded image"></canvas>'
        '<p class="where" id="manifold-where" aria-live="polite"></p></div></div></figure>'
    )
    return markup, f'<script type="application/json" id="manifold-data">{text}</script>\n' + _resource("explore.html")


def figure(picture: Picture, *, wide: bool = False) -> str:
    """A figure in both themes, with its heading, caption and text alternative."""
    pixels = ' class="pixels"' if picture.pixels else ""
    return (
        f'<figure{" class=wide" if wide else ""} id="{escape(picture.name)}"><figcaption>'
        f'<h3>{escape(picture.title)}</h3><p class="caption">{escape(picture.caption)}</p></figcaption>'
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{_uri(picture.dark)}">'
        f'<img{pixels} src="{_uri(picture.light)}" alt="{escape(picture.alt)}"></picture></figure>'
    )


def tiles(items: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: (name as HTML, number as HTML, note)."""
    cells = "".join(
        f'<div class="tile"><dt>{name}</dt><dd>{number}<span class="note">{escape(note)}</span></dd></div>'
        for name, number, note in items
    )
    return f'<dl class="tiles">{cells}</dl>'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """A table of names and values; values are HTML."""
    rows = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{value}</td></tr>' for name, value in items)
    return f'<div class="card"><div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div></div>'


def table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns are (name, whether numbers), cells are HTML, the first of a row is its heading."""
    head = "".join(f'<th scope="col"{_numeric(number)}>{escape(name)}</th>' for name, number in columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{cell}</th>' if place == 0 else f"<td{_numeric(columns[place][1])}>{cell}</td>"
            for place, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="card"><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></div>"
    )


def details(summary: str, body: str) -> str:
    """Something that opens."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def code(text: str) -> str:
    """A block of text as it is."""
    return f"<pre><code>{escape(text)}</code></pre>"


def number(value: float | None, digits: int) -> str:
    """A number with a true minus sign; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _numeric(yes: bool) -> str:
    return ' class="n"' if yes else ""


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
