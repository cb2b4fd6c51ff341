"""Options of training: small frozen objects, and optimisers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..core import PpvaeError
from ..core.errors import did_you_mean

MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule: TypeAlias = Callable[[Optimizer], LRScheduler]

_NAMED: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation bound has not risen for a while, and go back to the best parameters.

    Attributes:
        patience: epochs without a rise before training stops.
        min_gain: what counts as a rise, in nats per datum.
        restore_best: end with the parameters of the best epoch (not after Ctrl-C, so that the run can go on).
    """

    patience: int = 10
    min_gain: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise PpvaeError(f"EarlyStopping: expected patience of at least 1 epoch, found {self.patience}")


@dataclass(frozen=True)
class KLWarmup:
    """Raise the weight of the KL in the objective linearly to one (Bowman et al. 2015, Sønderby et al. 2016).

    Attributes:
        num_epochs: epochs until the weight is one.
        start: weight at the first step, in [0, 1].
    """

    num_epochs: int
    start: float = 0.0

    def __post_init__(self) -> None:
        if self.num_epochs < 1 or not 0 <= self.start <= 1:
            raise PpvaeError(
                f"KLWarmup: expected num_epochs >= 1 and 0 <= start <= 1, found {self.num_epochs} and {self.start}"
            )

    def weight(self, epochs: float) -> float:
        """The weight after so many epochs."""
        return min(1.0, self.start + (1 - self.start) * epochs / self.num_epochs)


def make_optimizer(
    optimizer: str | MakeOptimizer, learning_rate: float, parameters: Iterable[nn.Parameter]
) -> Optimizer:
    """A PyTorch optimiser, by name ("adam", "adamw", "adagrad", "sgd") or from a function of the parameters.

    Raises:
        PpvaeError: an unknown name, a learning rate that is not positive, or a function that returns something else.
    """
    parameters = list(parameters)
    if not isinstance(optimizer, str):
        made = optimizer(parameters)
        if not isinstance(made, Optimizer):
            raise PpvaeError(f"optimizer: expected a torch.optim.Optimizer, found {type(made).__name__}")
        return made
    if optimizer not in _NAMED:
        raise PpvaeError(f"unknown optimizer {optimizer!r}: {did_you_mean(optimizer, _NAMED)}")
    given: Any = learning_rate
    if not isinstance(given, (int, float)) or not given > 0:
        raise PpvaeError(f"learning_rate: expected a positive number, found {learning_rate!r}")
    # One kernel for all parameters: the step of a small network is mostly launch time otherwise.
    return _NAMED[optimizer](parameters, lr=learning_rate, fused=True)  # type: ignore[call-arg]
