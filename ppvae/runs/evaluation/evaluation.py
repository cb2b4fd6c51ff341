"""Evaluate a run on held-out data: the bound and any evidence methods, into a file of its parameters and data."""

from __future__ import annotations

import logging
import platform
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import FrameType
from typing import Any

import torch

from .chunks import ChunkFiles, digest_of_state
from .estimates import REPEATS, Method, bound_of, bound_row, describe, evidence_row, key_of
from .files import Evaluation, read_evaluations
from .record import EvaluationRecord, Say
from .simulation_check import NUM_DATA, check_by_simulation
from ..recipe.source import digest_of, split_spec
from ..storage.atomic import plain
from ..storage.folder import EVALUATION_LOCK, RunFolder, hold_lock
from ..training.history import RunInterrupt, terminations
from ..training.provenance import versions
from ..training.run import Run
from ...core import PairError, structure
from ...core.errors import RunError, try_one_of
from ...data import Dataset, random_rows
from ...inference.evidence import Outcome, log_evidence
from ...inference.execution.placement import choose_device, dtype_of, like_pair
from ...inference.execution.processes import PATIENCE, Processes, together

__all__ = [
    "CHUNK",
    "REPEATS",
    "Evaluation",
    "Method",
    "Say",
    "describe",
    "digest_of_parameters",
    "evaluate",
    "read_evaluations",
]

CHUNK = 100
"""Data in a chunk on a CPU: the most that a stop loses. A GPU, idle with so few, gets as many as its memory holds."""

_log = logging.getLogger("ppvae.runs")


