"""What changes under a training run besides parameters: seen after callbacks, and brought into the step or refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import nn

from .objective import Objective
from ...core import Data, FitError, structure
from ...core.compile import Captured
from ...core.errors import try_one_of
from ...core.fingerprint import differences

_log = logging.getLogger("ppvae.fit")

RECAPTURES = 3
"""So often a step is recorded anew before the run goes on eagerly."""


class Changes:
    """Keeps a step true to its pair where attributes, buffers or modules change between steps.

    An attribute that changed is a constant of the recorded step, which is recorded anew; after several times the run
    goes on eagerly. A buffer is an input of the step: setting its value costs nothing. A program that changes
    attributes of its own when it is run is not recorded at all.

    Args:
        objective: the step.
        optimizer: which has the parameters.
        example: a batch of the shape of every step.
        others: further captured functions of the pair.
    """

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, example: Data, others: Sequence[Captured]
    ) -> None:
        self.objective, self.optimizer, self.example = objective, optimizer, example
        self.captured = (objective.captured, *others)
        self.recaptures = 0
        structure(objective.pair, example)  # found before anything is recorded
        self.own = objective.changed_by_a_run(example)
        if self.own and objective.captured.mode != "eager":
            self._run_eagerly(f"the programs change {_listed(self.own)} when they are run", self.own[0])
        self.known = objective.reads()

    def __call__(self) -> None:
        """Look, after callbacks have run.

        Raises:
            FitError: a parameter was replaced, added or taken out; the optimiser does not know of it.
        """
        now = self.objective.reads()
        names = [name for name in differences(self.known, now) if name not in self.own]
        before, self.known = dict(self.objective.trainable), now
        if not names:
            return
        self.objective.collect()
        self._check_parameters(before)
        tensors = dict(self.objective.pair.named_buffers(remove_duplicate=False))
        tensors.update(self.objective.pair.named_parameters(remove_duplicate=False))
        rest = [name for name in names if name not in tensors and not name.endswith(".requires_grad")]
        structure(self.objective.pair, self.example)
        if not rest or self.objective.captured.mode == "eager":
            return
        if self.objective.captured.graphs:
            self.recaptures += 1
        if self.recaptures > RECAPTURES:
            self._run_eagerly(f"{_listed(rest)} changed {self.recaptures} times since training began", rest[0])
            return
        if self.objective.captured.graphs:
            _log.warning("%s changed: the training step is recorded anew", _listed(rest))
        for captured in self.captured:
            captured.forget()

    def _run_eagerly(self, reason: str, name: str) -> None:
        last = name.rpartition(".")[2] if name.replace(".", "").isidentifier() else "beta"
        _log.warning(
            "%s: this run goes on eagerly, more slowly. A value that follows a schedule belongs in a buffer, which is "
            "an input of the recorded step: self.register_buffer(%r, torch.tensor(...)) and pair.%s.fill_(...)",
            reason,
            last,
            last,
        )
        for captured in self.captured:
            captured.run_eagerly()

    def _check_parameters(self, before: dict[str, nn.Parameter]) -> None:
        owned = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        now = dict(self.objective.trained.named_parameters())
        for name, parameter in now.items():
            if parameter.requires_grad and id(parameter) not in owned:
                what = "was replaced" if name in before else "is new"
                raise FitError(
                    f"parameter {name!r} {what} during training: the optimiser does not have it"
                    + try_one_of(
                        f"pair.{name}.data.copy_(...), which keeps the parameter and sets its value",
                        "fit(...) once more, which makes an optimiser for the parameters that there are",
                    ),
                    parameter=name,
                )
        for name, parameter in before.items():
            if name not in now or not parameter.requires_grad:
                parameter.grad = None  # taken out or frozen: the optimiser leaves it alone


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
