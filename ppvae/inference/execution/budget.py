"""How many data fit into a memory budget: measured on the graph of a function, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .memory import peak_memory
from ...core.errors import PpvaeError, try_one_of


class Footprint(NamedTuple):
    """What one call of a function needs.

    Attributes:
        peak: bytes alive at once, arguments and results among them.
        traffic: bytes of all intermediate results together, what an interpreter writes.
    """

    peak: int
    traffic: int


def footprint(function: Callable[..., Any], *args: Any) -> Footprint:
    """The memory that one call takes when its graph is interpreted; a compiled one takes no more.

    What cannot be recorded is measured in one eager call, without its traffic.
    """
    leaves, spec = pytree.tree_flatten(args)
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def flat(*tensors: Tensor) -> list[Any]:
        filled = list(leaves)
        for index, tensor in zip(places, tensors, strict=True):
            filled[index] = tensor
        return list(pytree.tree_leaves(function(*pytree.tree_unflatten(filled, spec))))

    tensors = [leaves[index] for index in places]
    with torch.random.fork_rng(), torch.no_grad():
        try:
            graph = make_fx(flat)(*tensors)
        except PpvaeError:
            raise
        except Exception:
            held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return Footprint(held + peak_memory(lambda: flat(*tensors), tensors[0].device), 0)
        meter = _Meter(graph)
        meter.run(*tensors)
    return Footprint(meter.peak, meter.traffic)


class _Meter(fx.Interpreter):
    """Runs a graph and sums the storages that are alive after each node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=True)
        self.peak = self.traffic = 0

    def run_node(self, n: fx.Node) -> Any:
        before = self._storages()
        result = super().run_node(n)
        made = self._storages_of([result])
        self.peak = max(self.peak, sum({**before, **made}.values()))
        self.traffic += sum(size for key, size in made.items() if key not in before)
        return result

    def _storages(self) -> dict[int, int]:
        return self._storages_of(list(self.env.values()))

    @staticmethod
    def _storages_of(values: list[Any]) -> dict[int, int]:
        storages = [leaf.untyped_storage() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
        return {storage.data_ptr(): storage.nbytes() for storage in storages}


def data_per_chunk(budget: int, fixed: int, per_datum: int, num_chains: int) -> int:
    """How many data fit, at least one.

    Args:
        budget: bytes.
        fixed: bytes that do not depend on the number of data (parameters).
        per_datum: bytes of one datum with all its chains.
        num_chains: for the message.

    Raises:
        PpvaeError: not even one datum fits.
    """
    if fixed + per_datum > budget:
        raise PpvaeError(
            f"memory_budget of {budget:,} bytes is too small: one datum with {num_chains} chains takes "
            f"{per_datum:,} bytes beside {fixed:,} bytes of parameters"
            + try_one_of(f"memory_budget={2 * (fixed + per_datum):_} or more", "fewer chains")
        )
    return (budget - fixed) // max(per_datum, 1)
