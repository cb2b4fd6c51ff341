"""Results as small pieces of HTML for notebooks: a few facts and an inline picture, in the colours of the page around.

Nothing here knows what a result is: numbers and words go in, a well-formed ``<div>`` comes out, all words escaped. Text
and axes take the colour of the notebook's own text, so that light and dark pages both do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

COLOURS = ("#3d85c6", "#d9772b", "#4c9f70", "#a86fb0")
"""Told apart, and readable, on white and on black; the first is the main colour, the second what to be wary of."""

WIDTH, HEIGHT = 300, 110
_LEFT, _BOTTOM, _TOP, _CAPTION = 50, 16, 14, 14
_POINTS = 1000  # of all lines together
_BINS = 30
_TABLE = 'style="border-collapse:collapse;margin:4px 0;font-size:inherit;color:inherit"'
MOST_ROWS = 20
"""Rows of a table or of a picture; more are counted."""


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; a dash where there is none.

    >>> number(-1.25, 1), number(float("nan"))
    ('−1.2', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if text.strip("-0.") else text.lstrip("-")


def with_error(value: float, error: float | None) -> str:
    """A number and its standard error, where it has one, in as many digits as tell the error, four at most.

    >>> with_error(-1.25, 0.53), with_error(-20.12345, 0.0034), with_error(1.0, float("nan"))
    ('−1.25 ± 0.53', '−20.1234 ± 0.0034', '1.00')
    """
    if error is None or not math.isfinite(error) or not math.isfinite(value):
        return number(value)
    digits = min(max(1 - math.floor(math.log10(error)), 2), 4) if error > 0 else 2
    return f"{number(value, digits)} ± {number(error, digits)}"


def panel(title: str, facts: Mapping[str, str], picture: str = "", notes: Iterable[str] = (), table: str = "") -> str:
    """A result: a title, facts by name, a picture beside them, and what is to be noted below.

    Args:
        title: in words.
        facts: name to value, in words.
        picture: SVG of this module; empty for none.
        notes: in words, a line each.
        table: HTML of :func:`table`; empty for none.
    """
    rows = "".join(
        f'<tr style="background:none"><th {_cell("left", muted=True)}>{escape(name)}</th>'
        f"<td {_cell('left')}>{escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    lines = "".join(f'<div style="margin-top:2px">{escape(note)}</div>' for note in notes)
    return (
        '<div style="font-size:13px;line-height:1.4;max-width:760px">'
        f'<div style="font-weight:600">{escape(title)}</div>'
        '<div style="display:flex;flex-wrap:wrap;gap:8px 24px;align-items:center">'
        f"<table {_TABLE}>{rows}</table>{picture}</div>{table}{lines}</div>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table: names in the first column, numbers in the others; rows beyond :data:`MOST_ROWS` are counted."""
    sides = ["left", *["right"] * (len(head) - 1)]
    lines = [[f"<th {_cell(side, muted=True)}>{escape(name)}</th>" for side, name in zip(sides, head, strict=True)]]
    for row in rows[:MOST_ROWS]:
        lines.append([f"<td {_cell(side)}>{escape(cell)}</td>" for side, cell in zip(sides, row, strict=True)])
    body = "".join(f'<tr style="background:none">{"".join(line)}</tr>' for line in lines)
    more = f"<div>and {len(rows) - MOST_ROWS} more</div>" if len(rows) > MOST_ROWS else ""
    return f"<table {_TABLE}>{body}</table>{more}"


