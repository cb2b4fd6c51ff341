"""The loop of AEVB: its steps, the bound on held-out data after each epoch, the best parameters so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .ascent import Step
from .block import Block
from .changes import Changes
from .loop import Loop
from .objective import METRICS, Objective, diagnose
from .options import EarlyStopping
from .scheduled import Scheduled, Weights, as_tensors
from .state import FitOutcome, Row, TrainingState
from ..elbo.evaluation import BoundEstimate, BoundEvaluator
from ..execution.seeds import seed_generators, seed_of
from ...core import Data, FitError, PpvaeError, members_of
from ...core.errors import try_one_of
from ...data import Dataset


class SVIRun(Loop):
    """One call of :func:`fit`: the loop."""

    metric = "elbo"

    def __init__(
        self,
        state: TrainingState,
        objective: Objective,
        changes: Changes,
        validator: BoundEvaluator | None,
        held_out: Dataset | None,
        scheduled: Scheduled,
        early_stopping: EarlyStopping | None,
        num_epochs: int,
        seed: int,
        dtype: torch.dtype,
        block: Block | None,
    ) -> None:
        super().__init__(state, changes, num_epochs, dtype)
        self.objective, self.validator, self.held_out = objective, validator, held_out
        self.scheduled, self.early_stopping, self.seed, self.block = scheduled, early_stopping, seed, block

    def _advance(self, most: int) -> int:
        try:
            return self._step_or_block(most)
        except torch.OutOfMemoryError as error:
            rows = self.state.batches.batch_size or len(self.state.batches.data)
            raise PpvaeError(
                f"out of memory on {self.state.batches.data.device} in step {self.state.step + 1}, of {rows} data: "
                f"{str(error).splitlines()[0]}"
                + try_one_of(
                    f"batch_size={max(1, rows // 2)} or smaller", "fewer particles of the estimator", "a smaller model"
                )
            ) from error

    def _step_or_block(self, most: int) -> int:
        if self.block is None or not self.block.is_ready(most):
            return super()._advance(most)
        said = self.block()
        for metrics in said or ():
            self.count(metrics)
        return 0 if said is None else self.block.rows.numel()

    def _step(self, x: Data, index: Tensor) -> Tensor:
        weights = self.follow_schedules()
        tensors = as_tensors(weights, torch.empty((), dtype=self.dtype, device=index.device))
        before = self._random_state(self.processes.rank)
        step = self.objective(self.processes.share(x), tensors)
        if not math.isfinite(float(step.check)):
            if self.processes.count > 1:
                x, index, before, step = self._share_at_fault(x, index, tensors)
            raise self.refusal(step.gradients, x, index, before, weights)
        self.objective.apply(step, self.state.optimizer)
        return torch.cat((step.metrics, step.gradient_norm[None]))

    def follow_schedules(self) -> Weights:
        """Set the scheduled buffers for the next step; the weight of the KL in it."""
        state = self.state
        time = state.epoch + state.steps_in_epoch / len(state.batches), state.step
        self.scheduled.write(*time)
        return self.scheduled.weights(*time)

    def _random_state(self, rank: int) -> Tensor:
        """PyTorch's random state for this step; of several processes, each has one of its own.

        It follows from the seed, the process and the step, so that a run goes on without the states of the others.
        """
        if self.processes.count > 1:
            seed_generators(seed_of(self.seed, "process", rank, "step", self.state.step))
        return torch.get_rng_state()

    def _share_at_fault(self, x: Data, index: Tensor, weights: Any) -> tuple[Data, Tensor, Tensor, Step]:
        """The rows, the random state and the step of the first process whose numbers are not finite.

        Every process computes it for itself, so that all of them raise the same error.
        """
        for rank in range(self.processes.count):
            share, before = self.processes.share(x, rank), self._random_state(rank)
            step = self.objective.of_share(share, weights)
            if not math.isfinite(float(step.check)):
                break
        return share, index.chunk(self.processes.count)[rank], before, step

    def _validate(self) -> BoundEstimate | None:
        if self.validator is None or self.held_out is None:
            return None
        # The same draws at every epoch: the curve shows the parameters, not the noise.
        return self.validator(self.held_out, self.seed)

    def _row(self, means: list[float], held_out: BoundEstimate | None) -> Row:
        state, mean = self.state, dict(zip(METRICS, means, strict=False))
        row = self.scheduled.row(state.epoch + (len(state.batches) - 1) / len(state.batches), state.step - 1)
        row["elbo_train"] = mean["elbo"]
        if not math.isnan(mean["kl"]):
            row["reconstruction_train"], row["kl_train"] = mean["reconstruction"], mean["kl"]
        if mean["global"] and not math.isnan(mean["global"]):
            row["global_train"] = mean["global"]
        if held_out is not None:
            row["elbo_validation"] = float(held_out.elbo.double().mean()) + row.get("global_train", 0.0)
            row["reconstruction_validation"] = float(held_out.reconstruction.double().mean())
            row["kl_validation"] = float(held_out.kl.double().mean())
            self._watch_validation(row["elbo_validation"])
        return row

    def _best_epoch(self, outcome: FitOutcome) -> int | None:
        state, rule = self.state, self.early_stopping
        # An interrupted run keeps its current parameters, to be resumed.
        if rule is not None and rule.restore_best and state.best_parameters and outcome.code != "interrupted":
            state.pair.load_state_dict(state.best_parameters)
        return state.best_epoch or None

    def _watch_validation(self, elbo: float) -> None:
        state, rule = self.state, self.early_stopping
        gain = rule.min_gain if rule is not None else 0.0
        epoch = state.epoch + 1
        if elbo > state.best_elbo + gain:
            state.best_elbo, state.best_epoch = elbo, epoch
            if rule is not None and rule.restore_best:
                state.best_parameters = {n: v.detach().clone() for n, v in state.pair.state_dict().items()}
        elif rule is not None and epoch - state.best_epoch >= rule.patience:
            state.stop(
                f"stopped at epoch {epoch}: no rise of the validation bound since epoch {state.best_epoch} "
                f"({state.best_elbo:.3f} nats per datum)"
            )

    def refusal(
        self, gradients: dict[str, Tensor], x: Any, index: Tensor, random_state: Tensor, weights: Weights
    ) -> FitError:
        """The error of a step that is not finite, which names the source; no parameter has changed yet."""
        state = self.state
        diagnosis = diagnose(state.pair, x, gradients, random_state)
        rows = ", ".join(map(str, index[:8].tolist()))
        buffers = {} if state.estimator is None else state.estimator.state_dict()
        return FitError(
            f"training stopped in step {state.step + 1} (epoch {state.epoch + 1}), which changed no parameter: "
            f"{diagnosis.message}; the batch holds rows {rows}{', ...' if len(index) > 8 else ''}"
            + try_one_of("a smaller learning_rate", "clip_norm=...", "data on the scale that the likelihood expects"),
            site=diagnosis.site,
            parameter=diagnosis.parameter,
            step=state.step + 1,
            indices=tuple(index.tolist()),
            snapshot={
                "pair": {name: value.detach().clone() for name, value in state.pair.state_dict().items()},
                "batch": members_of(x),
                "mapping": isinstance(x, Mapping),
                "random_state": random_state,
                "kl_weight": weights,
                "num_data": len(state.batches.data),
                "estimator": {name: value.detach().clone() for name, value in buffers.items()},
                "prior_names": sorted(self.objective.prior_names),
            },
        )
