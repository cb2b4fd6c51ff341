"""Epochs of steps, the same for every way to train: callbacks between the steps, Ctrl-C between them, the history."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .changes import Changes
from .data_parallel import require_same_tensors
from .interrupt import BetweenSteps
from .state import AnyCallback, Callback, Fit, FitInterrupt, FitOutcome, OnInterrupt, Row, TrainingState, as_callback
from ..elbo.evaluation import BoundEstimate
from ..execution.placement import like_pair
from ..execution.progress import progress_bar
from ...core import Data


class Loop(ABC):
    """A run of training from where its state stands to the last epoch.

    Args:
        state: the state; what a step says is added to its ``sums``, the Euclidean norm of the gradient last.
        changes: takes up what callbacks change in the pair.
        num_epochs: epochs in all.
        dtype: of the pair.

    Attributes:
        metric: name of the first of the sums, in nats per datum, for the progress bar.
    """

    metric: ClassVar[str]

    def __init__(self, state: TrainingState, changes: Changes, num_epochs: int, dtype: torch.dtype) -> None:
        self.state, self.changes, self.num_epochs, self.dtype = state, changes, num_epochs, dtype
        self.processes = state.processes
        self.interruptions = BetweenSteps(self.processes)

    @abstractmethod
    def _step(self, x: Data, index: Tensor) -> Tensor:
        """Train on one minibatch; what is added to the state's sums."""

    @abstractmethod
    def _row(self, means: list[float], held_out: BoundEstimate | None) -> Row:
        """The columns of this epoch's row that are not common to all training, from the means over its steps."""

    def _validate(self) -> BoundEstimate | None:
        """At the end of an epoch, before its row: an interruption here loses nothing of the epoch."""
        return None

    def _best_epoch(self, outcome: FitOutcome) -> int | None:
        """At the end: restore the best parameters where that was asked for, and say of which epoch they are."""
        return None

    def __call__(self, callbacks: Iterable[AnyCallback], progress: bool, on_interrupt: OnInterrupt) -> Fit:
        """Run to the end.

        Raises:
            FitInterrupt: Ctrl-C, where ``on_interrupt`` is "raise".
        """
        called = [as_callback(callback) for callback in callbacks]
        self.start(called)
        result = self.finish(called, progress)
        if on_interrupt == "raise" and result.outcome.code == "interrupted":
            raise FitInterrupt(result)
        return result

    def start(self, callbacks: Sequence[Callback]) -> None:
        """Call the callbacks before the first step; where one fails, those before it are ended."""
        running: list[Callback] = []
        try:
            for callback in callbacks:
                callback.on_start(self.state)
                running.append(callback)
            self.changes()
        except BaseException:
            for callback in running:
                callback.on_end(self.state)
            raise

    def end(self, outcome: FitOutcome) -> Fit:
        """What the run returns."""
        result = Fit(self.state.history, outcome, self._best_epoch(outcome), self.state)
        self.state.keep_random_states()
        return result

    @property
    def is_finished(self) -> bool:
        """Whether no epoch is to follow."""
        return self.state.epoch >= self.num_epochs or bool(self.state.stop_reason)

    @property
    def outcome(self) -> FitOutcome:
        """How the run has ended, where it is finished."""
        if self.state.stop_reason:
            return FitOutcome("early stopping", self.state.stop_reason)
        return FitOutcome("completed", f"completed {self.num_epochs} epochs")

    def interrupted(self, inside: bool) -> FitOutcome:
        """The outcome after Ctrl-C, between two steps or inside one."""
        where = "inside the step after" if inside else "after"
        return FitOutcome("interrupted", f"interrupted in epoch {self.state.epoch + 1}, {where} step {self.state.step}")

    def finish(self, callbacks: Sequence[Callback], progress: bool) -> Fit:
        """The epochs that are left, once it is started, and the end; Ctrl-C is an outcome."""
        state = self.state
        show = progress and self.processes.is_first
        bar = progress_bar(total=self.num_epochs, initial=state.epoch, unit="epoch", show=show)
        try:
            with self.interruptions:
                while state.epoch < self.num_epochs:
                    self._epoch(callbacks, bar)
                    if self.processes.count > 1:
                        state.stop_reason = self.processes.of_first(state.stop_reason)
                        require_same_tensors(self.processes, self.changes.objective.module)
                    if state.stop_reason:
                        break
            outcome = self.outcome
        except KeyboardInterrupt:
            outcome = self.interrupted(self.interruptions.inside)
        finally:
            bar.close()
            for callback in callbacks:
                callback.on_end(state)
        return self.end(outcome)

    def _epoch(self, callbacks: Sequence[Callback], bar: Any) -> None:
        state, steps = self.state, len(self.state.batches)
        on_step = watches_steps(callbacks)
        start, rows = time.perf_counter(), 0
        # Not by the epoch of the batches, which after the last step is the next one: a run stopped there, in a callback
        # or in the validation, resumes with the rest of this epoch.
        while state.steps_in_epoch < steps:
            before = state.step
            with self.interruptions.step():
                rows += self._advance(1 if on_step else steps - state.steps_in_epoch)
            # Read before the callbacks, which save where they see the request; one that comes after them waits.
            stop = self.processes.stop_requested
            if on_step:
                self.after_step(callbacks)
            if stop and state.steps_in_epoch < steps:
                raise KeyboardInterrupt
            if state.step // 20 > before // 20 and not bar.disable:
                rate = rows / (time.perf_counter() - start)
                mean = float(state.sums[0]) / state.steps_in_epoch
                bar.set_postfix_str(f"{self.metric} {mean:.2f} nats/datum, {rate:,.0f} data/s")
        seconds = time.perf_counter() - start
        mean = self.close_epoch(seconds, self.interruptions)
        bar.update(1)
        text = f"{self.metric} {mean:.2f}"
        if "elbo_validation" in state.history[-1]:
            text += f", validation {state.history[-1]['elbo_validation']:.2f}"
        bar.set_postfix_str(f"{text} nats/datum, {rows / seconds:,.0f} data/s")
        self.after_epoch(callbacks)

    def _advance(self, most: int) -> int:
        """Make the next step, or the next ones, at most so many; the number of rows that they used."""
        x, index = self.next_batch()
        self.count(self._step(x, index))
        return len(index)

    def next_batch(self) -> tuple[Data, Tensor]:
        """The next minibatch, and its rows of the data."""
        index, x = self.state.batches.next_rows(dtype=self.dtype)
        return like_pair(x, self.dtype), index

    def count(self, metrics: Tensor) -> None:
        """Count a step that was made, and add what it says to the sums."""
        self.state.step += 1
        self.state.steps_in_epoch += 1
        self.state.sums += metrics.to(self.state.sums)

    def after_step(self, callbacks: Sequence[Callback]) -> None:
        """Call the callbacks after a step."""
        for callback in callbacks:
            callback.on_step(self.state)
        self.changes()

    def close_epoch(self, seconds: float, interruptions: BetweenSteps) -> float:
        """Validate and write the row of the epoch, whose steps took so long; the mean of the metric."""
        state = self.state
        state.seconds += seconds
        held_out = self._validate()
        means: list[float] = (state.sums / state.steps_in_epoch).tolist()
        with interruptions.step():
            self._write_row(means, held_out)
        return means[0]

    def after_epoch(self, callbacks: Sequence[Callback]) -> None:
        """Call the callbacks after an epoch."""
        stop = self.processes.stop_requested  # before the callbacks, as after a step
        for callback in callbacks:
            callback.on_epoch(self.state)
        self.changes()
        if stop:
            raise KeyboardInterrupt

    def _write_row(self, means: list[float], held_out: BoundEstimate | None) -> None:
        state = self.state
        row: Row = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "seconds": state.seconds,
            "learning_rate": float(state.optimizer.param_groups[0]["lr"]),
            "gradient_norm": means[-1],
            **self._row(means, held_out),
        }
        state.sums.zero_()
        state.steps_in_epoch = 0
        state.history.append(row)
        if state.schedule is not None:
            state.schedule.step()


def watches_steps(callbacks: Iterable[Callback]) -> bool:
    """Whether a callback is to be called after every step."""
    return any(getattr(callback.on_step, "__func__", None) is not Callback.on_step for callback in callbacks)