def curves(
    series: Mapping[str, Sequence[float]], *, label: str, mark: tuple[int, float] | None = None, start: int = 0
) -> str:
    """Lines over 0, 1, 2, ..., each with its name where there are at most two; "" where no number is finite.

    Args:
        series: name to values; a value that is not finite is a gap.
        label: what is shown, in words.
        mark: place and value of a point to mark.
        start: the number under the first place.
    """
    values = [value for line in series.values() for value in line if math.isfinite(value)]
    if not values:
        return ""
    length = max(len(line) for line in series.values())
    low, high = _without_the_start(values) if len(series) <= 2 else (min(values), max(values))
    across, up = _Scale(0, max(1, length - 1), _LEFT, WIDTH - 4), _Scale(low, high, HEIGHT - _BOTTOM, _TOP)
    most = max(2, _POINTS // len(series))
    parts = []
    for i, line in enumerate(series.values()):
        step = max(1, math.ceil(len(line) / most))
        places = [*range(0, len(line), step), *([len(line) - 1] if (len(line) - 1) % step else [])]
        points = [(across(at), up(line[at])) if math.isfinite(line[at]) else None for at in places]
        parts.append(_path(points, COLOURS[i % len(COLOURS)]))
    if mark is not None and math.isfinite(mark[1]):
        parts.append(f'<circle cx="{across(mark[0]):.1f}" cy="{up(mark[1]):.1f}" r="3.5" fill="{COLOURS[1]}"/>')
    names = list(series) if len(series) <= 2 else []
    # What lies below the lowest value shown is cut off by the inner frame.
    inner = f'<svg x="{_LEFT - 5}" y="{_TOP - 5}" width="{WIDTH}" height="{HEIGHT - _BOTTOM - _TOP + 10}" '
    inner += f'viewBox="{_LEFT - 5} {_TOP - 5} {WIDTH} {HEIGHT - _BOTTOM - _TOP + 10}">{"".join(parts)}</svg>'
    return _frame(label, inner + _legend(names) + _axes(low, high, f"{start}", f"{start + length - 1}"))


def histogram(groups: Mapping[str, Sequence[float]], *, label: str) -> str:
    """Counts of values in bins, the groups on top of each other; "" where no number is finite.

    Args:
        groups: name to values, those that are not finite left out; the second group is what to be wary of.
        label: what is shown, in words.
    """
    groups = {name: [value for value in values if math.isfinite(value)] for name, values in groups.items()}
    values = [value for group in groups.values() for value in group]
    if not values:
        return ""
    low, high = min(values), max(values)
    bins = min(_BINS, max(1, math.ceil(2 * math.sqrt(len(values))))) if high > low else 1
    counts = {name: [0] * bins for name in groups}
    for name, group in groups.items():
        for value in group:
            share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0  # halves: no overflow
            counts[name][min(bins - 1, int(bins * share))] += 1
    tallest = max(sum(column) for column in zip(*counts.values(), strict=True))
    up, wide = _Scale(0, tallest, 0, HEIGHT - _BOTTOM - _TOP), (WIDTH - _LEFT - 4) / bins
    parts, base = [], [HEIGHT - float(_BOTTOM)] * bins
    for i, column in enumerate(counts.values()):
        for place, count in enumerate(column):
            if count:
                base[place] -= up(count)
                parts.append(
                    f'<rect x="{_LEFT + place * wide:.1f}" y="{base[place]:.1f}" width="{max(1.0, wide - 1):.1f}" '
                    f'height="{up(count):.1f}" fill="{COLOURS[i % len(COLOURS)]}"/>'
                )
    shown = [name if group else "" for name, group in groups.items()]
    axes = _axes(0, tallest, _short(low), _short(high))
    return _frame(label, "".join(parts) + _legend(shown) + axes)


def intervals(rows: Sequence[tuple[str, float, float]], *, label: str, reference: float | None = None) -> str:
    """Points with bars of two standard errors, one below the other; "" where no value is finite.

    Args:
        rows: name, value, standard error (NaN where unknown); beyond :data:`MOST_ROWS` they are left out.
        label: what is shown, in words.
        reference: a value with a line through it.
    """
    rows = [row for row in rows if math.isfinite(row[1])][:MOST_ROWS]
    if not rows:
        return ""
    ends = [value + side * 2 * (error if math.isfinite(error) else 0) for _, value, error in rows for side in (-1, 1)]
    ends += [] if reference is None or not math.isfinite(reference) else [reference]
    left = min(160, 8 + 6 * max(len(name) for name, *_ in rows))
    across = _Scale(min(ends), max(ends), left + 6, WIDTH - 6)
    step, height = 15, 15 * len(rows) + _BOTTOM
    parts = []
    if reference is not None and math.isfinite(reference):
        x = across(reference)
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - _BOTTOM}" stroke="currentColor" '
            'stroke-opacity="0.4" stroke-dasharray="3 3"/>'
        )
    for i, (name, value, error) in enumerate(rows):
        y, spread = step * (i + 0.5), 2 * error if math.isfinite(error) else 0.0
        short = name if len(name) <= 28 else name[:27] + "…"
        parts.append(_text(left, y + 3.5, short, "end"))
        parts.append(
            f'<line x1="{across(value - spread):.1f}" x2="{across(value + spread):.1f}" y1="{y}" y2="{y}" '
            f'stroke="{COLOURS[0]}" stroke-width="2"/>'
            f'<circle cx="{across(value):.1f}" cy="{y}" r="3" fill="{COLOURS[0]}"/>'
        )
    parts += [
        _text(left + 6, height - 4, _short(min(ends)), "start"),
        _text(WIDTH - 4, height - 4, _short(max(ends)), "end"),
    ]
    return _frame(label, "".join(parts), height)


