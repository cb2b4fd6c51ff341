"""Callbacks of training: one line of metrics an epoch, checkpoints, and a stop on a signal."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TextIO

import torch
from torch import Tensor

from ..storage.atomic import plain, write_text
from ..storage.checkpoint import save
from ...core.errors import RunError, try_one_of
from ...inference import Callback, TrainingState
from ...inference.execution.processes import Processes

Row = dict[str, float]


class EpochCounter(Callback):
    """Counts finished epochs, and refuses a state to resume from that does not fit the pair."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_start(self, state: TrainingState) -> None:
        """Refuse a state that would fail late, or silently: fused optimisers write past the end of a short buffer.

        Raises:
            ValueError: names what does not fit.
        """
        for parameter, buffers in state.optimizer.state.items():
            for name, value in buffers.items():
                shape, dtype = ((), torch.float32) if name == "step" else (parameter.shape, parameter.dtype)
                if isinstance(value, Tensor) and (value.shape != shape or value.dtype != dtype):
                    raise ValueError(
                        f"{name} of the optimiser is {value.dtype} {tuple(value.shape)}, not {tuple(shape)}"
                    )
        if state.best_parameters:
            there = {name: value.shape for name, value in state.best_parameters.items()}
            if there != {name: value.shape for name, value in state.pair.state_dict().items()}:
                raise ValueError("the best parameters are not those of the pair")
        if not (0 <= state.best_epoch <= state.epoch <= state.step and 0 <= state.steps_in_epoch < len(state.batches)):
            raise ValueError(f"step {state.step}, {state.steps_in_epoch} in epoch {state.epoch + 1}: impossible")

    def on_epoch(self, state: TrainingState) -> None:
        """Count."""
        self.epochs += 1


class MetricsFile(Callback):
    """Writes ``metrics.jsonl``: one row an epoch, flushed at once.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def on_start(self, state: TrainingState) -> None:
        """Write the rows of past epochs: after a crash the file may be ahead of the checkpoint, or end in mid-line."""
        if not state.processes.is_first:
            return
        write_text(self.path, "".join(_line(row) for row in state.history))
        try:
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def on_epoch(self, state: TrainingState) -> None:
        """Append the row of this epoch."""
        if self._file is None:  # another process writes it
            return
        try:
            self._file.write(_line(state.history[-1]))
            self._file.flush()
        except OSError as error:
            raise RunError(
                f"{self.path}: cannot be written: {error.strerror or error}" + try_one_of("room on the disk")
            ) from error

    def on_end(self, state: TrainingState) -> None:
        """Close the file, synced: no later checkpoint restores rows that a power cut loses."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # on_epoch has raised already where a row could not be written
                self._file.flush()
                os.fsync(self._file.fileno())
            with contextlib.suppress(OSError):
                self._file.close()


def read_history(path: Path) -> list[Row]:
    """The rows of ``metrics.jsonl``, without a last line that a crash left incomplete.

    Raises:
        RunError: no such file, or a line that is no row.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("no table")
            wrong = [key for key, value in row.items() if not isinstance(value, int | float | None)]
            if wrong:
                raise ValueError(f"{wrong[0]!r} is no number")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise RunError(f"{path}, line {number}: not a row of metrics: {error}") from error
        rows.append({str(key): float("nan") if value is None else value for key, value in row.items()})
    return rows


class Checkpoints(Callback):
    """Saves the state at the end of an epoch: always of the last; of others so that this takes below 2 % of the time.

    Args:
        folder: of the checkpoints.
        num_epochs: epochs in all.
        about: plain values that go into every checkpoint.
        every: the least number of seconds between two checkpoints.
    """

    def __init__(self, folder: Path, num_epochs: int, about: dict[str, Any], *, every: float = 5.0) -> None:
        self.folder, self.num_epochs, self.about, self.every = folder, num_epochs, about, every
        self._best: tuple[int, dict[str, Any]] | None = None
        self._step: int | None = None  # of the last one saved
        self._next = time.monotonic() + every

    def on_epoch(self, state: TrainingState) -> None:
        """Save where it is time to."""
        if not state.processes.is_first:
            return
        if state.best_epoch == state.epoch:
            best = state.best_parameters or state.pair.state_dict()
            self._best = (state.epoch, {name: value.detach().clone() for name, value in best.items()})
        if state.epoch >= self.num_epochs or state.stop_reason or time.monotonic() >= self._next:
            self.save(state)

    def on_end(self, state: TrainingState) -> None:
        """Save where a later callback ended the run, after its last epoch was passed over here."""
        if state.stop_reason and state.step != self._step:
            self.save(state)

    def save(self, state: TrainingState) -> None:
        """Save now, in the first of several processes; the state must be between two steps."""
        if not state.processes.is_first:
            return
        start = time.monotonic()
        about = {**self.about, "epoch": state.epoch, "step": state.step, "stop_reason": state.stop_reason}
        save(self.folder, "last", state.step, state.state_dict(), about)
        self._step = state.step
        if self._best is not None:
            epoch, parameters = self._best
            row = state.history[epoch - 1]
            save(self.folder, "best", epoch, {"pair": parameters}, {**about, "epoch": epoch, "row": plain(row)})
            self._best = None
        now = time.monotonic()
        self._next = now + max(self.every, 50 * (now - start))


class RunInterrupt(KeyboardInterrupt):
    """Training was stopped by a signal.

    Attributes:
        signal: its number.
        folder: the run folder.
        saved: whether the state was saved at that very step.
    """

    def __init__(self, message: str, *, signal: int, folder: Path, saved: bool) -> None:
        super().__init__(message)
        self.signal, self.folder, self.saved = signal, folder, saved


def terminations() -> list[signal.Signals]:
    """The signals that ask a process to end: SIGTERM, and SIGHUP of a terminal that goes away, but not under nohup."""
    hangups = [number for number in signal.Signals if number.name == "SIGHUP"]  # Windows has none
    return [signal.SIGTERM, *(number for number in hangups if signal.getsignal(number) != signal.SIG_IGN)]


class StopOnSignal(Callback):
    """Ctrl-C, SIGTERM and SIGHUP end training after the step that is under way, with the state saved.

    A step is not interrupted, so the state is one between two steps, from which a run goes on bit for bit.
    A second Ctrl-C stops at once, and leaves the previous checkpoint. Several processes stop after the same step.

    Args:
        save: called with the state.
        processes: that train together.
    """

    def __init__(self, save: Callable[[TrainingState], None], processes: Processes) -> None:
        self._save, self._processes = save, processes
        self.signal: int | None = None
        self.saved = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *terminations()):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self._processes.request_stop()
        with contextlib.suppress(OSError):  # the terminal is gone
            if self._processes.is_first:
                os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    def on_step(self, state: TrainingState) -> None:
        """Stop here, unless the epoch is complete: then its row comes first."""
        if self._processes.stop_requested and state.steps_in_epoch < len(state.batches):
            self._stop(state)

    def on_epoch(self, state: TrainingState) -> None:
        """Stop here."""
        if self._processes.stop_requested:
            self._stop(state)

    def _stop(self, state: TrainingState) -> None:
        self._save(state)
        self.saved = True
        raise KeyboardInterrupt


def _line(row: Row) -> str:
    return json.dumps(plain(row), allow_nan=False) + "\n"
