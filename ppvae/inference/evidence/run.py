"""What a method needs while it runs: the pair at its global sites' values, captured functions, memory, progress; and
log-weights of many draws within that memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .base import Memory
from ..execution.execution import Execution, OnState
from ..execution.placement import Compile, choose_device, dtype_of, home_of, to
from ..execution.readiness import check_all
from ...core import Data, ModelGuidePair, batch_size, draw, log_joint, rows_of, structure
from ...core.conditioning import hold_sites, prior_as_guide
from ...core.reach import require_exact_draws
from ...data import Dataset, as_dataset
from ...data.convert import require_finite

# More draws at once than this leave the caches without gaining from wider matrix products.
_DRAWS_AT_ONCE = 8192
# The guide is run anew for every group of samples, so a group should not be small.
_AT_ONCE = 64
_ONE_BY_ONE = 8
_STEADY = 5  # log-weights, their float64 copy and the diagnostics' own copies, in units of eight bytes


class EvidenceRun(Execution):
    """What a method needs while it runs.

    Attributes:
        memory_budget: bytes.
        bytes_per_draw: of all intermediate results of log joint and log q at one draw for one datum.
        bytes_per_datum: the same for what is computed once for a datum (the encoder).
        needs_all_data: the pair works on all data together only, so that they are one chunk.
        truth: for simulated data, the latents that generated the chunk; None for real data.
        example: a few data, on the pair's own device.
        draws_at_once: how many draws, of all data of the chunk together, may be computed at once.
        guide_density: whether log q(z | x) can be evaluated at any z; None before this was tested.
    """

    def __init__(
        self,
        original: ModelGuidePair,
        pair: ModelGuidePair,
        *,
        device: torch.device,
        compile: Compile,
        memory_budget: int,
    ) -> None:
        super().__init__(original, pair, device=device, compile=compile)
        self.memory_budget = memory_budget
        self.bytes_per_draw = self.bytes_per_datum = 0.0
        self.draws_at_once = 1
        self.example: Data = {}
        self.needs_all_data = False
        self.truth: dict[str, Tensor] | None = None
        self.chunks = 1
        self.guide_density: bool | None = None
        self.tick: Callable[[float], None] = lambda amount: None
        self._captured: dict[str, OnState] = {}

    def measure(self, x: Data) -> None:
        """Find the bytes per draw and per datum by a few eager draws, on the pair's own device."""
        few = self.example = x if self.needs_all_data else first_rows(x, 4)
        batch = batch_size(few)
        with torch.no_grad(), torch.random.fork_rng():
            single, triple = (_allocation(self.pair, few, samples) for samples in (1, 3))
        self.bytes_per_draw = max((triple - single) / (2 * batch), 64.0)
        self.bytes_per_datum = max(single / batch - self.bytes_per_draw, 0.0)
        self.draws_at_once = int(min(_DRAWS_AT_ONCE, max(1, 0.5 * self.memory_budget // self.bytes_per_draw)))

    def remember(self, name: str, function: Callable[..., Any], *, calls: int = 1, draws: int = 1) -> OnState:
        """``function(x, *tensors)`` as a captured function, remembered by its name.

        Args:
            name: of the function; one name stands for one function with one set of constants.
            function: traceable; reads parameters through the caller's pair, or pairs derived from it.
            calls: how often it will be called for one chunk of data.
            draws: of how many draws, of all data together.
        """
        if name not in self._captured:
            self._captured[name] = self.capture(
                function, name=name, calls=calls * self.chunks, bytes_per_call=draws * self.bytes_per_draw
            )
        return self._captured[name]

    @cached_property
    def prior_pair(self) -> ModelGuidePair:
        """The pair with its own model as guide: its draws are from the prior."""
        return prior_as_guide(self.pair, self.example)

    @cached_property
    def proposing_prior(self) -> ModelGuidePair:
        """The same, for draws that are weighted by their density.

        Raises:
            PairError: a latent that PyTorch does not draw from it.
        """
        for info in structure(self.pair, self.example).model_latents:
            require_exact_draws(info)
        return self.prior_pair

    @staticmethod
    def batch_of(x: Data) -> int:
        """Number of data in a chunk."""
        return batch_size(x)


def first_rows(x: Data, count: int) -> Data:
    """The first data of a batch, at most so many."""
    return rows_of(x, torch.arange(min(count, batch_size(x))))


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


def prepare(
    pair: ModelGuidePair,
    data: Any,
    seed: int,
    device: str | torch.device,
    compile: Compile,
    memory_budget: int,
    global_sites: Mapping[str, Tensor] | str | None,
) -> tuple[EvidenceRun, Data]:
    """The run, and all data as the model sees them: pair checked, global sites at their values, memory measured.

    Arguments as for :func:`~.log_evidence.log_evidence`.
    """
    x = model_ready(data, dtype_of(pair), seed)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        here = to(x, home_of(pair))
        needs_all_data = check_all(pair, here)
        few = here if needs_all_data else first_rows(here, 4)
        conditioned = hold_sites(pair, few, global_sites)
    run = EvidenceRun(pair, conditioned, device=choose_device(device), compile=compile, memory_budget=memory_budget)
    run.needs_all_data = needs_all_data
    run.measure(few)
    return run, x


def _allocation(pair: ModelGuidePair, x: Data, samples: int) -> float:
    with _AllocationCounter() as counter:
        log_joint(pair, x, draw(pair, x, samples).latents, num_draws=samples)
    return float(counter.bytes)


class _AllocationCounter(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations return; none counts as freed."""

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


def sampling_memory(run: EvidenceRun, num_samples: int) -> Memory:
    """The log-weights stay; at least one draw is computed at once."""
    return Memory(8.0 * _STEADY * num_samples + run.bytes_per_datum, run.bytes_per_draw, min(num_samples, _AT_ONCE))


def collect(
    run: EvidenceRun,
    pair: ModelGuidePair,
    x: Data,
    name: str,
    log_weights: Callable[[ModelGuidePair, Data, int], Tensor],
    num_samples: int,
    keep: Callable[[Tensor], Tensor] = lambda part: part,
    *,
    share: float = 1.0,
) -> Tensor:
    """Log-weights [K, B] of a chunk, as many samples at a time as the memory holds.

    Args:
        run: where and how.
        pair: the caller's, or rewired from it.
        x: the chunk, [B, *event].
        name: of the captured function.
        log_weights: (pair, x, k) -> [k, B], or [k, *, B]; [k, B, *] where ``keep`` takes it.
        num_samples: K.
        keep: reduces the result of ``log_weights`` for a group of samples to [k, *, B].
        share: of the method's progress that this is; a test beside the method's own draws is none.
    """
    batch, wanted = run.batch_of(x), num_samples
    if draws_nothing(pair, x):
        num_samples = 1  # every draw has the same weight
    size = max(1, run.draws_at_once // batch)
    if not pair.vectorizes:
        size = min(size, _ONE_BY_ONE)  # the graph holds the program once for each
    steps = -(-num_samples // size)
    size = -(-num_samples // steps)
    call = run.remember(f"{name} x{size}", lambda x: log_weights(pair, x, size), calls=steps, draws=size * batch)
    parts = []
    for _ in range(steps):
        parts.append(keep(call(x)))
        run.tick(share * batch / steps)
    found = torch.cat(parts)[:num_samples]
    return found if num_samples == wanted else found.expand(wanted, *found.shape[1:])


def draws_nothing(pair: ModelGuidePair, x: Data) -> bool:
    """Whether the pair has no latent, all global sites being held and discrete ones summed out."""
    shape = structure(pair, x)
    auxiliary = any(info.kind == "auxiliary" for info in shape.guide)
    return not (shape.model_latents or auxiliary or pair.noise_per_datum)


def guide_weights(pair: ModelGuidePair, x: Data, num_samples: int) -> Tensor:
    """log p(x, z) - log q(z | x) of draws from the guide, [K, B], nats."""
    draws = draw(pair, x, num_samples)
    return log_joint(pair, x, draws.latents, num_draws=num_samples).local - draws.log_q