def _cell(align: str, *, muted: bool = False) -> str:
    wrap = "normal" if align == "left" else "nowrap"
    shade = ";opacity:0.7;font-weight:normal" if muted else ""
    return f'style="text-align:{align};padding:1px 14px 1px 0;border:none;vertical-align:top;white-space:{wrap}{shade}"'


def _frame(label: str, content: str, height: float = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" width="{WIDTH}" '
        f'height="{height + _CAPTION}" viewBox="0 0 {WIDTH} {height + _CAPTION}" style="color:inherit;max-width:100%">'
        f"{content}{_text(WIDTH / 2, height + _CAPTION - 4, label, 'middle')}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "currentColor") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="10" fill="{colour}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(names: Sequence[str]) -> str:
    """The names in their colours, above the picture, to the right."""
    parts, right = [], WIDTH - 4.0
    for i, name in reversed(list(enumerate(names))):
        if name:
            parts.append(_text(right, 9, name, "end", COLOURS[i % len(COLOURS)]))
            right -= 6 * len(name) + 10
    return "".join(parts)


def _axes(low: float, high: float, first: str, last: str) -> str:
    """A line below the picture, and the ends of both axes."""
    bottom = HEIGHT - _BOTTOM
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH - 4}" y1="{bottom}" y2="{bottom}" stroke="currentColor" stroke-opacity="0.4"/>'
        + _text(_LEFT - 5, _TOP + 4, _short(high), "end")
        + _text(_LEFT - 5, bottom, _short(low), "end")
        + _text(_LEFT, HEIGHT - 3, first, "start")
        + _text(WIDTH - 4, HEIGHT - 3, last, "end")
    )


def _short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


class _Scale:
    """From numbers to places in the picture; halves, as the width of a range of large numbers may be infinite."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.width, self.start, self.end = low / 2, high / 2 - low / 2, start, end

    def __call__(self, value: float) -> float:
        share = (value / 2 - self.low) / self.width if self.width else 0.5
        return self.start + min(max(share, -10.0), 10.0) * (self.end - self.start)


def _without_the_start(values: Sequence[float]) -> tuple[float, float]:
    """The range to show: a bound starts far below where it spends its time."""
    ordered = sorted(values)
    low, middle, high = ordered[0], ordered[len(ordered) // 4], ordered[-1]
    return max(low, high - 3 * (high - middle)) if high > middle else low, high


def _path(points: Sequence[tuple[float, float] | None], colour: str) -> str:
    """A line with gaps; a point by itself is a dot."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            pieces.append([])
        else:
            pieces[-1].append(point)
    pieces = [piece for piece in pieces if piece]
    dots = "".join(
        f'<circle cx="{piece[0][0]:.1f}" cy="{piece[0][1]:.1f}" r="2" fill="{colour}"/>'
        for piece in pieces
        if len(piece) == 1
    )
    drawn = " ".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in piece) for piece in pieces if len(piece) > 1)
    line = f'<path d="{drawn}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.9"/>' if drawn else ""
    return line + dots
