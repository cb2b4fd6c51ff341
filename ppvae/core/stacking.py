"""Recorded graphs of one function at several sets of tensors, run as one graph with those sets along a leading axis.

The random draws of a graph become inputs, so that each set has the noise of its own generator; the rest is vectorised
by ``torch.func.vmap``. It is refused by :class:`NotStackable`, with the reason, where the stacked graph would not
compute what each graph does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from .compile import Mode, capture
from .errors import PpvaeError
from .hoisting import is_random, split_noise

_BY_LAYOUT = ("as_strided", "set_", "resize_", "data_ptr", "storage_offset")
_VIEWS = (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)


class NotStackable(PpvaeError):
    """Graphs that cannot run as one; the message says why, in a clause."""


class Stacked:
    """The graphs of one function of tensors, as one function of stacked tensors.

    Args:
        graphs: from :meth:`ppvae.core.compile.Captured.recorded`, one for each set of tensors.
        mode: of capture, not "eager".
        name: what log lines call it.

    Attributes:
        noise: draws the noise of one set from PyTorch's generator, in the order of the graph.
        bytes_per_set: of all intermediate results of one graph.

    Raises:
        NotStackable: the graphs differ, draw what depends on their inputs, or depend on the layout of memory.
    """

    def __init__(self, graphs: Sequence[fx.GraphModule], *, mode: Mode, name: str) -> None:
        first = graphs[0]
        for graph in graphs[1:]:
            if reason := _difference(first, graph):
                raise NotStackable(reason)
        split = split_noise(first)
        self.noise: Callable[[], tuple[Tensor, ...]] = split[0] if split is not None else tuple
        rest = split[1] if split is not None else first
        for node in rest.graph.nodes:
            if is_random(node):
                raise NotStackable(f"a draw depends on the parameters or the data ({_name(node)})")
            if any(word in _name(node) for word in _BY_LAYOUT):
                raise NotStackable(f"an operation depends on the layout of memory ({_name(node)})")
            if node.target in _VIEWS:  # a lane of a stacked tensor has other strides
                node.target = torch.ops.aten.reshape.default
        rest.recompile()
        self.bytes_per_set = sum(_size(node) for node in rest.graph.nodes if node.op == "call_function")
        self.captured = capture(torch.func.vmap(rest), mode=mode, name=name)

    def __call__(self, inputs: Sequence[Tensor], noise: Sequence[Tensor]) -> list[Tensor]:
        """Run on inputs and noise, all stacked.

        Raises:
            NotStackable: ``vmap`` does not serve an operation.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an operation that vmap runs set by set
                results: list[Tensor] = list(self.captured(*inputs, *noise))
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise NotStackable(str(error).strip().splitlines()[0]) from error
        if self.captured.fallback.startswith("eager"):
            raise NotStackable(self.captured.fallback.removeprefix("eager: "))
        return results


def _difference(one: fx.GraphModule, other: fx.GraphModule) -> str:
    """Why two graphs do not compute the same function; empty where they do."""
    ours, theirs = list(one.graph.nodes), list(other.graph.nodes)
    number = {node: place for nodes in (ours, theirs) for place, node in enumerate(nodes)}
    if len(ours) != len(theirs):
        return f"the steps differ: {len(ours)} operations in one, {len(theirs)} in another"
    for here, there in zip(ours, theirs, strict=True):
        if here.op == there.op == "get_attr":
            if not torch.equal(_constant(one, here), _constant(other, there)):
                return "the steps hold different constants: a tensor that is no parameter and no buffer"
            continue
        if here.op != there.op or (here.op == "call_function" and here.target is not there.target):
            return f"the steps differ: {_name(here)} in one, {_name(there)} in another"
        if _arguments(here, number) != _arguments(there, number):
            return f"the steps differ in what {_name(here)} is called with"
        if _shape(here) != _shape(there):
            return f"the steps differ in the shape of {_name(here)}: {_shape(here)} and {_shape(there)}"
    return ""


def _arguments(node: fx.Node, number: dict[fx.Node, int]) -> list[str]:
    """The arguments of a node, other nodes by their place; by their text, in which a NaN is itself."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    return [str(spec), *(f"%{number[leaf]}" if isinstance(leaf, fx.Node) else repr(leaf) for leaf in leaves)]


def _constant(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return torch.as_tensor(value)


def constants_of(graph: fx.GraphModule) -> list[Tensor]:
    """The tensors that a graph holds."""
    return [_constant(graph, node) for node in graph.graph.nodes if node.op == "get_attr"]


def _shape(node: fx.Node) -> Any:
    value = node.meta.get("val")
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None


def _size(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "call_function" else str(node.name)
