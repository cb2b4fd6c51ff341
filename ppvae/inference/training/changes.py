"""Changes of a pair by callbacks during training, other than of parameters: taken up by the step, or an error."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .ascent import Ascent
from ...core import FitError, structure
from ...core.compile import Captured
from ...core.errors import try_one_of
from ...core.fingerprint import differences

_log = logging.getLogger("ppvae.fit")

RECAPTURES = 3
"""How often a step is recorded anew before the run continues eagerly."""


class Changes:
    """Keeps a recorded step valid where the pair's attributes, buffers or modules change between steps.

    An attribute is a constant of the recorded step: when it changes, the step is recorded anew, and after several times
    the run continues eagerly. A buffer is an input of the step: setting its value costs nothing. A program that changes
    its own attributes when it runs is not recorded at all.

    Args:
        objective: the step.
        optimizer: of the parameters.
        inputs: of the step: a batch of the shape of every step, and what else it takes.
        others: further captured functions of the pair.

    Attributes:
        count: how often something was changed.
    """

    def __init__(
        self, objective: Ascent, optimizer: torch.optim.Optimizer, inputs: Sequence[Any], others: Sequence[Captured]
    ) -> None:
        self.objective, self.optimizer, self.example = objective, optimizer, inputs[0]
        self.captured = (objective.captured, *others)
        self.recaptures = self.count = 0
        structure(objective.pair, self.example)  # before anything is recorded
        self.side_effects = objective.side_effects(*inputs)
        if self.side_effects and objective.captured.mode != "eager":
            self._run_eagerly(
                f"the programs change {_enumerate(self.side_effects)} when they are run", self.side_effects[0]
            )
        self.fingerprint = objective.reads()

    def __call__(self) -> None:
        """Take up changes after the callbacks.

        Raises:
            FitError: a parameter that the optimiser does not have: it was replaced or added.
        """
        current = self.objective.reads()
        names = [name for name in differences(self.fingerprint, current) if name not in self.side_effects]
        before, self.fingerprint = dict(self.objective.trainable), current
        if not names:
            return
        self.count += 1
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
            self._run_eagerly(f"{_enumerate(rest)} changed {self.recaptures} times since training began", rest[0])
            return
        if self.objective.captured.graphs:
            _log.warning("%s changed: the training step is recorded anew", _enumerate(rest))
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
        in_optimizer = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        current = dict(self.objective.module.named_parameters())
        for name, parameter in self.objective.trainable.items():
            if id(parameter) not in in_optimizer:
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
            if name not in current or not parameter.requires_grad:
                parameter.grad = None  # removed or frozen: without a gradient the optimiser skips it


def _enumerate(names: Sequence[str]) -> str:
    text = ", ".join(repr(name) for name in names[:3])
    return text + (f" and {len(names) - 3} more" if len(names) > 3 else "")
