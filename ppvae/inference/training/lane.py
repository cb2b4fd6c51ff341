"""One run among several in a stack, and which runs can stand in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.optim import Optimizer

from .scheduled import Weights, as_tensors
from .state import Callback, Fit, FitOutcome
from .svi_run import SVIRun
from ..execution.seeds import Stream
from ...core import Data, FitError
from ...core.lengths import bucket_of
from ...core.stacking import NotStackable, constants_of

ELEMENTWISE: tuple[type[Optimizer], ...] = (
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.Adagrad,
    torch.optim.SGD,
    torch.optim.RMSprop,
    torch.optim.Adadelta,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
)
"""Optimisers whose step of each number depends on that number's own gradients alone."""


@dataclass
class Lane:
    """One run among several.

    Attributes:
        seed: its seed.
        run: it.
        callbacks: its own.
        numbers: its random numbers.
        result: what became of it; None before its end.
        is_started: whether its callbacks know of it.
        given: the minibatch of its next step, and what that started from.
    """

    seed: int
    run: SVIRun
    callbacks: list[Callback]
    numbers: Stream
    result: Fit | FitError | None = None
    is_started: bool = False
    given: Given | None = None

    def start(self) -> None:
        """Call the callbacks before the first step."""
        if not self.is_started:
            with self.numbers:
                self.run.start(self.callbacks)
            self.is_started = True

    def finish(self) -> None:
        """Run to the end alone; a step that is not finite is a result."""
        self.start()
        try:
            with self.numbers:
                self.result = self.run.finish(self.callbacks, False)
        except FitError as error:
            if error.step is None:
                raise
            self.result = error

    def end(self, outcome: FitOutcome) -> None:
        """Call the callbacks at the end, and keep the result."""
        self.stop()
        with self.numbers:
            self.result = self.run.end(outcome)

    def fail(self, error: FitError) -> None:
        """Call the callbacks at the end, and keep the error."""
        self.stop()
        self.result = error

    def stop(self) -> None:
        """Call the callbacks at the end."""
        for callback in self.callbacks if self.is_started else ():
            with self.numbers:
                callback.on_end(self.run.state)

    def inputs(self, x: Data, weights: Weights) -> tuple[Any, ...]:
        """The arguments of its recorded step."""
        objective = self.run.objective
        weight = as_tensors(weights, torch.empty((), dtype=self.run.dtype, device=self.numbers.device))
        return objective.trainable, objective.constants, None, x, weight


@dataclass(frozen=True)
class Given:
    """A minibatch with its rows, the random state, the weights of the KL and the noise of a step."""

    x: Data
    index: Tensor
    random_state: Tensor
    weights: Weights
    noise: tuple[Tensor, ...]


def require_alike(lanes: Sequence[Lane]) -> None:
    """Raise NotStackable where the runs stand at different steps, or are trained in different ways."""
    first = lanes[0].run
    for lane in lanes:
        run, optimizer = lane.run, lane.run.state.optimizer
        if run.objective.captured.mode == "eager":
            raise NotStackable("the steps run eagerly")
        if run.objective.captured.mode == "graph" and bucket_of(run.state.pair.sequence_lengths(run.changes.example)):
            raise NotStackable("a step goes through as many time steps as its batch has")
        if type(optimizer) not in ELEMENTWISE:
            raise NotStackable(f"{type(optimizer).__name__} is not known to move every number by itself")
        for what, of in (
            ("at different steps", lambda r: (r.state.step, r.state.steps_in_epoch, len(r.state.batches))),
            ("with different parameters or buffers", lambda r: (list(r.objective.trainable), list(r.objective.inputs))),
            ("in different modes", lambda r: r.objective.captured.mode),
            (
                "with different optimisers",
                lambda r: (type(r.state.optimizer), options_of(r.state.optimizer), _groups(r)),
            ),
        ):
            if of(run) != of(first):
                raise NotStackable(f"the runs stand {what}")
    if len(lanes) < 2:
        raise NotStackable("there is one run")


def _groups(run: SVIRun) -> list[list[str]]:
    """The names of the parameters in each group of a run's optimiser, and what it keeps for each."""
    names = {id(parameter): name for name, parameter in run.objective.trainable.items()}
    state = run.state.optimizer.state
    return [
        [f"{names.get(id(p), '?')}: {sorted(state.get(p, {}))}" for p in group["params"]]
        for group in run.state.optimizer.param_groups
    ]


def require_own_memory(lanes: Sequence[Lane], graphs: Sequence[fx.GraphModule]) -> None:
    """Raise NotStackable where two tensors share memory: in the stack they would be two."""
    owner: dict[int, Tensor] = {}
    for lane in lanes:
        for tensor in lane.run.objective.inputs.values():
            address = tensor.untyped_storage().data_ptr()
            if address and owner.setdefault(address, tensor) is not tensor:
                raise NotStackable("parameters or buffers share memory")
    if any(tensor.untyped_storage().data_ptr() in owner for graph in graphs for tensor in constants_of(graph)):
        raise NotStackable("a tensor shares the memory of a parameter")
    trainable = [id(parameter) for lane in lanes for parameter in lane.run.objective.trainable.values()]
    if len(set(trainable)) < len(trainable):
        raise NotStackable("parameters are shared")


def options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
