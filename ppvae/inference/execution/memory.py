"""Bytes that a function needs, measured on its tensors or on its graph, and how many data fit into a budget."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ...core.compile import record
from ...core.errors import PpvaeError, try_one_of


def peak_memory(step: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that the tensors made during one call hold at the same time.

    On a GPU the allocator is asked; elsewhere every storage is counted from its making to its release, backward
    pass included, so that the number is the same on every machine. Scratch space inside an operation is not seen.

    Args:
        step: the call, eager.
        device: where it computes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    counter = _LiveStorages()
    with counter:
        step()
    return counter.peak


class _LiveStorages(TorchDispatchMode):
    """Counts the bytes of storages that operations make, and uncounts them when they are released."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in pytree.tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in pytree.tree_leaves(result):
            if isinstance(made, Tensor):
                self._count(made.untyped_storage(), given)
        return result

    def _count(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


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
            graph = record(flat, tensors)
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
