"""The graph of a latent-variable model, and its drawing."""

from __future__ import annotations

import graphlib
import unicodedata
from dataclasses import dataclass
from html import escape

import numpy as np

from .description import Description, Program
from .graph_layout import Box, Curve, place
from .variables import gaps_of

_FONT = 14  # pixels
_LETTER = 0.61 * _FONT  # the width of a letter of a monospaced font
_ROUND = ("latent", "label", "observed")  # kinds that have a distribution
_PAD, _CAPTION = 18.0, 16.0


@dataclass(frozen=True)
class Node:
    """A variable.

    Attributes:
        name: of the variable.
        kind: "latent", "label", "observed", "features", "covariate", "exposure", "mask" or "lengths".
        words: what it is, in a line.
    """

    name: str
    kind: str
    words: str


@dataclass(frozen=True)
class Arrow:
    """What a variable depends on.

    Attributes:
        parent: name of a variable.
        child: of the one that depends on it.
        program: the one of the two programs in which it does.
    """

    parent: str
    child: str
    program: Program


@dataclass(frozen=True)
class Graph:
    """The variables of a model, and what depends on what: see :meth:`.LatentModel.graph`.

    A notebook draws it.

    Attributes:
        nodes: the variables, as they were declared.
        arrows: of the model, then of the guide, in the order in which each computes its variables; an observed
            variable depends, in the model, on what says where it has gaps.
        num_data: the size N of the plate over data; None where it is not known.
    """

    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]
    num_data: int | None = None

    def rows(self) -> dict[str, int]:
        """The row of every variable, from 0 at the top.

        It is the length of the longest path to it from the roots of the model; a root stands right above the first
        that depends on it, features of the guide alone above what they are made of, and what else is given to the
        guide alone at the bottom.
        """
        parents, children = self._neighbours("model")
        known = {name for name in parents if parents[name] or children[name]}
        known |= {node.name for node in self.nodes if node.kind in _ROUND}
        rows: dict[str, int] = {}
        for name in graphlib.TopologicalSorter(parents).static_order():
            if name in known:
                rows[name] = max((rows[parent] + 1 for parent in parents[name]), default=0)
        for name in known:
            if children[name] and not parents[name]:
                rows[name] = min(rows[child] for child in children[name]) - 1
        bottom = max(rows.values(), default=0)
        above, _ = self._neighbours("guide")
        of_guide = {name: set(above[name]) - known for name in above if name not in known}
        for name in graphlib.TopologicalSorter(of_guide).static_order():
            rows[name] = max(max((rows[parent] for parent in above[name]), default=bottom + 1) - 1, 0)
        return {node.name: rows[node.name] for node in self.nodes}

    def _neighbours(self, program: Program) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """The parents of every variable in a program, and what depends on it."""
        parents: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        children: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for arrow in self.arrows:
            if arrow.program == program:
                parents[arrow.child].append(arrow.parent)
                children[arrow.parent].append(arrow.child)
        return parents, children

    # --- drawings ---------------------------------------------------------------------------------

    def to_svg(self, standalone: bool = True) -> str:
        """A drawing: an ``<svg>`` element in the colour of the text around it.

        A latent is an open circle, an observed variable a grey one, a label half of each; what is given is a square,
        features are a box with round corners. Arrows of the model are solid, those of the guide dashed. What a
        variable is stands in its tooltip.

        Args:
            standalone: whether it can be a file of its own, and not only an element of a page.
        """
        namespace = 'xmlns="http://www.w3.org/2000/svg" ' if standalone else ""
        boxes, curves = place(
            {node.name: _size(node) for node in self.nodes},
            self.rows(),
            [(arrow.parent, arrow.child) for arrow in self.arrows],
        )
        drawn = [_arrow(curve, arrow.program) for curve, arrow in zip(curves, self.arrows, strict=True)]
        drawn += [_node(node, boxes[node.name]) for node in self.nodes]
        points = np.concatenate([box.corners for box in boxes.values()] + [curve.along() for curve in curves])
        (left, top), (right, bottom) = points.min(axis=0) - _PAD, points.max(axis=0) + _PAD
        plate = "data" if self.num_data is None else f"data, N = {self.num_data}"
        short = max(_width(plate) * 0.9 + 2 * _PAD - (right - left), 0.0) / 2
        left, right, bottom = left - short, right + short, bottom + _CAPTION
        width, height = right - left, bottom - top
        words = "Model: {}. Guide: {}.".format(*(self._in_words(program) for program in ("model", "guide")))
        return (
            f'<svg {namespace}viewBox="{left - 1:.1f} {top - 1:.1f} {width + 2:.1f} '
            f'{height + 2:.1f}" width="{width + 2:.0f}" height="{height + 2:.0f}" style="max-width:100%;height:auto" '
            f'role="img" aria-label="{escape(words)}" color="currentColor" fill="none" stroke="currentColor" '
            f'stroke-width="1.4" font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" '
            f'font-size="{_FONT}">'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="12" '
            f'stroke-opacity=".4"/>{_text(right - 12, bottom - 10, plate, "end", 0.9 * _FONT)}{"".join(drawn)}</svg>'
        )

    def _in_words(self, program: Program) -> str:
        """The arrows of a program, for those who do not see them."""
        found = [f"{arrow.parent} to {arrow.child}" for arrow in self.arrows if arrow.program == program]
        return ", ".join(found) or "no arrows"

    def _repr_svg_(self) -> str:
        return self.to_svg()

    def _repr_html_(self) -> str:
        # Notebooks show an SVG as an image apart, which knows nothing of the colour of the page's text.
        return self.to_svg(standalone=False)

    def to_dot(self) -> str:
        """The same for Graphviz, as text: ``dot -Tsvg``."""
        fills = {"observed": "filled", "label": "filled", "features": "rounded"}
        plate = "data" if self.num_data is None else f"data, N = {self.num_data}"
        lines = ["digraph {", "  subgraph cluster_data {", f"    label={_quoted(plate)};", "    labeljust=r;"]
        for node in self.nodes:
            options = {"shape": "ellipse" if node.kind in _ROUND else "box", "style": fills.get(node.kind, "solid")}
            options |= {"fillcolor": "lightgrey:white" if node.kind == "label" else "lightgrey"}
            options |= {"tooltip": node.words}
            told = ", ".join(f"{key}={_quoted(value)}" for key, value in options.items())
            lines.append(f"    {_quoted(node.name)} [{told}];")
        lines.append("  }")
        for arrow in self.arrows:
            dashed = ' [style="dashed", constraint="false"]' if arrow.program == "guide" else ""
            lines.append(f"  {_quoted(arrow.parent)} -> {_quoted(arrow.child)}{dashed};")
        return "\n".join([*lines, "}", ""])


