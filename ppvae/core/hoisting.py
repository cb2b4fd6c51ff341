"""The noise of a recorded graph, drawn before what is compiled: a compiler may reorder draws."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

_LIKE: dict[Any, Any] = {
    torch.ops.aten.randn_like.default: torch.ops.aten.randn.default,
    torch.ops.aten.rand_like.default: torch.ops.aten.rand.default,
}


def split_noise(graph: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule] | None:
    """Split a recorded graph in two: the draws of noise, and the rest.

    Inductor may reorder random operations (to lower the peak of memory, and by fusion), which changes the numbers that
    a seed gives. Draws that depend on no data, such as the standard normal noise of a reparameterised latent, are moved
    out, up to the first draw that does depend on data: a Bernoulli at computed probabilities, say.

    Args:
        graph: a graph of tensors from ``make_fx``; it is not changed.

    Returns:
        ``noise() -> tuple`` and ``rest(*inputs, *noise)``; None where there is nothing to move.
    """
    rest = fx.Graph()
    rest.output(rest.graph_copy(graph.graph, {}))
    free: set[fx.Node] = set()  # nodes that depend on no input and on no draw
    random_nodes: list[fx.Node] = []
    for node in list(rest.nodes):
        if not is_random(node):
            if node.op == "get_attr" or (node.op == "call_function" and free.issuperset(node.all_input_nodes)):
                free.add(node)
            continue
        node = _by_shape(node)
        if not free.issuperset(node.all_input_nodes) or any(len(i.users) > 1 for i in node.all_input_nodes):
            break
        random_nodes.append(node)
    if not random_nodes:
        return None
    upstream, ahead = set(random_nodes), list(random_nodes)
    while ahead:
        ahead += (parents := set(ahead.pop().all_input_nodes) - upstream)
        upstream |= parents
    noise = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in rest.nodes:
        if node in upstream:
            copies[node] = noise.node_copy(node, lambda old: copies[old])
    noise.output(tuple(copies[node] for node in random_nodes))
    last = [node for node in rest.nodes if node.op == "placeholder"][-1:]
    for node in random_nodes:
        with rest.inserting_after(*last) if last else rest.inserting_before():
            placeholder = rest.placeholder(f"noise_{node.name}")
        placeholder.meta = dict(node.meta)
        node.replace_all_uses_with(placeholder)
        rest.erase_node(node)
        last = [placeholder]
    rest.eliminate_dead_code()
    return fx.GraphModule(graph, noise), fx.GraphModule(graph, rest)


def is_random(node: fx.Node) -> bool:
    """Whether a node of a recorded graph draws random numbers."""
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _by_shape(node: fx.Node) -> fx.Node:
    """``randn_like(tensor)`` as ``randn(shape)``, which gives the same numbers and needs no tensor."""
    target = _LIKE.get(node.target)
    value = node.meta.get("val")
    if target is None or not isinstance(value, torch.Tensor) or not value.is_contiguous():
        return node
    with node.graph.inserting_before(node):
        replacement = node.graph.call_function(
            target, (list(value.shape),), {"dtype": value.dtype, "device": value.device, "pin_memory": False}
        )
    replacement.meta = dict(node.meta)
    node.replace_all_uses_with(replacement)
    node.graph.erase_node(node)
    return replacement
