"""Several runs of one recipe whose steps are one step over stacked tensors, each with the numbers of a run alone.

The parameters, the state of the optimiser and the sums of each run are views into the stacked tensors while it is in
the stack, so that its callbacks, its validation and its saved state see what they would see alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from .ascent import Step
from .interrupt import BetweenSteps
from .lane import Given, Lane, options_of, require_alike, require_own_memory
from .loop import watches_steps
from .state import Callback
from .svi_run import SVIRun
from ..execution.progress import progress_bar
from ...core.compile import preserve
from ...core.stacking import NotStackable, Stacked

_log = logging.getLogger("ppvae.fit")

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


class _Apart(Exception):
    """Runs that can no longer be one; the message says why."""


class Together:
    """Runs in one stack, from where they stand until each has ended, or until they can no longer be one.

    Args:
        lanes: the runs, started.
        most_bytes: of the intermediate results of one run's step; more are refused. None for any number.

    Raises:
        NotStackable: their steps cannot be one.
    """

    def __init__(self, lanes: Sequence[Lane], most_bytes: float | None = None) -> None:
        self.lanes = list(lanes)
        self.interruptions = BetweenSteps()
        require_alike(lanes)
        graphs = []
        for lane in lanes:
            try:
                graph, self.tree = lane.run.objective.captured.recorded(*_example(lane))
            except Exception as error:
                raise NotStackable(f"the step cannot be recorded: {str(error).strip().splitlines()[0]}") from error
            graphs.append(graph)
        require_own_memory(lanes, graphs)
        mode = lanes[0].run.objective.captured.mode
        self.stacked = Stacked(graphs, mode=mode, name="the stacked training step")
        if most_bytes is not None and self.stacked.bytes_per_set > most_bytes:
            raise NotStackable(
                f"a step of one run writes {self.stacked.bytes_per_set / 1e6:.1f} MB, and above {most_bytes / 1e6:g} "
                "MB a stack is no faster than one after another"
            )
        self._check_against(graphs)

    def _check_against(self, graphs: Sequence[fx.GraphModule]) -> None:
        """Compare a stacked step with that of each run: what vmap computes is not taken on trust."""
        inputs, noises, alone = [], [], []
        for lane, graph in zip(self.lanes, graphs, strict=True):
            tensors = _tensors(_example(lane))
            with torch.random.fork_rng(), torch.no_grad(), preserve(tensors):
                torch.manual_seed(lane.seed)
                alone.append([value.clone() for value in [*graph(*tensors), *tensors]])  # and what is written into
                torch.manual_seed(lane.seed)
                noises.append(self.stacked.noise())
            inputs.append(tensors)
        stacked = _stack(inputs)
        together = [*self.stacked(stacked, _stack(noises)), *stacked]
        for place, lane in enumerate(self.lanes):
            for ours, theirs in zip(together, alone[place], strict=True):
                if not _close(ours[place], theirs):
                    raise NotStackable(f"the stacked step is not that of seed {lane.seed} alone")

    def __call__(self, progress: bool) -> None:
        """Run; what has not ended can be finished alone afterwards.

        Raises:
            KeyboardInterrupt: Ctrl-C; the runs stand where they are.
        """
        lanes, first = self.lanes, self.lanes[0].run
        bar = progress_bar(total=first.num_epochs, initial=first.state.epoch, unit="epoch", show=progress)
        entered = False
        try:
            self._enter(lanes)
            entered = True
            with self.interruptions:
                while active := _running(self.lanes):
                    if len(active) == 1:
                        raise _Apart("the others have ended")
                    if 2 * len(active) <= len(self.lanes):  # what has ended would be computed on and on
                        self._leave(active)
                        self._enter(active)
                    self._epoch(bar)
        except (_Apart, NotStackable) as reason:
            _log.info("seeds %s go on one after another: %s", [lane.seed for lane in _running(lanes)], reason)
        finally:
            bar.close()
            if entered:
                self._leave(_running(self.lanes))

    def _enter(self, lanes: Sequence[Lane]) -> None:
        """Stack the tensors of these runs, which become views of the stacked ones."""
        self.lanes = list(lanes)
        objectives = [lane.run.objective for lane in lanes]
        first = objectives[0]
        states = {name: _joined([_state_of(lane, name) for lane in lanes]) for name in first.trainable}
        self.tensors: dict[str, Tensor] = {}
        self.owned: list[list[tuple[Tensor, int]]] = [[] for _ in lanes]  # with their addresses in the stack
        for name in first.inputs:
            own = [objective.inputs[name] for objective in objectives]
            if all(tensor is own[0] for tensor in own):  # a constant that all share
                self.tensors[name] = own[0].detach().expand(len(own), *own[0].shape)
                continue
            stacked = self.tensors[name] = torch.stack([tensor.detach() for tensor in own])
            for place, tensor in enumerate(own):
                tensor.data = stacked[place]
                self.owned[place].append((tensor, tensor.data_ptr()))
        self.parameters = {name: nn.Parameter(self.tensors[name]) for name in first.trainable}
        optimizer = lanes[0].run.state.optimizer
        names = {id(parameter): name for name, parameter in first.trainable.items()}
        groups = [
            {**group, "params": [self.parameters[names[id(parameter)]] for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        make: Any = type(optimizer)
        self.optimizer: Optimizer = make(groups)
        for name, state in states.items():
            if state:
                self.optimizer.state[self.parameters[name]] = state
        self.sums = torch.stack([lane.run.state.sums for lane in lanes])
        for place, lane in enumerate(lanes):
            lane.run.state.sums = self.sums[place]
            lane.run.state.optimizer._opt_called = True  # type: ignore[attr-defined]  # a schedule warns otherwise
            lane.run.changes.fingerprint = lane.run.objective.reads()  # other memory is no change by a callback
        self.counts = [lane.run.changes.count for lane in lanes]
        self.common: list[dict[str, dict[str, tuple[Any, int]]]] = [{} for _ in lanes]
        self.ahead = set(range(len(lanes)))

    def _leave(self, lanes: Sequence[Lane]) -> None:
        """Give these runs memory of their own."""
        for lane in lanes:
            place, state = self.lanes.index(lane), lane.run.state
            self._show(place)
            for tensor, address in self.owned[place]:
                if tensor.data_ptr() == address:
                    tensor.data = tensor.data.clone()
            for parameter in lane.run.objective.trainable.values():
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
                values = state.optimizer.state.get(parameter, {})
                values.update({k: v.clone() for k, v in values.items() if isinstance(v, Tensor)})
            state.sums = state.sums.clone()
            lane.run.changes.fingerprint = lane.run.objective.reads()

    def _show(self, place: int) -> None:
        """Let the optimiser and the gradients of a run be views of the stacked ones, where they are of past steps."""
        if place not in self.ahead:
            return
        self.ahead.discard(place)
        lane = self.lanes[place]
        for name, stacked in self.parameters.items():
            parameter = lane.run.objective.trainable[name]
            parameter.grad = None if stacked.grad is None else stacked.grad[place]
            own = {
                key: value if not isinstance(value, Tensor) else value.clone() if key in _COMMON else value[place]
                for key, value in self.optimizer.state.get(stacked, {}).items()
            }
            if own:
                lane.run.state.optimizer.state[parameter] = own
            self.common[place][name] = {key: (value, _version(key, value)) for key, value in own.items()}

    def _require_together(self) -> None:
        """Take up what callbacks and schedules have changed in all runs alike.

        Raises:
            _Apart: they have changed something else.
        """
        active = _running(self.lanes)
        for lane in active:
            place, state = self.lanes.index(lane), lane.run.state
            if lane.run.changes.count != self.counts[place]:
                raise _Apart("a callback changed what the programs read")
            if any(tensor.data_ptr() != address for tensor, address in self.owned[place]):
                raise _Apart("a callback gave a tensor other memory")
            for name, shown in self.common[place].items() if place not in self.ahead else ():
                values = state.optimizer.state.get(lane.run.objective.trainable[name], {})
                if {key: (id(value), _version(key, value)) for key, value in values.items()} != {
                    key: (id(value), version) for key, (value, version) in shown.items()
                }:
                    raise _Apart("a callback changed the state of the optimiser")
        options = [options_of(lane.run.state.optimizer) for lane in active]
        if any(other != options[0] for other in options[1:]):
            raise _Apart("the options of the optimisers differ")
        for group, values in zip(self.optimizer.param_groups, options[0] if options else [], strict=False):
            group.update(values)

    def _epoch(self, bar: Any) -> None:
        active = _running(self.lanes)
        on_step = any(watches_steps(lane.callbacks) for lane in active)
        start, rows = time.perf_counter(), 0
        while active and active[0].run.state.steps_in_epoch < len(active[0].run.state.batches):
            with self.interruptions.step():
                rows += self._step(active)
            active = _running(active)
            if on_step:
                for lane in active:
                    self._call(lane, lane.run.after_step)
                self._require_together()
        seconds = time.perf_counter() - start
        means = []
        for lane in active:
            with lane.numbers:
                means.append(lane.run.close_epoch(seconds, self.interruptions))
        for lane in active:
            self._call(lane, lane.run.after_epoch)
        for lane in active:
            if lane.run.is_finished:
                self._leave([lane])
                lane.end(lane.run.outcome)
        bar.update(1)
        if means:
            among = f"{SVIRun.metric} {min(means):.2f} to {max(means):.2f} nats/datum"
            bar.set_postfix_str(f"{among}, {rows / seconds:,.0f} data/s")
        self._require_together()

    def _call(self, lane: Lane, hook: Callable[[Sequence[Callback]], None]) -> None:
        """Call the callbacks of a run, which may look at all of it."""
        if lane.callbacks:
            self._show(self.lanes.index(lane))
            with lane.numbers:
                hook(lane.callbacks)

    def _step(self, active: Sequence[Lane]) -> int:
        """One step of all; those that have ended repeat their last, into memory that no one reads."""
        for lane in active:
            with lane.numbers:
                x, index = lane.run.next_batch()
                weights, before = lane.run.follow_schedules(), torch.get_rng_state()
                lane.given = Given(x, index, before, weights, self.stacked.noise())
        given = [lane.given for lane in self.lanes if lane.given is not None]
        others = [_tensors(lane.inputs(one.x, one.weights)[2:]) for lane, one in zip(self.lanes, given, strict=True)]
        results = self.stacked([*self.tensors.values(), *_stack(others)], _stack([one.noise for one in given]))
        step: Step = pytree.tree_unflatten(results, self.tree)
        finite = torch.isfinite(step.check).tolist()
        for place, lane in enumerate(self.lanes):
            if lane.result is None and not finite[place]:
                gradients = {name: gradient[place] for name, gradient in step.gradients.items()}
                one = given[place]
                with lane.numbers:
                    error = lane.run.refusal(gradients, one.x, one.index, one.random_state, one.weights)
                self._leave([lane])
                lane.fail(error)
        for name, parameter in self.parameters.items():
            parameter.grad = step.gradients[name]
        self.optimizer.step()
        for name, value in step.buffers.items():
            self.tensors[f"module.{name}"].copy_(value)
        self.sums += torch.cat((step.metrics, step.gradient_norm[:, None]), 1).to(self.sums)
        self.ahead = set(range(len(self.lanes)))
        for lane in _running(active):
            lane.run.state.step += 1
            lane.run.state.steps_in_epoch += 1
        return sum(len(one.index) for one in given)


_COMMON = ("step", "mu_product")
"""What an optimiser keeps for a parameter as a whole, and not for each of its numbers."""


def _version(key: str, value: Any) -> int:
    """That of a tensor which is no view into the stack: what is written into it would be lost."""
    return value._version if key in _COMMON and isinstance(value, Tensor) else 0


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of another order of sums."""
    if not other.is_floating_point() or not other.numel():
        return torch.equal(one, other)
    tolerance = _TOLERANCE.get(other.dtype, 1e-2)
    scale = float(other.abs().nan_to_num().max())
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _running(lanes: Sequence[Lane]) -> list[Lane]:
    return [lane for lane in lanes if lane.result is None]


def _example(lane: Lane) -> tuple[Any, ...]:
    return lane.inputs(lane.run.changes.example, lane.run.scheduled.weights(0.0, 0))


def _tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]


def _stack(lanes: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack([tensor.detach() for tensor in tensors]) for tensors in zip(*lanes, strict=True)]


def _state_of(lane: Lane, name: str) -> Mapping[str, Any]:
    state: Mapping[str, Any] = lane.run.state.optimizer.state.get(lane.run.objective.trainable[name], {})
    return state


def _joined(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of a stacked parameter in an optimiser.

    Raises:
        NotStackable: what they have in common differs.
    """
    result: dict[str, Any] = {}
    for key in states[0]:
        values: list[Any] = [state.get(key) for state in states]
        if isinstance(values[0], Tensor) and key not in _COMMON:
            result[key] = torch.stack(values)
        elif any(bool(value != values[0]) for value in values):
            raise NotStackable(f"the optimisers differ in {key!r}")
        else:
            result[key] = values[0].clone() if isinstance(values[0], Tensor) else values[0]
    return result