def graph_of(description: Description, num_data: int | None = None) -> Graph:
    """The graph of a description.

    Args:
        description: of a model.
        num_data: the number of its data, where it is to be told.
    """
    variables = description.variables
    nodes = [Node(name, type(v).__name__.lower(), description.described(name)) for name, v in variables.items()]
    arrows = [
        Arrow(parent, name, program)
        for program, order in description.orders.items()
        for name in order
        for parent in (
            *description.parents(name, program),
            *(gaps_of(variables[name]) if program == "model" else ()),
        )
    ]
    return Graph(tuple(nodes), tuple(dict.fromkeys(arrows)), num_data)


# --- below: pieces of SVG -------------------------------------------------------------------------


def _width(text: str) -> float:
    """Of a text, in pixels."""
    return _LETTER * sum(2 if unicodedata.east_asian_width(letter) in "FW" else 1 for letter in text)


def _size(node: Node) -> Box:
    """A shape that its name fits into."""
    width = _width(node.name)
    if node.kind in _ROUND:
        return Box(max(44.0, width + 24), 44.0, 22.0)
    if node.kind == "features":
        return Box(max(44.0, width + 22), 34.0, 10.0)
    return Box(max(30.0, width + 14), 30.0, 2.0)


def _node(node: Node, box: Box) -> str:
    (left, top), (_, bottom) = box.corners
    shape = f'<rect x="{left:.1f}" y="{top:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="{box.radius:g}"'
    grey = 'fill="currentColor" fill-opacity=".22"'
    half = ""
    if node.kind == "label":
        r = box.radius
        half = (
            f'<path d="M{box.x:.1f} {top:.1f}H{left + r:.1f}A{r:g} {r:g} 0 0 0 {left + r:.1f} {bottom:.1f}'
            f'H{box.x:.1f}Z" {grey} stroke="none"/>'
        )
    filled = f" {grey}" if node.kind == "observed" else ""
    words = f"<title>{escape(f'{node.name}: {node.words}')}</title>"
    return (
        f'<g class="{escape(node.kind)}" pointer-events="all">{words}{half}{shape}{filled}/>'
        f"{_text(box.x, box.y, node.name, 'middle', _FONT)}</g>"
    )


def _text(x: float, y: float, text: str, anchor: str, size: float) -> str:
    lower = y + 0.34 * size if anchor == "middle" else y
    return (
        f'<text x="{x:.1f}" y="{lower:.1f}" text-anchor="{anchor}" font-size="{size:g}" fill="currentColor" '
        f'stroke="none">{escape(text)}</text>'
    )


def _arrow(curve: Curve, program: Program) -> str:
    (x0, y0), (x1, y1), (x2, y2) = curve.points
    ahead = curve.tip - curve.points[2]
    aside = np.array([-ahead[1], ahead[0]]) / max(float(np.linalg.norm(ahead)), 1e-6) * 3.6
    corners = (curve.tip, curve.points[2] + aside, curve.points[2] - aside)
    head = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    dashed = ' stroke-dasharray="4 4"' if program == "guide" else ""
    return (
        f'<g class="{program}"><path d="M{x0:.1f} {y0:.1f}Q{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}"{dashed}/>'
        f'<polygon points="{head}" fill="currentColor" stroke="none"/></g>'
    )


def _quoted(text: str) -> str:
    """A string of the DOT language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
