"""The graph of a description: its arrows are what the description says, and its drawing can be read."""

from __future__ import annotations

import math
import random
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from ppvae.distributions import Bernoulli, DiagonalNormal, OneHotCategorical, Poisson, StandardNormal
from ppvae.models import Covariate, Exposure, Features, Label, Latent, LatentModel, Mask, Observed, bernoulli_vae
from ppvae.models.description import Program
from ppvae.models.graph import Arrow, Graph, Node
from ppvae.models.graph_layout import CLEAR, Box, place
from ppvae.networks import MLP, JoinedMLP

SVG = "{http://www.w3.org/2000/svg}"
D, Z, K = 6, 2, 3


def two_layers() -> LatentModel:
    return LatentModel(
        z2=Latent(StandardNormal(Z), posterior=DiagonalNormal(MLP(D, [4]), Z).given("x")),
        z1=Latent(
            DiagonalNormal(MLP(Z, [4]), Z).given("z2"),
            posterior=DiagonalNormal(JoinedMLP([D, Z], [4]), Z).given("x", "z2"),
        ),
        x=Observed(Bernoulli(MLP(Z, [4]), D).given("z1")),
    )


def everything() -> LatentModel:
    """Of every kind, in both programs."""
    return LatentModel(
        batch_of_cells=Covariate(Z),
        given_to_q=Covariate(Z),
        size=Exposure(),
        seen=Mask(),
        y=Label(OneHotCategorical(None, K), posterior=OneHotCategorical(MLP(D, [4]), K).given("x")),
        trunk=Features(JoinedMLP([D, D, Z], [5])).given("x", "seen", "given_to_q"),
        more=Features(MLP(5, [5])).given("trunk"),
        up=Features(MLP(K, [4])).given("y"),
        z2=Latent(
            DiagonalNormal(MLP(4, [4]), Z).given("up"),
            posterior=DiagonalNormal(JoinedMLP([5, 4], [4]), Z).given("more", "up"),
        ),
        z1=Latent(
            DiagonalNormal(JoinedMLP([Z, Z], [4]), Z).given("z2", "batch_of_cells"),
            posterior=DiagonalNormal(JoinedMLP([5, Z], [4]), Z).given("trunk", "z2"),
        ),
        x=Observed(Poisson(JoinedMLP([Z, K], [4]), D, exposure=True).given("z1", "y", "size"), mask="seen"),
    )


# --- what it holds --------------------------------------------------------------------------------


def test_arrows_are_the_parents_of_the_description() -> None:
    pair = everything()
    graph = pair.graph()
    assert [node.name for node in graph.nodes] == list(pair.description.variables)
    programs: tuple[Program, ...] = ("model", "guide")
    for program in programs:
        found = {(a.parent, a.child) for a in graph.arrows if a.program == program}
        order = pair.description.orders[program]
        told = {(parent, name) for name in order for parent in pair.description.parents(name, program)}
        assert found == told | ({("seen", "x")} if program == "model" else set())
    assert len(set(graph.arrows)) == len(graph.arrows)
    kinds = {node.name: node.kind for node in graph.nodes}
    assert kinds["y"] == "label"
    assert (kinds["size"], kinds["seen"], kinds["trunk"], kinds["x"]) == ("exposure", "mask", "features", "observed")
    assert next(node.words for node in graph.nodes if node.name == "z1") == pair.description.described("z1")


def test_rows_are_paths_from_the_roots() -> None:
    assert two_layers().graph().rows() == {"z2": 0, "z1": 1, "x": 2}
    rows = everything().graph().rows()
    assert [rows[name] for name in ("y", "up", "z2", "z1", "x")] == [0, 1, 2, 3, 4]
    assert (rows["batch_of_cells"], rows["size"], rows["seen"]) == (2, 3, 3)  # roots, above their first child
    assert (rows["trunk"], rows["more"], rows["given_to_q"]) == (3, 2, 4)  # of the guide alone, from the bottom


# --- what is drawn --------------------------------------------------------------------------------


def drawn(graph: Graph) -> ET.Element:
    return ET.fromstring(graph.to_svg())


def groups(svg: ET.Element) -> dict[str, ET.Element]:
    """The drawing of every node by its tooltip."""
    return {
        title.text or "": group for group in svg.iter(f"{SVG}g") if (title := group.find(f"{SVG}title")) is not None
    }


@pytest.mark.parametrize("make", [bernoulli_vae, two_layers, everything])
def test_every_name_appears_once_and_lies_on_no_other_node(make: type[LatentModel]) -> None:
    graph = make().graph()
    svg = drawn(graph)
    texts = [text.text for text in svg.iter(f"{SVG}text")]
    assert sorted(map(str, texts)) == sorted(["data", *(node.name for node in graph.nodes)])
    rects = {words: group.find(f"{SVG}rect") for words, group in groups(svg).items()}
    inside = 0
    for text in svg.iter(f"{SVG}text"):
        x, y, size = (float(text.get(key, "")) for key in ("x", "y", "font-size"))
        width = 0.6 * size * len(text.text or "")
        left = x - width / 2 if text.get("text-anchor") == "middle" else x - width
        for node in graph.nodes:
            rect = rects[f"{node.name}: {node.words}"]
            assert rect is not None
            a, b, w, h = (float(rect.get(key, "")) for key in ("x", "y", "width", "height"))
            if text.text == node.name:
                inside += a <= left and left + width <= a + w and b <= y - size and y <= b + h
            else:
                assert left + width < a or left > a + w or y < b or y - 0.8 * size > b + h
    assert inside == len(graph.nodes)


