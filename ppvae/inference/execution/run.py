"""Where and how a method computes: the pair and its state, captured functions, memory, seeds, progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .placement import Compile
from ...core import Data, ModelGuidePair, batch_size, draw, log_joint, structure
from ...core.compile import Mode, bind, capture, state_of
from ...core.conditioning import prior_as_guide
from ...data import Dataset, as_dataset
from ...data.convert import require_finite

# "auto" compiles what would move more than this many bytes: about twelve seconds of a CPU, against six of
# compiling. A fixed number, not a stopwatch: a seeded run must give the same numbers, and modes differ in
# rounding.
_WORTH_COMPILING = 40e9
# Recording takes as long as some tens of eager runs of a small pair.
_WORTH_RECORDING = 10
# More lanes at once than this leave the caches without gaining from wider matrix products.
_LANES = 8192


class Run:
    """What a method needs while it runs.

    Attributes:
        original: the pair that the caller gave.
        pair: the same, its global sites held.
        state: parameters and buffers, on the device.
        device: where to compute.
        dtype: of the parameters and data.
        memory_budget: bytes.
        bytes_per_lane: of the intermediate results of log joint and log q at one draw for one datum, all of
            them added up.
        bytes_per_datum: the same for what is computed once for a datum (the encoder).
        whole: the pair works on all data together only, so that they are one chunk.
        truth: for simulated data, the latents that made the chunk; None for real data.
        example: a few data, on the pair's own device.
        lanes: how many (sample, datum) lanes may be worked on at once.
        guide_density: whether log q(z | x) is known at any z; None before anyone has asked.
    """

    def __init__(
        self,
        original: ModelGuidePair,
        pair: ModelGuidePair,
        *,
        device: torch.device,
        dtype: torch.dtype,
        compile: Compile,
        memory_budget: int,
        tick: Callable[[float], None] = lambda amount: None,
    ) -> None:
        self.original, self.pair = original, pair
        self.device, self.dtype, self.compile = device, dtype, compile
        self.memory_budget = memory_budget
        self.state = {name: value.to(device) for name, value in state_of(original).items()}
        self.bytes_per_lane = self.bytes_per_datum = 0.0
        self.lanes = 1
        self.example: Data = {}
        self.whole = False
        self.truth: dict[str, Tensor] | None = None
        self.chunks = 1
        self.guide_density: bool | None = None
        self.tick = tick
        self._captured: dict[Any, Callable[..., Any]] = {}

    def measure(self, x: Data) -> None:
        """Find the bytes per lane and per datum by a few eager draws, on the pair's own device."""
        few = self.example = x if self.whole else take(x, min(4, batch_size(x)))
        batch = batch_size(few)
        structure(self.pair, few)
        with torch.no_grad(), torch.random.fork_rng():
            one, three = (_allocated(self.pair, few, samples) for samples in (1, 3))
        self.bytes_per_lane = max((three - one) / (2 * batch), 64.0)
        self.bytes_per_datum = max(one / batch - self.bytes_per_lane, 0.0)
        self.lanes = int(min(_LANES, max(1, 0.5 * self.memory_budget // self.bytes_per_lane)))

    def capture(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        pairs: Sequence[ModelGuidePair] = (),
        calls: int = 1,
        lanes: int = 1,
    ) -> Callable[..., Any]:
        """``function(x, *tensors)`` as a captured function, remembered by its name.

        Args:
            name: of the function: one name is one function with one set of constants.
            function: traceable; reads parameters through pairs that are the caller's or rewired from it.
            pairs: those pairs, None for the one whose global sites are held.
            calls: how often it will be called for one chunk of data.
            lanes: on how many lanes, for the decision whether compiling pays.
        """
        if name not in self._captured:
            mode = self._mode(calls * self.chunks, lanes)
            # The state is put into the caller's pair, which the rewired ones read through.
            call = capture(bind(self.original, lambda _, *args: function(*args)), mode=mode, name=name)
            known: set[Any] = set()

            def run(x: Data, *args: Any) -> Any:
                shape = _shape(x)
                if shape not in known:
                    known.add(shape)
                    for pair in pairs or (self.pair,):
                        _know_structure(pair, x)
                return call(self.state, x, *args)

            self._captured[name] = run
        return self._captured[name]

    def _mode(self, calls: int, lanes: int) -> Mode:
        if self.compile != "auto":
            return self.compile
        if calls < _WORTH_RECORDING:
            return "eager"
        return "compiled" if calls * lanes * self.bytes_per_lane > _WORTH_COMPILING else "graph"

    @cached_property
    def prior_pair(self) -> ModelGuidePair:
        """The pair with its own model as guide: its draws are from the prior."""
        return prior_as_guide(self.pair)

    @staticmethod
    def batch_of(x: Data) -> int:
        """Number of data in a chunk."""
        return batch_size(x)


def _shape(x: Data) -> Any:
    return tuple(x.shape) if isinstance(x, Tensor) else tuple((key, tuple(value.shape)) for key, value in x.items())


def _know_structure(pair: ModelGuidePair, x: Data) -> None:
    """Find the structure of a pair eagerly, on its own device, before anything is captured."""
    parameter = next(pair.parameters(), None)
    structure(pair, x if parameter is None else to(x, parameter.device))


def take(x: Data, count: int) -> Data:
    """The first data of a batch."""
    return x[:count] if isinstance(x, Tensor) else {key: value[:count] for key, value in x.items()}


def pick(x: Data, rows: Tensor) -> Data:
    """The data of these rows."""
    return x[rows] if isinstance(x, Tensor) else {key: value[rows] for key, value in x.items()}


def to(x: Data, device: torch.device, dtype: torch.dtype | None = None) -> Data:
    """A batch on a device, its floating-point members in a dtype."""

    def move(value: Tensor) -> Tensor:
        return value.to(device, dtype if dtype is not None and value.is_floating_point() else value.dtype)

    return move(x) if isinstance(x, Tensor) else {key: move(value) for key, value in x.items()}


def model_ready(data: Any, dtype: torch.dtype, seed: int = 0) -> Data:
    """A batch of all data as a model sees it, its floating-point members in a dtype.

    Args:
        data: a Dataset, tensor, array or mapping.
        dtype: that of the pair.
        seed: of a dynamic binarisation.

    Raises:
        DataError: data that cannot be used.
    """
    if isinstance(data, Tensor) and data.dtype == dtype and data.dim() > 1:
        Dataset(data)  # refuses empty data
        require_finite(data, "data")
        return data.detach()
    dataset = as_dataset(data, dtype=dtype)
    generator = torch.Generator(device=dataset.device).manual_seed(seed)
    return to(dataset.tensor(generator, dtype=dtype), dataset.device, dtype)


def _allocated(pair: ModelGuidePair, x: Data, samples: int) -> float:
    with _Allocated() as counter:
        log_joint(pair, x, draw(pair, x, samples).latents)
    return float(counter.bytes)


class _Allocated(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations make; none is counted as freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in inputs:
                self.bytes += value.numel() * value.element_size()
        return result
