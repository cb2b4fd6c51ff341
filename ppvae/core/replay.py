"""What a recorded function launches on a GPU as one CUDA graph: a small function costs its launches, not its work."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx

from .hoisting import is_random

_log = logging.getLogger("ppvae.compile")

Run: TypeAlias = Callable[..., Sequence[Any]]
"""``run(*tensors) -> results``, what a graph computes."""
Recorder: TypeAlias = Callable[[Callable[[], Sequence[Any]]], tuple[Sequence[Any], Callable[[], None]]]
"""``record(work) -> (results, replay)``: a replay writes into these results what the work would have returned."""

CALLS_BEFORE = 8
"""Calls that are launched as they are: recording takes time, and what is called a few times gains nothing."""
LARGEST = 2**28
"""Bytes of all intermediate results above which a graph is taken to hold more memory than its launches are worth: a
choice, which no GPU was at hand to measure."""


def is_replayable(graph: fx.GraphModule, tensors: Sequence[Tensor]) -> bool:
    """Whether a GPU can replay it: all tensors are there, nothing random is drawn elsewhere, and launches are the cost.

    A number on the CPU is read when the operation is launched: in a replay it would be that of the recording.
    """
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1 or next(iter(devices)).type != "cuda":
        return False
    made = [(node, node.meta.get("val")) for node in graph.graph.nodes if node.op == "call_function"]
    if any(is_random(node) and not (isinstance(val, Tensor) and val.device in devices) for node, val in made):
        return False
    return sum(math.prod(val.shape) * val.itemsize for _, val in made if isinstance(val, Tensor)) <= LARGEST


class Replayed:
    """Runs a graph of tensors on a GPU, from its ninth call on by replaying what it launches.

    An input that has had one address in all calls (parameters, buffers, the chunk of data) is read there; the others
    are copied to where the recording read them, and results are copied from where it wrote them. An input at another
    address is copied from then on, by a new recording. What cannot be replayed is launched as before, and one log line
    says why.

    Args:
        run: of the graph.
        name: what log lines call it.
        record: of a CUDA graph; tests have their own.
    """

    def __init__(self, run: Run, name: str, record: Recorder | None = None) -> None:
        self.run, self.name, self._record = run, name, record or _cuda_graph
        self.calls, self.recordings = 0, 0
        self._addresses: list[int] = []
        self._stays: list[bool] = []
        self._inputs: list[Tensor | None] = []
        self._results: Sequence[Any] = ()
        self._replay: Callable[[], None] | None = None
        self._given_up = False

    def __call__(self, *inputs: Tensor) -> Sequence[Any]:
        """The results, in tensors of their own."""
        if self._given_up or _is_part_of_another():
            return self.run(*inputs)
        self._look_at(inputs)
        self.calls += 1
        if self.calls <= CALLS_BEFORE:
            return self.run(*inputs)
        if self._replay is None:
            try:
                self._begin(inputs)
            except Exception as error:
                self._give_up((str(error).strip() or type(error).__name__).splitlines()[0])
        if self._replay is None:
            return self.run(*inputs)
        for place, tensor in zip(self._inputs, inputs, strict=True):
            if place is not None:
                place.copy_(tensor)
        self._replay()
        return [result.clone() if isinstance(result, Tensor) else result for result in self._results]

    def _look_at(self, inputs: Sequence[Tensor]) -> None:
        """Notice which inputs have moved; a recording that reads one of them where it was is forgotten."""
        addresses = [tensor.data_ptr() for tensor in inputs]
        before = self._addresses or addresses
        moved = [a != b for a, b in zip(addresses, before, strict=True)]
        stays = [s and not m for s, m in zip(self._stays or [True] * len(moved), moved, strict=True)]
        if stays != self._stays:
            self._replay = None
        self._addresses, self._stays = addresses, stays

    def _begin(self, inputs: Sequence[Tensor]) -> None:
        self._inputs = [None if stays else tensor.clone() for stays, tensor in zip(self._stays, inputs, strict=True)]
        read = [tensor if place is None else place for place, tensor in zip(self._inputs, inputs, strict=True)]
        versions = [tensor._version for tensor in read]
        results, replay = self._record(lambda: self.run(*read))
        written = [tensor._version != version for tensor, version in zip(read, versions, strict=True)]
        if any(w and place is not None for w, place in zip(written, self._inputs, strict=True)):
            self._give_up("it writes into an input that is another at every call")
            return
        self.recordings += 1
        self._results, self._replay = results, replay

    def _give_up(self, reason: str) -> None:
        self._given_up, self._replay, self._results, self._inputs = True, None, (), []
        _log.warning("%s is launched operation by operation, not replayed: %s", self.name, reason)


def _is_part_of_another() -> bool:
    """Whether a graph of more than this is being recorded, such as that of several training steps."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _cuda_graph(work: Callable[[], Sequence[Any]]) -> tuple[Sequence[Any], Callable[[], None]]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        results = work()
    return results, graph.replay


@cache
def _pool() -> Any:
    """One pool of memory for all: results are copied before another graph is replayed."""
    return torch.cuda.graph_pool_handle()
