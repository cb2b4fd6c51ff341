"""Several steps of training in one call, on tensors that stay where they are: on a GPU one CUDA graph."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .changes import Changes
from .objective import METRICS, Objective
from .scheduled import Scheduled
from .state import TrainingState
from ..execution.placement import dtype_of, like_pair

_log = logging.getLogger("ppvae.fit")

STEPS_OF_A_CALL = {"cuda": 10}
"""By kind of device, how many steps are made in one call where the caller does not say; one elsewhere."""


def make_block(
    objective: Objective, state: TrainingState, scheduled: Scheduled, changes: Changes, size: int | None
) -> Block | None:
    """Steps in calls of ``size``, None for what the device takes; None where they are made one by one."""
    data = state.batches.data
    size = STEPS_OF_A_CALL.get(data.device.type, 1) if size is None else size
    recorded = objective.ours and objective.captured.mode != "eager"
    if size == 1 or not recorded or data.memory_mapped:
        return None
    return Block(objective, state, scheduled, changes, size)


class Block:
    """Makes k steps in one call, with the numbers of k steps one by one, and reads what they say once.

    What a step takes (the rows of its minibatch, the weights of the KL, the values of scheduled buffers) is written
    into static tensors for all k; the steps gather, draw, differentiate, clip and move the parameters. On a GPU all of
    that is recorded as one CUDA graph at the second call and replayed from then on, so that a step costs no launches
    and waits for nothing; elsewhere the steps are made one after another, which gains nothing and is what tests compare
    with steps one by one. A number that is not finite puts everything back to where it was before the first of the k
    steps; made one by one, the step at fault is then found.

    Args:
        objective: the step.
        state: of the run.
        scheduled: the numbers that follow schedules.
        changes: counts what callbacks changed in the pair: a graph is of the programs as they were.
        size: k.
    """

    def __init__(
        self, objective: Objective, state: TrainingState, scheduled: Scheduled, changes: Changes, size: int
    ) -> None:
        self.objective, self.state, self.scheduled, self.changes = objective, state, scheduled, changes
        self.size, self.dtype = size, dtype_of(objective.pair)
        self.device = state.batches.data.device
        rows = state.batches.batch_size or len(state.batches.data)
        sites: list[str | None] = list(scheduled.kl_weight) if isinstance(scheduled.kl_weight, dict) else [None]
        self.rows = torch.zeros(size, rows, dtype=torch.int64, device=self.device)
        self.weights = {site: torch.zeros(size, dtype=self.dtype, device=self.device) for site in sites}
        self.buffers = {name: torch.zeros(size, dtype=torch.float64, device=self.device) for name in scheduled.buffers}
        # Of every step the metrics, the norm of the gradient, and the sum that is finite only if all is.
        self.said = torch.zeros(size, len(METRICS) + 2, dtype=self.dtype, device=self.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._recorded: Any = None
        self._one_by_one = 1

    def is_ready(self, steps_left: int) -> bool:
        """Whether the next steps can be made together.

        The first is made alone, so that the optimiser has its state; so are the last ones of an epoch, and those after
        a call that came to nothing.
        """
        if self._one_by_one:
            self._one_by_one -= 1
            return False
        return self.size > 1 and steps_left >= self.size

    def __call__(self) -> list[Tensor] | None:
        """Make k steps: what each says, on the CPU; None where a number is not finite, and nothing has changed."""
        put_back = self._remember()
        self._write_inputs()
        try:
            self._run()
        except BaseException as error:
            put_back()  # whatever it is: steps that are not counted have not been made
            if self._graph is None or not isinstance(error, Exception):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            _log.warning("the training steps are launched one by one, not replayed: %s", reason)
            self.size, self._graph = 1, None
            return None
        said = self.said.cpu()
        if not math.isfinite(float(said[:, -1].sum())):
            put_back()
            self._one_by_one = self.size
            return None
        return list(said[:, :-1])

    def _write_inputs(self) -> None:
        state, batches = self.state, self.state.batches
        times = [(state.epoch + (state.steps_in_epoch + i) / len(batches), state.step + i) for i in range(self.size)]
        self.rows.copy_(torch.stack([batches.next_index() for _ in times]))
        several: list[Any] = [self.scheduled.weights(*time) for time in times]
        for site, weights in self.weights.items():
            weights.copy_(torch.tensor([one if site is None else one[site] for one in several], dtype=self.dtype))
        for name, schedule in self.scheduled.buffers.items():
            self.buffers[name].copy_(torch.tensor([schedule.at(*time) for time in times], dtype=torch.float64))

    def _steps(self) -> None:
        """The k steps, from static tensors to static tensors."""
        batches, pair = self.state.batches, self.objective.pair
        for i in range(self.size):
            for name, values in self.buffers.items():
                pair.get_buffer(name).copy_(values[i])
            weights = {site: values[i] for site, values in self.weights.items()}
            x = like_pair(batches.data.batch(self.rows[i], batches.generator, dtype=self.dtype), self.dtype)
            step = self.objective(x, weights.get(None, weights))
            self.objective.apply(step, self.state.optimizer)
            self.said[i].copy_(torch.cat((step.metrics, step.gradient_norm[None], step.check[None])))

    def _run(self) -> None:
        """The steps; on a GPU the first time one after another, then as a graph of them."""
        if self.device.type != "cuda":
            self._steps()
            return
        groups = self.state.optimizer.param_groups
        numbers = [{k: v for k, v in group.items() if k != "params" and not isinstance(v, Tensor)} for group in groups]
        now = (self.changes.count, numbers)  # constants of the graph, the learning rate among them
        if self._recorded != now:
            self._recorded, self._graph = now, None
            self._steps()
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self.state.batches.generator)
            with torch.cuda.graph(self._graph):
                self._steps()
        self._graph.replay()

    def _remember(self) -> Callable[[], None]:
        """What puts everything back that the steps change."""
        state, module = self.state, self.objective.module
        tensors = [*module.parameters(), *module.buffers()]
        values = [tensor.detach().clone() for tensor in tensors]
        optimiser = [
            (own, key, value, value.clone() if isinstance(value, Tensor) else None)
            for own in state.optimizer.state.values()
            for key, value in own.items()
        ]
        random = torch.get_rng_state(), torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        batches = state.batches.state_dict()

        def put_back() -> None:
            with torch.no_grad():
                for tensor, value in zip(tensors, values, strict=True):
                    tensor.copy_(value)
                for own, key, value, before in optimiser:
                    own[key] = value if before is None else value.copy_(before)
            torch.set_rng_state(random[0])
            if random[1] is not None:
                torch.cuda.set_rng_state(random[1], self.device)
            state.batches.load_state_dict(batches)

        return put_back
