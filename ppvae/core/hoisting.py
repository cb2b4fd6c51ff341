"""The noise of a recorded graph, drawn before what is compiled: a compiler may reorder draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_LIKE: dict[Any, Any] = {
    torch.ops.aten.randn_like.default: torch.ops.aten.randn.default,
    torch.ops.aten.rand_like.default: torch.ops.aten.rand.default,
}


def split_noise(recorded: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Split a recorded graph in two: what draws noise, and the rest.

    Inductor keeps neither the order of random operations (to lower the peak of memory, and where it fuses) nor, with
    it, what a seed gives. Draws that depend on no data, such as the standard normal noise of a reparameterised latent,
    are moved out, up to the first draw that does depend on data: a Bernoulli at computed probabilities, say.

    Args:
        recorded: a graph of tensors from ``make_fx``; it is not changed.

    Returns:
        ``noise() -> tuple`` and ``rest(*inputs, *noise)``; None where there is nothing to move.
    """
    rest = fx.Graph()
    rest.output(rest.graph_copy(recorded.graph, {}))
    free: set[fx.Node] = set()  # nodes that depend on no input and on no draw
    drawn: list[fx.Node] = []
    for node in list(rest.nodes):
        if not _random(node):
            if node.op == "get_attr" or (node.op == "call_function" and free.issuperset(node.all_input_nodes)):
                free.add(node)
            continue
        node = _shaped(node)
        if not free.issuperset(node.all_input_nodes) or any(len(i.users) > 1 for i in node.all_input_nodes):
            break
        drawn.append(node)
    if not drawn:
        return None
    needed, ahead = set(drawn), list(drawn)
    while ahead:
        ahead += (parents := set(ahead.pop().all_input_nodes) - needed)
        needed |= parents
    noise = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in rest.nodes:
        if node in needed:
            copies[node] = noise.node_copy(node, lambda old: copies[old])
    noise.output(tuple(copies[node] for node in drawn))
    last = [node for node in rest.nodes if node.op == "placeholder"][-1:]
    for node in drawn:
        with rest.inserting_after(*last) if last else rest.inserting_before():
            given = rest.placeholder(f"noise_{node.name}")
        given.meta = dict(node.meta)
        node.replace_all_uses_with(given)
        rest.erase_node(node)
        last = [given]
    rest.eliminate_dead_code()
    return fx.GraphModule(recorded, noise), fx.GraphModule(recorded, rest)


def _random(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _shaped(node: fx.Node) -> fx.Node:
    """``randn_like(tensor)`` as ``randn(shape)``, which gives the same numbers and needs no tensor."""
    target = _LIKE.get(node.target)
    value = node.meta.get("val")
    if target is None or not isinstance(value, torch.Tensor) or not value.is_contiguous():
        return node
    with node.graph.inserting_before(node):
        shaped = node.graph.call_function(
            target, (list(value.shape),), {"dtype": value.dtype, "device": value.device, "pin_memory": False}
        )
    shaped.meta = dict(node.meta)
    node.replace_all_uses_with(shaped)
    node.graph.erase_node(node)
    return shaped
