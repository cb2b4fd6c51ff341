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
    """Peak bytes of the tensors that one call creates.

    On a GPU the allocator counts; elsewhere every storage counts from its creation to its release, including the
    backward pass, so that the number is the same on every machine. Scratch space inside an operation is not counted.

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
    """Counts the bytes of live storages that operations create."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._keys: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in pytree.tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for output in pytree.tree_leaves(result):
            if isinstance(output, Tensor):
                self._count(output.untyped_storage(), inputs)
        return result

    def _count(self, storage: Any, inputs: set[int]) -> None:
        key = storage._cdata
        if key in self._keys or key in inputs:
            return
        size = storage.nbytes()
        self._keys.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._keys.discard(key)
        self.live -= size


class Footprint(NamedTuple):
    """Memory of one call of a function.

    Attributes:
        peak: bytes alive at once, including arguments and results.
        traffic: bytes of all intermediate results together, which an interpreter writes.
    """

    peak: int
    traffic: int


def footprint(function: Callable[..., Any], *args: Any) -> Footprint:
    """The memory of one call when its graph is interpreted; a compiled one takes no more.

    A function that cannot be recorded is measured in one eager call, without its traffic.
    """
    leaves, spec = pytree.tree_flatten(args)
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def flat(*tensors: Tensor) -> list[Any]:
        arguments = list(leaves)
        for index, tensor in zip(places, tensors, strict=True):
            arguments[index] = tensor
        return list(pytree.tree_leaves(function(*pytree.tree_unflatten(arguments, spec))))

    tensors = [leaves[index] for index in places]
    with torch.random.fork_rng(), torch.no_grad():
        try:
            graph = record(flat, tensors)
        except PpvaeError:
            raise
        except Exception:
            size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
            return Footprint(size + peak_memory(lambda: flat(*tensors), tensors[0].device), 0)
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
        outputs = self._storages_of([result])
        self.peak = max(self.peak, sum({**before, **outputs}.values()))
        self.traffic += sum(size for key, size in outputs.items() if key not in before)
        return result

    def _storages(self) -> dict[int, int]:
        return self._storages_of(list(self.env.values()))

    @staticmethod
    def _storages_of(values: list[Any]) -> dict[int, int]:
        storages = [leaf.untyped_storage() for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
        return {storage.data_ptr(): storage.nbytes() for storage in storages}


def data_per_chunk(budget: int, constant: int, per_datum: int, num_chains: int) -> int:
    """How many data fit, at least one.

    Args:
        budget: bytes.
        constant: bytes that do not depend on the number of data (parameters).
        per_datum: bytes of one datum with all its chains.
        num_chains: for the message.

    Raises:
        PpvaeError: not even one datum fits.
    """
    if constant + per_datum > budget:
        raise PpvaeError(
            f"memory_budget of {budget:,} bytes is too small: one datum with {num_chains} chains takes "
            f"{per_datum:,} bytes beside {constant:,} bytes of parameters"
            + try_one_of(f"memory_budget={2 * (constant + per_datum):_} or more", "fewer chains")
        )
    return (budget - constant) // max(per_datum, 1)
