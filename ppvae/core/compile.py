"""Capture a pure function of tensors once, then run its graph: Pyro's Python runs at capture only.

``capture(f)`` returns a callable with the arguments and results of ``f``. At the first call for each combination of
shapes, dtypes and devices, ``make_fx`` records the tensor operations of ``f``, those of ``torch.autograd.grad`` inside
it among them; the graph is then interpreted ("graph") or compiled by Inductor ("compiled"). What cannot be captured
runs eagerly, and one log line says why. On a GPU a small graph that is called again and again, such as a leapfrog of a
chain, is replayed as one CUDA graph (:mod:`ppvae.core.replay`).

Random operations are nodes of the graph and draw from PyTorch's own generator in every mode. The order of those that
need no data is kept, because they are drawn before the compiled part (:mod:`ppvae.core.hoisting`): one seed gives the
same noise eager, captured and compiled. From the first draw on whose distribution is computed (a Bernoulli of
probabilities), the order in "compiled" is Inductor's: repeatable, but not promised to be that of the other modes.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from .errors import PpvaeError
from .hoisting import split_noise
from .leaving import NoExit, ValueLeft
from .replay import Replayed, is_replayable

Mode = Literal["eager", "graph", "compiled"]
MODES: tuple[Mode, ...] = ("eager", "graph", "compiled")

_log = logging.getLogger("ppvae.compile")


class NeedsEagerRun(Exception):
    """Raised while a graph is recorded where an eager run is needed first, whose outcome is then remembered."""


def record(function: Callable[..., Any], tensors: Iterable[Tensor]) -> fx.GraphModule:
    """The graph of a function of tensors, which is first run eagerly where recording needs that."""
    tensors = list(tensors)
    try:
        return _recorded(function, tensors)
    except NeedsEagerRun:
        function(*tensors)
        return _recorded(function, tensors)


def _recorded(function: Callable[..., Any], tensors: list[Tensor]) -> fx.GraphModule:
    # Every node notes the shape of its value in a FakeTensorMode; without one at hand each made its own, which took two
    # fifths of the time.
    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))), NoExit():
        return make_fx(function)(*tensors)


class Captured:
    """A pure function that is recorded once for each shape, dtype and device: see :func:`capture`.

    Attributes:
        mode: the requested mode.
        graphs: how many graphs were recorded.
        fallback: why some shape runs in a lesser mode than requested; empty where none does.
    """

    def __init__(self, function: Callable[..., Any], mode: Mode, name: str) -> None:
        self.function = function
        self.mode = mode
        self.name = name
        self.graphs = 0
        self.fallback = ""
        self._runs: dict[Any, Callable[[list[Tensor]], Any]] = {}

    def __call__(self, *args: Any) -> Any:
        """Run the function on pytrees of tensors; leaves that are no tensors are constants of the graph."""
        if self.mode == "eager":
            with torch.no_grad():
                return self.function(*args)
        leaves, spec = pytree.tree_flatten(args)
        key = (spec, tuple(_key(leaf) for leaf in leaves))
        run = self._runs.get(key)
        if run is None:
            run = self._runs[key] = self._prepare(leaves, spec)
        with torch.no_grad():
            return run([leaf for leaf in leaves if isinstance(leaf, Tensor)])

    def forget(self) -> None:
        """Record anew at the next call: something else than the arguments has changed."""
        self._runs.clear()

    def run_eagerly(self) -> None:
        """Record nothing from now on."""
        self.mode = "eager"
        self.forget()

    def recorded(self, *args: Any) -> tuple[fx.GraphModule, Any]:
        """The graph of the function of the tensors among these arguments' leaves, and the tree of its results.

        Raises:
            Exception: of any kind, where the function cannot be recorded.
        """
        leaves, spec = pytree.tree_flatten(args)
        flat, out_spec = self._flat(leaves, spec)
        return self._graph(flat, [leaf for leaf in leaves if isinstance(leaf, Tensor)]), out_spec[0]

    def _flat(self, leaves: list[Any], spec: Any) -> tuple[Callable[..., list[Any]], list[Any]]:
        """The function of the tensors among its leaves, and a list that has the tree of its results once it has run."""
        static = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        out_spec: list[Any] = []

        def flat(*inputs: Tensor) -> list[Any]:
            arguments = list(static)
            for index, tensor in zip(places, inputs, strict=True):
                arguments[index] = tensor
            result, tree = pytree.tree_flatten(self.function(*pytree.tree_unflatten(arguments, spec)))
            out_spec[:] = [tree]
            return list(result)

        return flat, out_spec

    def _graph(self, flat: Callable[..., list[Any]], tensors: list[Tensor]) -> fx.GraphModule:
        # Recording runs the function once: it must not use up the caller's random numbers, nor change its tensors.
        with torch.random.fork_rng(), torch.no_grad(), preserve(tensors):
            graph = record(flat, tensors)
        # Unused results are not computed (log q beside a closed-form KL); random draws stay, for the seed.
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph

    def _prepare(self, leaves: list[Any], spec: Any) -> Callable[[list[Tensor]], Any]:
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        flat, out_spec = self._flat(leaves, spec)

        def eager(inputs: list[Tensor]) -> Any:
            return pytree.tree_unflatten(flat(*inputs), out_spec[0])

        try:
            graph = self._graph(flat, tensors)
        except PpvaeError:
            raise
        except Exception as error:
            self._fall_back("eager", error)
            return eager
        self.graphs += 1
        tree = out_spec[0]
        run: Callable[..., Any] = graph
        if self.mode == "compiled":
            try:
                with torch.random.fork_rng(), torch.no_grad(), preserve(tensors), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Inductor's own deprecations are not the caller's business
                    run = _compile(graph, tensors)
                    run(*tensors)  # a missing compiler shows here, not in the middle of a run
            except Exception as error:
                run = graph
                self._fall_back("graph", error)
        if is_replayable(graph, tensors):
            run = Replayed(run, self.name)
        return lambda inputs: pytree.tree_unflatten(run(*inputs), tree)

    def _fall_back(self, mode: str, error: Exception) -> None:
        reason = _reason(error)
        self.fallback = f"{mode}: {reason}"
        warning = (self.name, mode, reason)
        # A verb captures its function anew at every call, and for every shape of a chunk.
        if warning not in _WARNINGS:
            _WARNINGS.add(warning)
            _log.warning("%s runs in mode %r instead of %r: %s", self.name, mode, self.mode, reason)


_WARNINGS: set[tuple[str, str, str]] = set()


def _reason(error: Exception) -> str:
    """Why a function was not captured, in a line; PyTorch's own advice names arguments that a caller does not have."""
    if isinstance(error, ValueLeft) or "tracing_mode" in str(error):
        return "the program branches on the value of a tensor, or takes one out of PyTorch (.item(), numpy)"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def preserve(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Restore, afterwards, tensors that are written in place inside, such as a batch norm's running statistics."""
    before = [(tensor, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in before:  # not by their versions: a batch norm's kernel does not count them up
            if not torch.equal(tensor.nan_to_num(), value.nan_to_num()):
                tensor.copy_(value)


def _compile(graph: fx.GraphModule, tensors: list[Tensor]) -> Callable[..., Any]:
    import torch._inductor as inductor  # a second to import, and only for this mode

    # Inductor's own generator off; and no reordering for the peak of memory, which would reorder what is random too.
    options = {"fallback_random": True, "reorder_for_peak_memory": False, "compile_threads": 1}
    graphs = split_noise(graph)
    if graphs is None:
        program: Callable[..., Any] = inductor.compile(graph, list(tensors), options=options)
        return program
    noise, rest = graphs
    compiled = inductor.compile(rest, [*tensors, *noise()], options=options)
    return lambda *inputs: compiled(*inputs, *noise())


def capture(function: Callable[..., Any], *, mode: Mode = "graph", name: str = "") -> Captured:
    """Record a pure function once for each shape, dtype and device, and run the record from then on.

    The function sees the tensors of its arguments, which may be nested in tuples, lists and dictionaries, and must not
    branch on their values; anything else it reads (an attribute, a global) is read at capture only.

    Args:
        function: f(*pytrees of tensors) -> pytree of tensors.
        mode: "eager" (run the function itself), "graph" (record and interpret), "compiled" (record and compile by
            Inductor: some seconds once, then fastest).
        name: what log lines call it.

    Raises:
        PpvaeError: an unknown mode.

    >>> double = capture(lambda x: {"twice": 2 * x})
    >>> double(torch.ones(2))["twice"], double.graphs
    (tensor([2., 2.]), 1)
    """
    if mode not in MODES:
        raise PpvaeError(f"unknown mode {mode!r}: expected one of {', '.join(MODES)}")
    return Captured(function, mode, name or getattr(function, "__name__", "function"))


def bind(module: nn.Module, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make ``function(module, *args)`` a pure function of the module's state as well: ``pure(state, *args)``.

    A tensor of the state replaces the parameter or buffer of its name wherever that is registered: in each module that
    shares it, and once in a module that is registered twice. The originals are restored afterwards
    (``torch.func.functional_call`` leaves the replacements behind where a module is registered twice).

    Args:
        module: the module, a pair for instance.
        function: called with the module, whose parameters and buffers are then those of ``state``; a name that is not
            in the state keeps its value.

    Raises:
        PpvaeError: a name of the state is no parameter or buffer of the module.
    """

    def pure(state: Mapping[str, Tensor], *args: Any) -> Any:
        with _substitute(module, state):
            return function(module, *args)

    return pure


@contextlib.contextmanager
def _substitute(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    global _bind_depth
    tensors: dict[str, Tensor] = {}
    places: list[tuple[dict[str, Any], str, Tensor]] = []
    for prefix, part in module.named_modules():  # each module once
        for registry in (part._parameters, part._buffers):
            for slot, tensor in registry.items():
                if tensor is not None:
                    tensors[f"{prefix}.{slot}" if prefix else slot] = tensor
                    places.append((registry, slot, tensor))
    if unknown := sorted(set(state) - set(tensors)):
        raise PpvaeError(f"{type(module).__name__} has no parameter or buffer {unknown[0]!r}")
    substitutes = {id(tensors[name]): value for name, value in state.items()}
    _bind_depth += 1
    try:
        for registry, slot, tensor in places:
            if id(tensor) in substitutes:
                registry[slot] = substitutes[id(tensor)]
        yield
    finally:
        _bind_depth -= 1
        for registry, slot, tensor in places:
            registry[slot] = tensor


_bind_depth = 0


def is_bound() -> bool:
    """Whether a bound function is running: modules then hold the tensors of its state."""
    return _bind_depth > 0


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module by name, detached: the first argument of a bound function."""
    state = {name: parameter.detach() for name, parameter in module.named_parameters()}
    state.update({name: buffer.detach() for name, buffer in module.named_buffers()})
    return state


def _key(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return (tuple(leaf.shape), leaf.dtype, leaf.device, leaf.stride())
    return leaf
