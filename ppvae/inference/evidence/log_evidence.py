"""The verb: log p(x) of every datum by a method, in bounded memory."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .auto import Auto
from .base import Estimate, Evidence, EvidenceMethod
from .chunk_store import ChunkKey, ChunkStore, SharedChunkStore
from .global_latents import average, weight_draws
from .importance import ImportanceSampling
from .outcome import Outcome
from .run import EvidenceRun, first_rows, model_ready, prepare
from .simulated_data import SimulatedData
from ..execution.over_data import Chunk, over_chunks
from ..execution.placement import Compile, dtype_of, to
from ..execution.progress import progress_bar
from ..execution.seeds import chunk_seed
from ...core import Data, ModelGuidePair, PairError, PpvaeError, batch_size, rows_of
from ...core.errors import try_one_of
from ...core.measure import MEASURED_ROWS, measure_of
from ...core.modes import in_evaluation_mode

_log = logging.getLogger("ppvae.evidence")


@in_evaluation_mode
def log_evidence(
    pair: ModelGuidePair,
    data: Any,
    *,
    method: EvidenceMethod | Literal["auto"] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    memory_budget: int = 2**30,
    progress: bool = True,
    global_sites: Mapping[str, Tensor] | str | int | None = None,
    chunk_size: int | None = None,
    store: ChunkStore | None = None,
) -> Evidence:
    r"""Estimate $\log p(x_b) = \log \int p(x_b, z)\,dz$ of every datum, in nats, with its error.

    The data are worked through in chunks. Numbers depend on the seed, the data and their order, on the memory
    budget (through the size of the chunks, ``info["chunk_size"]``), and on the device and thread count by rounding.
    PyTorch's global random state is neither used nor changed.

    Ctrl-C returns the finished chunks; the rest is NaN with the outcome "interrupted". Before the first chunk is
    finished it raises KeyboardInterrupt. With a ``store`` it always raises: called again with the same arguments and
    the same store, it continues after the last finished chunk, to the numbers of an uninterrupted evaluation, bit for
    bit.

    A pair with global latents w, such as Bayesian weights, has an evidence per datum only given w. With
    ``global_sites=S`` it is averaged over S draws of the guide,

    $$\log p(x_b \mid \mathcal{D}) \approx \log \frac{1}{S} \sum_{s=1}^{S} \hat p(x_b \mid w_s),
      \qquad w_s \sim q(w):$$

    the posterior predictive density of data that q(w) was not fitted to. The logarithm of the average is a lower bound
    in expectation where the method's own estimate is one, by Jensen's inequality (``info["uncorrected"]``); the
    estimate corrects it to second order in 1 / S, and so is on neither side. For data that q(w) was fitted to, it is
    not the model's evidence, which integrates the weights over their *prior*.

    Args:
        pair: the pair; its parameters are read, not changed.
        data: a Dataset (its training part; pass ``data.test`` for held-out data), a tensor, an array, a mapping of
            such, or the result of :func:`simulate_data`.
        method: with its options; None for ``ImportanceSampling(1000)``; "auto" for ``Auto()``, which starts with that
            and continues where it is not good enough.
        seed: of all noise.
        device: "auto" for the GPU where there is one, else the CPU.
        compile: "eager", "graph", "compiled", or "auto": compiled where it pays.
        memory_budget: bytes that latents, weights and intermediate results may take.
        progress: show a bar on a terminal, and elsewhere a line now and then.
        global_sites: where the pair has global latents w (Bayesian weights): the value at which each is held,
            or "mean" for the guide's mean, and the result is log p(x_b | w); or S, a number of draws of the guide
            to average p(x_b | w) over, whose choice is then part of the standard error.
        chunk_size: data in a chunk at most; None for as many as the memory holds. An interruption loses one chunk.
        store: keeps finished chunks, which are then not computed again; None for no store.

    Returns:
        Evidence, its tensors [B] on the CPU in the dtype of the pair.

    Raises:
        PairError: the method cannot be used on this pair, global sites have no value, or there are none to draw.
        DataError: data that cannot be used.
        PpvaeError: a memory budget too small for one draw, a chunk size below 1, or a method of another type.
    """
    method = ImportanceSampling(1000) if method is None else Auto() if method == "auto" else method
    if not isinstance(method, EvidenceMethod):
        raise PpvaeError(
            f"method: expected an evidence method with its options, found {method!r}"
            + try_one_of("method=evidence.ImportanceSampling(1000)", "method=evidence.AIS()", 'method="auto"')
        )
    if isinstance(global_sites, int):
        if isinstance(data, SimulatedData):
            raise PairError(
                "simulated data carry latents that belong to the weights they were simulated at, not to other draws"
                + try_one_of("global_sites={site: value} of those weights", "data=simulated.x, the data alone")
            )
        options: dict[str, Any] = {
            "method": method,
            "device": device,
            "compile": compile,
            "memory_budget": memory_budget,
            "progress": progress,
            "chunk_size": chunk_size,
            "store": store,
        }
        return _over_weights(pair, data, global_sites, seed, options)
    start = time.perf_counter()
    simulated = isinstance(data, SimulatedData)
    run, x = prepare(pair, data.x if simulated else data, seed, device, compile, memory_budget, global_sites)
    run.truth = data.latents if simulated else None
    method.check(run)
    size = _chunk_size(run, method, batch_size(x), chunk_size)
    parts = _all_chunks(run, method, x, size, seed, progress, store, _sites_key(global_sites))
    estimate = _join(parts, batch_size(x))
    info: dict[str, Any] = {"seed": seed, "chunk_size": size, "device": str(run.device), **estimate.info}
    few = run.example if run.needs_all_data else to(first_rows(x, MEASURED_ROWS), run.device)
    measure = measure_of(run.pair, few)
    info |= {"data": _data_key(x), "measure": str(measure), "observed": measure.values}
    if isinstance(method, Auto):
        info["stages"] = [repr(stage) for stage in method.usable(run)]
    if run.pair is not pair:
        info["global_sites"] = global_sites if isinstance(global_sites, str) else "given"
    return Evidence(
        estimate.log_evidence,
        estimate.standard_error,
        estimate.effective_sample_size,
        estimate.pareto_k,
        method.bound,
        estimate.outcome,
        method.name,
        time.perf_counter() - start,
        info,
    )


def _over_weights(pair: ModelGuidePair, data: Any, count: int, seed: int, options: Mapping[str, Any]) -> Evidence:
    """The evidence averaged over draws of the global sites; Ctrl-C keeps the draws that are finished."""
    x = model_ready(data, dtype_of(pair), seed)  # once: a dynamic binarisation is the same at every draw
    parts: list[Evidence] = []
    for k, weights in enumerate(weight_draws(pair, x, count, seed)):
        try:
            part = log_evidence(pair, x, seed=chunk_seed(seed, k), global_sites=weights, **options)
            if bool((part.outcome == Outcome.INTERRUPTED).any()):
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not parts or options["store"] is not None:
                raise
            _log.warning("interrupted: %d of %d draws of the global sites are finished", len(parts), count)
            break
        parts.append(part)
    same = {key: parts[0].info[key] for key in ("data", "measure", "observed")}
    return average(parts, {"seed": seed, "global_sites": f"{len(parts)} draws", **same})


def _chunk_size(run: EvidenceRun, method: EvidenceMethod, num_data: int, limit: int | None) -> int:
    """Data per chunk: the tensors that stay take half of the memory budget at most."""
    if limit is not None and limit < 1:
        raise PpvaeError(f"chunk_size: expected at least 1, found {limit}")
    memory = method.memory(run)
    least = memory.per_datum + memory.least
    if least > run.memory_budget:
        raise PpvaeError(
            f"memory_budget of {run.memory_budget:,} bytes is too small for one datum: {method.name} needs "
            f"about {least:,.0f} bytes for it"
            + try_one_of(f"memory_budget={2 ** math.ceil(math.log2(2 * least))}", "fewer samples or chains")
        )
    by_memory = 0.5 * run.memory_budget // max(memory.per_datum, 1.0)
    size = int(max(1, min(num_data, by_memory, run.draws_at_once // memory.draws_at_once, limit or num_data)))
    if run.needs_all_data:
        size = num_data
    run.chunks = -(-num_data // size)
    return size


def _all_chunks(
    run: EvidenceRun,
    method: EvidenceMethod,
    x: Data,
    size: int,
    seed: int,
    progress: bool,
    store: ChunkStore | None,
    sites_key: str,
) -> list[Estimate]:
    num_data, truth = batch_size(x), run.truth
    parts: dict[int, Estimate] = {}

    def advance(amount: float, end: float) -> None:
        bar.update(min(amount, end - bar.n))

    def estimate(chunk: Chunk) -> None:
        place = (str(run.device), str(run.dtype))
        key = ChunkKey(
            repr(method),
            chunk.number,
            len(chunk.rows),
            num_data,
            chunk.seed,
            run.draws_at_once,
            run.compile,
            *place,
            sites_key,
        )
        previous = None if store is None else store.get(key)
        end = bar.n + chunk.valid
        if previous is not None and len(previous.log_evidence) == chunk.valid:
            bar.update(chunk.valid)
            parts[chunk.number] = previous
            return
        if truth is not None:
            run.truth = to(rows_of(truth, chunk.rows), run.device)
        # Rows that fill a chunk are no data, and a method may finish before its time.
        run.tick = partial(advance, end=end)
        part = method.estimate(run, to(rows_of(x, chunk.rows), run.device))
        advance(math.inf, end)
        part = Estimate(*(_valid_rows(field, chunk.valid) for field in part))
        if store is not None:
            store.put(key, part)
        parts[chunk.number] = part

    with progress_bar(total=num_data, desc=method.name, unit="datum", show=progress) as bar:
        try:
            all_at_once = [range(run.chunks)]
            for numbers in store.rounds(run.chunks) if isinstance(store, SharedChunkStore) else all_at_once:
                over_chunks(num_data, size, estimate, seed=seed, device=run.device, numbers=numbers)
        except KeyboardInterrupt:
            if not parts or store is not None:
                raise
            count = sum(len(part.log_evidence) for part in parts.values())
            _log.warning("%s: interrupted; %d of %d data are finished", method.name, count, num_data)
    return [parts[number] for number in sorted(parts)]


def _sites_key(global_sites: Mapping[str, Tensor] | str | None) -> str:
    """The values of the global sites, as a short string: "mean", a SHA-256, or empty."""
    if global_sites is None or isinstance(global_sites, str):
        return global_sites or ""
    return _digest(global_sites)


def _data_key(x: Data) -> str:
    """A SHA-256 of a batch; of floating-point members as float32, so that it is the same for pairs of any dtype."""
    members = {"x": x} if isinstance(x, Tensor) else dict(enumerate(x)) if isinstance(x, tuple) else x
    return _digest({str(name): v.float() if v.is_floating_point() else v for name, v in members.items()})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _valid_rows(field: Any, valid: int) -> Any:
    if isinstance(field, dict):
        return {key: value[:valid].cpu() for key, value in field.items()}
    return field[:valid].cpu()


def _join(parts: list[Estimate], num_data: int) -> Estimate:
    def cat(values: list[Tensor], rest: float) -> Tensor:
        head = torch.cat(values)
        return torch.cat([head, head.new_full((num_data - len(head),), rest)])

    def floats(name: str) -> Tensor:
        return cat([getattr(part, name) for part in parts], math.nan)

    info = {
        key: cat([part.info[key] for part in parts], math.nan if parts[0].info[key].is_floating_point() else 0)
        for key in parts[0].info
    }
    return Estimate(
        floats("log_evidence"),
        floats("standard_error"),
        floats("effective_sample_size"),
        floats("pareto_k"),
        cat([part.outcome for part in parts], Outcome.INTERRUPTED),
        info,
    )