def evaluate(
    run: Run,
    methods: Iterable[Method] = (),
    *,
    part: str | None = None,
    num_data: int | None = None,
    seed: int = 0,
    device: str = "auto",
    weights: int | None = None,
    chunk_size: int | None = None,
    simulate: int | None = None,
    again: bool = False,
    options: Sequence[str] = (),
    progress: bool = True,
    write: bool = True,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Estimate the bound and the log evidence of held-out data, in nats per datum.

    The file holds for every estimate: its side, its mean, its Monte Carlo standard error (another seed), its standard
    error over the choice of data (other data), seconds, the conditions that it depends on and the command that repeats
    it; the numbers of every datum are in the file that it names under ``per_datum``, with its row of the part under
    ``datum``. Where the data are some of the part, ``over_all`` is the mean over the whole of it
    (:meth:`~ppvae.inference.evidence.Evidence.over_all`).

    An estimate that an earlier evaluation finished under the same conditions stays, and so do all others: those of
    other methods and seeds beside it, those of other parameters and data in files of their own. One of the same method,
    options and seed that was computed elsewhere (other threads, versions or machine) is replaced once it is finished
    anew. Inside an evidence method every finished chunk of data is saved until the method is finished: an evaluation
    that was stopped, by Ctrl-C or by ``kill -9``, goes on there when it is called again, to the same numbers, bit for
    bit. A stop loses one chunk at most: all of its data go through all of a method's transitions together.

    Args:
        run: the run.
        methods: evidence methods, besides the bound.
        part: "test", "validation" or "train"; None for the first of these that exists.
        num_data: so many data of the part, drawn at random, always the same; None for all.
        seed: of all draws.
        device: "auto", "cpu", "cuda".
        weights: where the pair has a posterior over weights, the number of draws of them to average the evidence over;
            None to hold them at their mean.
        chunk_size: data in a chunk at most, on which the noise depends; None for 100 on a CPU, and for as many as the
            memory holds on a GPU. A guide with parameters for each datum has one chunk.
        simulate: check the methods on so many simulated data, see :func:`check_by_simulation`; None for no check, or
            for 50 data where the method ``bdmc`` is among the methods, which is that check.
        again: compute anew the estimates of an earlier evaluation.
        options: further words of the command that loads this run, for the commands in the result.
        progress: show bars on a terminal, and elsewhere a line now and then.
        write: save the result in the run folder.
        say: called with a line on every finished estimate.

    Returns:
        the content of the file: all that is known of these data under these parameters.

    Raises:
        RunError: no such part, or another process is evaluating this run.
        PairError: a method cannot be used on this pair, or it has no weights to average over.
        RunInterrupt: Ctrl-C, SIGTERM or SIGHUP; what is finished is kept.
    """
    methods = [replace(method, weights=weights) for method in methods]
    # Bidirectional Monte Carlo needs simulated data: it is the check, not an estimate.
    sandwich = next((replace(m, weights=None) for m in methods if m.table["name"] == "bdmc"), None)
    all_methods, methods = methods, [method for method in methods if method.table["name"] != "bdmc"]
    if sandwich is not None or simulate is not None:
        sandwich, simulate = sandwich or Method.parse("bdmc"), simulate or NUM_DATA
    part = part or run.held_out
    whole_part = run.part(part)
    datum = random_rows(len(whole_part), num_data or len(whole_part))
    data = whole_part if len(datum) == len(whole_part) else whole_part.take(datum)
    words = ["ppvae", "evaluate", str(run.folder.path), *options, "--part", part]
    words += _set_options(
        num_data=num_data,
        seed=seed,
        threads=torch.get_num_threads(),
        device=None if device == "auto" else device,
        weights=weights,
        chunk_size=chunk_size,
    )
    command = shlex.join(words)
    words += [word for method in all_methods for word in ("--method", method.text)]
    whole_command = shlex.join(words + _set_options(check_by_simulation=simulate))
    with (
        together(PATIENCE) as processes,
        hold_lock(run.folder, EVALUATION_LOCK) if write and processes.is_first else nullcontext(),
        _handle_signals(run.folder, whole_command, write),
    ):
        say = say if processes.is_first else _quiet
        where = choose_device(device)
        conditions = _conditions(run, data, seed, where)
        _require_same(conditions, processes)
        book = EvaluationRecord(run, part, data, datum, conditions, write and processes.is_first)
        if again:
            book.drop([key_of("elbo", seed), *(key_of(method.key, seed) for method in methods)])
        if not processes.of_first(book.keeps(key_of("elbo", seed), conditions, say)):
            row, columns = bound_row(run, data, seed, device, f"{command} --method elbo", processes)
            book.add({**row, "conditions": conditions}, columns, say)
        sites = _weights_to_hold(run, weights, say) if methods or sandwich or weights is not None else None
        place: dict[str, Any] = {"seed": seed, "device": device, "progress": progress and processes.is_first}
        size = CHUNK if chunk_size is None and where.type == "cpu" else chunk_size
        conditions = {**conditions, "chunk_size": size, "global_sites": sites}
        if sandwich is not None and simulate is not None and processes.is_first:
            whole = {**conditions, "simulated": simulate, "methods": [method.key for method in (sandwich, *methods)]}
            if again or not book.keeps_check(whole, say):
                position = None if sites is None else "mean"
                common: dict[str, Any] = {"weights": position, "chunk_size": size, "say": say, **place}
                check = check_by_simulation(run, data, methods, sandwich, simulate, **common)
                book.add_check({**check, "conditions": whole, "command": whole_command})
        bounds = None
        for method in methods:
            files = ChunkFiles(run.folder.chunks, {**conditions, "method": method.table}, processes)
            kept = book.keeps(key_of(method.key, seed), conditions, say)
            if processes.is_first and (again or kept):
                files.discard()  # a kill between the last row and this may have left some
            if processes.of_first(kept):
                continue
            if write and len(files):
                say(f"{method.label}: going on; chunks that are finished: {len(files)}")
            store = files if write else None
            evidence = log_evidence(
                run.pair, data, method=method.make(), global_sites=sites, chunk_size=size, store=store, **place
            )
            if bool((evidence.outcome == Outcome.INTERRUPTED).any()):
                raise KeyboardInterrupt
            if bounds is None and data is not whole_part and sites is None:
                bounds = bound_of(run, whole_part, seed, device, REPEATS, processes).elbo
            text = f"{command} --method {method.text}"
            row, columns = evidence_row(method, evidence, seed, text, files.seconds, bounds, datum)
            book.add({**row, "conditions": conditions}, columns, say)
            processes.wait()  # all have read them
            if processes.is_first:
                files.discard()
        return dict(processes.of_first(plain(book.values) if processes.count > 1 else book.values))


def _quiet(line: str) -> None:
    return None


def _require_same(conditions: Mapping[str, Any], processes: Processes) -> None:
    """Raise a RunError where the numbers of a process would be recorded under conditions that they do not have."""
    first = processes.of_first(dict(conditions))
    for name, value in conditions.items():
        if first[name] != value:
            raise RunError(
                f"{name}: expected {first[name]}, as process 0 has it, found {value} in process {processes.rank}"
                + try_one_of("processes on machines of one kind", "--device cpu", "--threads N for all of them")
            )


def _set_options(**options: int | str | None) -> list[str]:
    """Words of a command line: the options that have a value."""
    values = {name: value for name, value in options.items() if value is not None}
    return [word for name, value in values.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _weights_to_hold(run: Run, weights: int | None, say: Say) -> str | int | None:
    """The argument ``global_sites`` of ``log_evidence``: a number of draws of the weights, "mean", or None without any.

    Raises:
        PairError: ``weights`` for a pair without a posterior over weights.
    """
    if _holds_weights(run):
        if weights is None:
            say(
                "weights are held at the mean of their posterior: log p(x | w), not averaged over w "
                "(--weights 10 averages over ten draws)"
            )
        return weights or "mean"
    if weights is not None:
        raise PairError(
            "weights: the pair has no posterior over weights to average over"
            + try_one_of("leave --weights out", "ppvae fit --bayesian likelihood")
        )
    return None


def digest_of_parameters(run: Run) -> str:
    """The SHA-256 of the parameters of a run, to which its evaluations belong."""
    return digest_of_state(run.pair.state_dict())


def _conditions(run: Run, data: Dataset, seed: int, device: torch.device) -> dict[str, Any]:
    """All that an estimate depends on besides its method: under equal conditions, estimates are equal."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "parameters": digest_of_parameters(run),
        "pair_file": _pair_file(run),
        "data": data.fingerprint(),
        "num_train": len(run.data),
        "seed": seed,
        "device": str(device),
        "dtype": str(dtype_of(run.pair)),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()} {machine}",
        "versions": versions(),
    }


def _pair_file(run: Run) -> str | None:
    """The digest of the file of a pair that is no preset: its code may change where its parameters do not."""
    try:
        return digest_of(split_spec(run.recipe.model["pair"])[0])
    except (KeyError, RunError):
        return None


def _holds_weights(run: Run) -> bool:
    """Whether the pair has latents outside the data plate, which evidence needs values for."""
    few = like_pair(run.data.batch(torch.arange(min(2, len(run.data)))), dtype_of(run.pair))
    return bool(structure(run.pair, few).global_latents)


class _Termination(KeyboardInterrupt):
    """SIGTERM or SIGHUP, to be handled like Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _handle_signals(folder: RunFolder, command: str, write: bool) -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP raise a RunInterrupt with the command that goes on."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise _Termination(number)

    ours = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handle) for number in terminations()} if ours else {}
    try:
        yield
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, _Termination) else signal.SIGINT
        remark = f"what is finished is kept; go on with: {command}" if write else "nothing is kept"
        raise RunInterrupt(f"interrupted; {remark}", signal=int(number), folder=folder.path, saved=write) from error
    finally:
        for which, handler in before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)
