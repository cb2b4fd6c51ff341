"""The parts of a training run: its state, its callbacks, its result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .objective import METRICS
from ..execution.processes import Processes
from ...core import ModelGuidePair, PpvaeError
from ...core.errors import try_one_of
from ...data import Minibatches
from ...notebook import curves, number, panel

Row: TypeAlias = dict[str, float]

# Columns of the history that a fit shows: in words, and on a curve.
_REPORTED = {
    "elbo_train": ("bound, training", "training"),
    "elbo_validation": ("bound, validation", "validation"),
    "log_joint_train": ("log p(x, z), training", "log p(x, z)"),
}
OnInterrupt: TypeAlias = Literal["raise", "return"]


@dataclass(frozen=True)
class FitOutcome:
    """How a run ended: a value whose text is its message.

    Attributes:
        code: "completed", "early stopping" or "interrupted" (Ctrl-C).
        message: one sentence.
    """

    code: Literal["completed", "early stopping", "interrupted"]
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Fit:
    """The result of :func:`ppvae.inference.fit` or :func:`ppvae.inference.fit_mcem`; the pair was trained in place.

    Attributes:
        history: one row per epoch: epoch, step, seconds, learning_rate, gradient_norm; from ``fit``, at its last step
            kl_weight (``kl_weight.SITE`` where sites have their own) and the scheduled buffers by name, and in nats per
            datum elbo_train, reconstruction_train, kl_train and, with validation data, the same for them; from
            ``fit_mcem`` log_joint_train in nats per datum, acceptance, and the last step_size.
        outcome: how it ended.
        best_epoch: the epoch of the highest validation bound, counted from 1; None without validation data.
        state: everything that the next step needs.
    """

    history: list[Row]
    outcome: FitOutcome
    best_epoch: int | None
    state: TrainingState

    def __repr__(self) -> str:
        last = self.history[-1] if self.history else {}
        metrics = "".join(f", {k}={last[k]:.3f}" for k in _REPORTED if k in last)
        return f"Fit({len(self.history)} epochs{metrics}; {self.outcome})"

    def _repr_html_(self) -> str:
        """For notebooks: the last epoch, and the learning curve."""
        last = self.history[-1] if self.history else {}
        facts = {"outcome": str(self.outcome), "epochs": str(len(self.history))}
        for key, (name, _) in _REPORTED.items():
            if key in last:
                facts[name] = f"{number(last[key])} nats per datum"
        names = {key: name for key, (_, name) in _REPORTED.items() if key in last}
        series = {name: [row.get(key, math.nan) for row in self.history] for key, name in names.items()}
        best = self.best_epoch if "elbo_validation" in last else None
        mark = None
        if best is not None:
            mark = best - 1, self.history[best - 1]["elbo_validation"]
            facts["best epoch"] = f"{best}, {number(mark[1])} nats per datum"
        if "seconds" in last:
            facts["time"] = f"{number(last['seconds'], 1)} s"
        label = "by epoch, nats per datum" if "log_joint_train" in last else "bound by epoch, nats per datum"
        picture = curves(series, label=label, mark=mark, start=1) if series else ""
        return panel("Fit", facts, picture)


class FitInterrupt(KeyboardInterrupt):
    """Training was ended by Ctrl-C; the pair has the parameters of its last step.

    Attributes:
        fit: what :func:`ppvae.inference.fit` or :func:`ppvae.inference.fit_mcem` would have returned, to go on from:
            ``fit(..., resume=error.fit.state.state_dict())``.
    """

    def __init__(self, fit: Fit) -> None:
        super().__init__(fit.outcome.message)
        self.fit = fit

    @property
    def history(self) -> list[Row]:
        """One row for each finished epoch."""
        return self.fit.history


@dataclass
class TrainingState:
    """Everything that determines the rest of a run; callbacks may read it, and request the end by :meth:`stop`.

    Attributes:
        pair: the pair in training.
        optimizer: its optimiser.
        schedule: its learning-rate schedule, or None.
        batches: the source of minibatches, with its place in the epoch.
        step: steps done.
        history: rows of the epochs done.
        sums: metrics summed over this epoch's steps so far.
        best_elbo, best_epoch, best_parameters: the best validation bound, its epoch, and the parameters there.
        estimator: the estimator's own module, or None; of Monte Carlo EM, its chains.
        random_states: of PyTorch's generators, CPU and CUDA, at the end of the run; None while it runs.
        processes: that train together.
    """

    pair: ModelGuidePair
    optimizer: Optimizer
    schedule: LRScheduler | None
    batches: Minibatches
    step: int = 0
    history: list[Row] = field(default_factory=list)
    sums: Tensor = field(default_factory=lambda: torch.zeros(len(METRICS) + 1, dtype=torch.float64))
    steps_in_epoch: int = 0
    seconds: float = 0.0
    best_elbo: float = float("-inf")
    best_epoch: int = 0
    best_parameters: dict[str, Tensor] = field(default_factory=dict)
    stop_reason: str = ""
    estimator: nn.Module | None = None
    random_states: tuple[Tensor, list[Tensor]] | None = None
    processes: Processes = field(default_factory=Processes)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def stop(self, reason: str) -> None:
        """Request the end of training after this epoch; of several processes, what the first one requests counts."""
        self.stop_reason = reason

    def keep_random_states(self) -> None:
        """Save the random states at the end of the run: from here on PyTorch's generators are the caller's."""
        self.random_states = _random_states()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values, nested in dictionaries, from which a run resumes bit for bit."""
        random_state, cuda_random_states = self.random_states or _random_states()
        return {
            "pair": _clone(self.pair.state_dict()),
            "estimator": {} if self.estimator is None else _clone(self.estimator.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "batches": self.batches.state_dict(),
            "random_state": random_state,
            "cuda_random_states": cuda_random_states,
            "step": self.step,
            "history": [dict(row) for row in self.history],
            "sums": self.sums.clone(),
            "steps_in_epoch": self.steps_in_epoch,
            "seconds": self.seconds,
            "best_elbo": self.best_elbo,
            "best_epoch": self.best_epoch,
            "best_parameters": dict(self.best_parameters),
            "processes": self.processes.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`; sets the current random state too.

        Raises:
            PpvaeError: a schedule on one side only; the state of another algorithm, or of another number of processes.
            DataError: the state of other data, or of another batch size.
        """
        if len(state["sums"]) != len(self.sums):
            raise PpvaeError(
                "resume: the saved run was trained by another algorithm"
                + try_one_of("fit for a state of fit, fit_mcem for one of fit_mcem")
            )
        then, now = int(state.get("processes", 1)), self.processes.count
        if then != now:
            raise PpvaeError(
                f"resume: expected as many processes as trained the saved run, {then}, found {now}: each has noise of "
                "its own, and the numbers would be others"
                + try_one_of(f"torchrun --nproc-per-node {then}", f'resume={{**state, "processes": {now}}}, as asked')
            )
        if (self.schedule is None) != (state["schedule"] is None):
            raise PpvaeError("resume: the saved run and this one differ in having a learning-rate schedule")
        self.batches.load_state_dict(state["batches"])  # first, because it says what is wrong with other data
        self.pair.load_state_dict(state["pair"])
        if self.estimator is not None:
            self.estimator.load_state_dict(state["estimator"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.random_states = None
        torch.set_rng_state(state["random_state"])
        if state["cuda_random_states"]:
            torch.cuda.set_rng_state_all(state["cuda_random_states"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.history = [dict(row) for row in state["history"]]
        self.sums, self.steps_in_epoch = state["sums"].clone(), int(state["steps_in_epoch"])
        self.best_elbo, self.best_epoch = float(state["best_elbo"]), int(state["best_epoch"])
        self.best_parameters = dict(state["best_parameters"])


def _random_states() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _clone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


class Callback:
    """Hooks of a training run; the methods of this base class do nothing."""

    def on_start(self, state: TrainingState) -> None:
        """Before the first step (after resuming, before the next)."""

    def on_step(self, state: TrainingState) -> None:
        """After every step."""

    def on_epoch(self, state: TrainingState) -> None:
        """After every epoch; its row is the last of ``state.history``."""

    def on_end(self, state: TrainingState) -> None:
        """At the end, also after Ctrl-C and after an error."""


AnyCallback: TypeAlias = Callback | Callable[[TrainingState], None]


class _OnEpoch(Callback):
    def __init__(self, function: Callable[[TrainingState], None]) -> None:
        self.function = function

    def on_epoch(self, state: TrainingState) -> None:
        self.function(state)


def as_callback(callback: AnyCallback) -> Callback:
    """A callback; a plain function becomes one that is called after every epoch."""
    return callback if isinstance(callback, Callback) else _OnEpoch(callback)
