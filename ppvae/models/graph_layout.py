"""Where a layered graph stands on paper: the places of its nodes, and edges that go around those they do not join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

ROW, GAP = 86.0, 34.0
"""Between the centres of two rows, and between two nodes of a row, in pixels."""
CLEAR = 6.0
"""The least distance between an edge and a node that it does not join, where there is a way."""
_TIP, _HEAD = 2.0, 8.0  # an arrow's distance from its node, and the length of its head
_APART = 7.0  # edges that are nearer to each other than that cross, or run into one another
_BENDS = (0.0, *(sign * 22.0 * i for i in range(1, 31) for sign in (1, -1)))
_PARTS = (0.5, 0.2, 0.8, -0.1, 1.1)  # of the way, where it bends; the first wherever that goes through no node
_CROSSING = 10_000.0  # more than any way is long
_STEPS = np.linspace(0.0, 1.0, 241)[:, None]


@dataclass(frozen=True)
class Box:
    """A box of round corners: a circle where the radius is half of both sides.

    Attributes:
        width: of the box, in pixels, as all that follows.
        height: of the box.
        radius: of its corners.
        x: of its centre, to the right.
        y: of its centre, downwards.
    """

    width: float
    height: float
    radius: float
    x: float = 0.0
    y: float = 0.0

    @property
    def corners(self) -> np.ndarray:
        """Upper left and lower right, [2, 2]."""
        half = np.array([self.width, self.height]) / 2
        corners: np.ndarray = np.stack([self.centre - half, self.centre + half])
        return corners

    @property
    def centre(self) -> np.ndarray:
        """[2]."""
        centre: np.ndarray = np.array([self.x, self.y])
        return centre

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Of points [P, 2] from the outline, negative inside: [P]."""
        out = np.abs(points - self.centre) - np.array([self.width, self.height]) / 2 + self.radius
        distance: np.ndarray = np.linalg.norm(np.maximum(out, 0.0), axis=1)
        distance += np.minimum(out.max(axis=1), 0.0) - self.radius
        return distance


class Curve(NamedTuple):
    """An arrow's way.

    Attributes:
        points: start, control point and end of a quadratic curve, [3, 2]; its head begins where it ends.
        tip: of its head, [2].
    """

    points: np.ndarray
    tip: np.ndarray

    def along(self) -> np.ndarray:
        """Points of the way, the tip last, [P, 2]."""
        return np.concatenate([_along(self.points), self.tip[None]])


def place(
    sizes: Mapping[str, Box], rows: Mapping[str, int], pairs: Iterable[tuple[str, str]]
) -> tuple[dict[str, Box], list[Curve]]:
    """A place for every node, and a way for every edge.

    Args:
        sizes: name to its box, at any place.
        rows: name to its row, counted downwards.
        pairs: which node leads to which; the first find their ways first.

    Returns:
        name to its box, and a curve a pair.
    """
    pairs = list(pairs)
    order = {row: [name for name in sizes if rows[name] == row] for row in sorted(set(rows.values()))}
    boxes = _best_order(order, sizes, sorted(set(pairs)))
    curves: list[Curve] = []
    for start, end in pairs:
        others = [box for name, box in boxes.items() if name not in (start, end)]
        taken = np.concatenate([curve.along() for curve in curves]) if curves else np.zeros((0, 2))
        curves.append(_way(boxes[start], boxes[end], others, taken))
    return boxes, curves


# --- nodes ----------------------------------------------------------------------------------------


def _best_order(
    order: Mapping[int, Sequence[str]], sizes: Mapping[str, Box], pairs: Sequence[tuple[str, str]]
) -> dict[str, Box]:
    """Places of an order of every row that no exchange of two nodes makes better."""
    best = _places(order, sizes)
    least = _badness(best, pairs)
    better = True
    while better:
        better = False
        for changed in _exchanges(order):
            places = _places(changed, sizes)
            badness = _badness(places, pairs)
            if badness < least - 1e-6:
                order, best, least, better = changed, places, badness, True
                break
    return best