def test_all_is_in_the_plate_and_the_plate_in_the_drawing() -> None:
    svg = drawn(everything().graph(60000))
    left, top, width, height = map(float, svg.get("viewBox", "").split())
    plate = svg.find(f"{SVG}rect")
    assert plate is not None
    x, y, w, h = (float(plate.get(key, "")) for key in ("x", "y", "width", "height"))
    assert left <= x and top <= y and x + w <= left + width and y + h <= top + height
    points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(str(p.get("points")) for p in svg.iter(f"{SVG}polygon")))
    assert points
    assert all(x <= float(a) <= x + w and y <= float(b) <= y + h for a, b in points)
    assert "data, N = 60000" in [text.text for text in svg.iter(f"{SVG}text")]


def test_shapes_and_lines_tell_kinds_and_programs() -> None:
    graph = everything().graph()
    svg = drawn(graph)
    found = groups(svg)
    words = {node.name: f"{node.name}: {node.words}" for node in graph.nodes}

    def rect(name: str) -> dict[str, str]:
        shape = found[words[name]].find(f"{SVG}rect")
        assert shape is not None
        return shape.attrib

    assert rect("z1")["rx"] == rect("x")["rx"] == "22"
    assert "fill" not in rect("z1")
    assert rect("x")["fill"] == "currentColor"
    assert found[words["y"]].find(f"{SVG}path") is not None  # half of it
    assert float(rect("size")["rx"]) < float(rect("trunk")["rx"]) < 22
    lines = [
        (g.get("class"), g.find(f"{SVG}path")) for g in svg.iter(f"{SVG}g") if g.get("class") in ("model", "guide")
    ]
    assert len(lines) == len(graph.arrows)
    for program, line in lines:
        assert line is not None
        assert ("stroke-dasharray" in line.attrib) == (program == "guide")
    assert not re.search(r"#[0-9a-f]{3,6}|rgb\(", graph.to_svg())  # the colour is the page's


def crosses(name: str, boxes: dict[str, Box], points: np.ndarray, ends: tuple[str, str]) -> bool:
    return name not in ends and bool((boxes[name].distance(points) < CLEAR - 1).any())


@pytest.mark.parametrize("seed", range(12))
def test_no_arrow_crosses_a_node(seed: int) -> None:
    """Of random models of eight variables, and of random guides against the stream."""
    dice = random.Random(seed)
    names = [f"{'long_name_' * dice.randint(0, 1)}v{i}" for i in range(8)]
    rows: dict[str, int] = {}
    pairs = []
    for i, name in enumerate(names):
        parents = dice.sample(names[:i], min(i, dice.randint(0, 2)))
        rows[name] = max((rows[parent] + 1 for parent in parents), default=0)
        pairs += [(parent, name) for parent in parents]
    pairs += [(b, a) for a, b in pairs if dice.random() < 0.7]
    pairs += [(names[-1], name) for name in names[:-1] if (names[-1], name) not in pairs and dice.random() < 0.4]
    sizes = {name: Box(44.0 + 80 * (len(name) > 2), 44.0, 22.0) for name in names}
    boxes, curves = place(sizes, rows, pairs)
    for (start, end), curve in zip(pairs, curves, strict=True):
        for name in names:
            assert not crosses(name, boxes, curve.along(), (start, end)), (start, end, name)
        assert boxes[end].distance(curve.tip[None])[0] < 8
        assert boxes[start].distance(curve.points[:1])[0] < 8


def test_distance_from_a_box() -> None:
    circle = Box(20.0, 20.0, 10.0, x=5.0)
    square = Box(20.0, 10.0, 0.0)
    found = circle.distance(np.array([[5.0, 30.0], [5.0, 0.0], [15.0, 10.0]]))
    assert np.allclose(found, [20.0, -10.0, math.sqrt(200) - 10])
    assert np.allclose(square.distance(np.array([[13.0, 9.0], [0.0, 2.0], [12.0, 0.0]])), [5.0, -3.0, 2.0])


def test_hostile_names_are_text() -> None:
    name = "</text><script>\"'&"
    graph = Graph((Node(name, "latent", name), Node("x", "observed", "x")), (Arrow(name, "x", "model"),))
    svg = drawn(graph)
    assert name in [text.text for text in svg.iter(f"{SVG}text")]
    assert f"{name}: {name}" in groups(svg)
    assert "<script" not in graph.to_svg()
    assert '"</text><script>\\"\'&" -> "x";' in graph.to_dot()


def test_notebooks_and_pages() -> None:
    graph = two_layers().graph()
    assert graph._repr_svg_() == graph.to_svg()
    page = graph._repr_html_()
    assert page == graph.to_svg(standalone=False)
    assert "http" not in page
    label = drawn(graph).get("aria-label")
    assert label == "Model: z2 to z1, z1 to x. Guide: x to z2, x to z1, z2 to z1."


def test_dot() -> None:
    text = two_layers().graph(100).to_dot()
    lines = [line.strip() for line in text.splitlines()]
    assert (lines[0], lines[-1]) == ("digraph {", "}")
    assert text.count("{") == text.count("}")
    assert 'label="data, N = 100";' in lines
    assert '"z1" -> "x";' in lines
    assert '"x" -> "z1" [style="dashed", constraint="false"];' in lines
    assert len([line for line in lines if "->" in line]) == 5
    assert next(line for line in lines if line.startswith('"x" [')).startswith('"x" [shape="ellipse", style="filled"')
