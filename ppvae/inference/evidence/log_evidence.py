"""The verb: log p(x) of every datum by a method, in bounded memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .base import Estimate, Evidence, EvidenceMethod
from .importance import ImportanceSampling
from .outcome import Outcome
from .prepare import prepare
from .run import Run, chunk_seed, pick, to
from ..placement import Compile
from ...core import Data, ModelGuidePair, PpvaeError, batch_size
from ...core.errors import try_one_of
from ...data import chunks

_log = logging.getLogger("ppvae.evidence")


def log_evidence(
    pair: ModelGuidePair,
    data: Any,
    *,
    method: EvidenceMethod | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    compile: Compile = "auto",
    memory_budget: int = 2**30,
    progress: bool = True,
    global_sites: Mapping[str, Tensor] | str | None = None,
) -> Evidence:
    r"""Estimate $\log p(x_b) = \log \int p(x_b, z)\,dz$ of every datum, in nats, with its error.

    The data are worked through in chunks. Numbers depend on the seed, the data and their order, and on the
    memory budget (through the size of the chunks, which is in ``info["chunk_size"]``); and on the device and
    thread count by rounding. Nothing of PyTorch's global random state is used or changed.

    Ctrl-C returns what is finished; the rest is NaN with the outcome "interrupted". Before the first chunk is
    finished it raises KeyboardInterrupt.

    Args:
        pair: the pair; its parameters are read, not changed.
        data: a Dataset (its training part is what it is; pass ``data.test`` for held-out data), a tensor, an
            array, a mapping of such, or what :func:`simulate_data` made.
        method: options and all; None for ``ImportanceSampling(1000)``.
        seed: of all noise.
        device: "auto" for the GPU where there is one, else the CPU.
        compile: "eager", "graph", "compiled", or "auto": compiled where it pays.
        memory_budget: bytes that latents, weights and intermediate results may take.
        progress: show a progress bar (on a terminal only).
        global_sites: where the pair has global latents w (Bayesian weights): the value at which each is held,
            or "mean" for the guide's mean; the result is then log p(x_b | w).

    Returns:
        Evidence, its tensors [B] on the CPU in the dtype of the pair.

    Raises:
        PairError: the method cannot be used on this pair, or global sites have no value.
        DataError: data that cannot be used.
        PpvaeError: a memory budget too small for one lane, or a method that is none.
    """
    method = ImportanceSampling(1000) if method is None else method
    if not isinstance(method, EvidenceMethod):
        raise PpvaeError(
            f"method: expected an evidence method with its options, found {method!r}"
            + try_one_of("method=evidence.ImportanceSampling(1000)", "method=evidence.AIS()")
        )
    started = time.perf_counter()
    run, x = prepare(pair, data, seed, device, compile, memory_budget, global_sites)
    method.check(run)
    size = _chunk_size(run, method, batch_size(x))
    parts = _all_chunks(run, method, x, size, seed, progress)
    found = _joined(parts, batch_size(x))
    info: dict[str, Any] = {"seed": seed, "chunk_size": size, "device": str(run.device), **found.info}
    if run.pair is not pair:
        info["global_sites"] = global_sites if isinstance(global_sites, str) else "given"
    return Evidence(
        found.log_evidence,
        found.standard_error,
        found.effective_sample_size,
        found.pareto_k,
        method.bound,
        found.outcome,
        method.name,
        time.perf_counter() - started,
        info,
    )


def _chunk_size(run: Run, method: EvidenceMethod, num_data: int) -> int:
    """Data per chunk: what stays takes half of the memory budget at most."""
    need = method.memory(run)
    least = need.per_datum + need.least
    if least > run.memory_budget:
        raise PpvaeError(
            f"memory_budget of {run.memory_budget:,} bytes is too small for one datum: {method.name} needs "
            f"about {least:,.0f} bytes for it"
            + try_one_of(f"memory_budget={2 ** math.ceil(math.log2(2 * least))}", "fewer samples or chains")
        )
    by_memory = 0.5 * run.memory_budget // max(need.per_datum, 1.0)
    size = int(max(1, min(num_data, by_memory, run.lanes // need.lanes)))
    if run.whole:
        size = num_data
    run.chunks = -(-num_data // size)
    return size


def _all_chunks(
    run: Run,
    method: EvidenceMethod,
    x: Data,
    size: int,
    seed: int,
    progress: bool,
) -> list[Estimate]:
    num_data, truth = batch_size(x), run.truth
    parts: list[Estimate] = []
    devices = [run.device] if run.device.type == "cuda" else []
    # On a terminal only: a bar in a log file is noise.
    with tqdm(total=num_data, desc=method.name, unit="datum", disable=None if progress else True) as bar:
        run.tick = _advance(bar)
        for index, (rows, valid) in enumerate(chunks(num_data, size)):
            chunk = pick(x, rows)
            if truth is not None:
                run.truth = {name: value[rows.to(value.device)].to(run.device) for name, value in truth.items()}
            with torch.random.fork_rng(devices=devices), torch.no_grad():
                torch.manual_seed(chunk_seed(seed, index))
                try:
                    part = method.estimate(run, to(chunk, run.device))
                except KeyboardInterrupt:
                    if not parts:
                        raise
                    _log.warning("%s: interrupted; %d of %d data are finished", method.name, index * size, num_data)
                    break
            parts.append(Estimate(*(_cut(field, valid) for field in part)))
    return parts


def _advance(bar: Any) -> Callable[[float], None]:
    def advance(amount: float) -> None:
        bar.update(amount)

    return advance


def _cut(field: Any, valid: int) -> Any:
    if isinstance(field, dict):
        return {key: value[:valid].cpu() for key, value in field.items()}
    return field[:valid].cpu()


def _joined(parts: list[Estimate], num_data: int) -> Estimate:
    def cat(values: list[Tensor], rest: float) -> Tensor:
        done = torch.cat(values)
        return torch.cat([done, done.new_full((num_data - len(done),), rest)])

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