def _exchanges(order: Mapping[int, Sequence[str]]) -> Iterator[dict[int, list[str]]]:
    for row, names in order.items():
        for i, j in combinations(range(len(names)), 2):
            changed = list(names)
            changed[i], changed[j] = changed[j], changed[i]
            yield {key: changed if key == row else list(value) for key, value in order.items()}


def _places(order: Mapping[int, Sequence[str]], sizes: Mapping[str, Box]) -> dict[str, Box]:
    """Every row centred."""
    places = {}
    for i, names in enumerate(order.values()):
        x = -(sum(sizes[name].width for name in names) + GAP * (len(names) - 1)) / 2
        for name in names:
            places[name] = replace(sizes[name], x=x + sizes[name].width / 2, y=i * ROW)
            x += sizes[name].width + GAP
    return places


def _badness(places: Mapping[str, Box], pairs: Sequence[tuple[str, str]]) -> float:
    """Of straight edges: their lengths, and a fine for each crossing and each node in the way."""
    fine, steps = 60.0, np.linspace(0.0, 1.0, 33)[:, None]
    lines = {(a, b): (places[a].centre, places[b].centre) for a, b in pairs}
    badness = float(sum(np.linalg.norm(b - a) for a, b in lines.values()))
    for ends, (a, b) in lines.items():
        between = (1 - steps) * a + steps * b
        badness += fine * sum(
            bool((box.distance(between) < CLEAR).any()) for name, box in places.items() if name not in ends
        )
    for (one, (a, b)), (other, (c, d)) in combinations(lines.items(), 2):
        if not set(one) & set(other):
            badness += fine * (_side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0)
    return badness


def _side(a: np.ndarray, b: np.ndarray, point: np.ndarray) -> float:
    """On which side of a line a point is, by its sign."""
    return float((b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0]))


# --- edges ----------------------------------------------------------------------------------------


def _way(start: Box, end: Box, others: Sequence[Box], taken: np.ndarray) -> Curve:
    """The shortest and least bent curve that goes through no other node, and runs into few others."""
    line = end.centre - start.centre
    length, ends = float(np.linalg.norm(line)), (start.width + end.width) / 2
    across = np.array([-line[1], line[0]]) / length
    best, least = None, np.inf
    for part, bend in product(_PARTS, _BENDS):
        if part != _PARTS[0] and least < _CROSSING:
            break
        if np.hypot(length, bend) + abs(bend) / 2 - ends >= least:
            continue  # even two straight lines that far aside are longer
        control = start.centre + part * line + bend * across
        curve = _clipped(np.stack([start.centre, control, end.centre]), start, end)
        points = curve.along()[::4]
        cost = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum()) + abs(bend) / 2
        if cost < least:
            cost += _CROSSING * sum(bool((box.distance(points) < CLEAR).any()) for box in others)
            if len(taken):
                near = np.linalg.norm(points[::2, None] - taken[::4], axis=-1).min(axis=1) < _APART
                cost += 12.0 * float(near.sum())
            if cost < least:
                best, least = curve, cost
    assert best is not None
    return best


def _clipped(points: np.ndarray, start: Box, end: Box) -> Curve:
    """The part of a curve between the outlines of two nodes, with room for the head."""
    found = _along(points)
    outside = np.flatnonzero(start.distance(found) > _TIP)[0]
    tip = np.flatnonzero(end.distance(found) > _TIP)[-1]
    before = np.linalg.norm(found[:tip] - found[tip], axis=1) > _HEAD
    neck = max(np.flatnonzero(before)[-1], outside)
    s, e = _STEPS[outside, 0], _STEPS[neck, 0]
    first, second = points[:2] * (1 - s) + points[1:] * s
    return Curve(np.stack([found[outside], first * (1 - e) + second * e, found[neck]]), found[tip])


def _along(points: np.ndarray) -> np.ndarray:
    """Points of a quadratic curve, [P, 2]."""
    t = _STEPS
    found: np.ndarray = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
    return found
