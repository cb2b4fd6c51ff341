"""Options of training: small frozen objects, and optimisers by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ...core import PpvaeError
from ...core.errors import did_you_mean, try_one_of

_log = logging.getLogger("ppvae.fit")

MakeOptimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]
MakeSchedule: TypeAlias = Callable[[Optimizer], LRScheduler]

DEFAULT_BATCH_SIZE = 100

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adagrad": torch.optim.Adagrad,
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when the validation bound has not risen for some epochs, and restore the best parameters.

    Attributes:
        patience: epochs without a rise before training stops.
        min_gain: the smallest rise that counts, in nats per datum.
        restore_best: end with the parameters of the best epoch (not after Ctrl-C, so that the run can be resumed).
    """

    patience: int = 10
    min_gain: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise PpvaeError(f"EarlyStopping: expected patience of at least 1 epoch, found {self.patience}")


def rows_per_step(batch_size: int | None, num_data: int) -> int | None:
    """The effective batch size; the default on fewer data means None, all of them."""
    return None if batch_size == DEFAULT_BATCH_SIZE and num_data < DEFAULT_BATCH_SIZE else batch_size


def make_optimizer(
    optimizer: str | MakeOptimizer | PyroOptim, learning_rate: float, parameters: Iterable[nn.Parameter]
) -> Optimizer:
    """A PyTorch optimiser: by name ("adam", "adamw", "adagrad", "sgd"), from a function of the parameters, or Pyro's.

    Raises:
        PpvaeError: an unknown name, a learning rate that is not positive, a function that returns something else, or an
            optimiser of Pyro with options per parameter.
    """
    parameters = list(parameters)
    if isinstance(optimizer, PyroOptim):
        return _from_pyro(optimizer, parameters)
    if not isinstance(optimizer, str):
        result = optimizer(parameters)
        if not isinstance(result, Optimizer):
            raise PpvaeError(f"optimizer: expected a torch.optim.Optimizer, found {type(result).__name__}")
        return result
    if optimizer not in _OPTIMIZERS:
        raise PpvaeError(f"unknown optimizer {optimizer!r}: {did_you_mean(optimizer, _OPTIMIZERS)}")
    rate: Any = learning_rate
    if not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise PpvaeError(f"learning_rate: expected a positive, finite number, found {learning_rate!r}")
    # One kernel for all parameters: otherwise the step of a small network is mostly launch time.
    options: dict[str, Any] = {"fused": True}
    if optimizer in ("adam", "adamw") and any(parameter.is_cuda for parameter in parameters):
        options["capturable"] = True  # by a CUDA graph
    return _OPTIMIZERS[optimizer](parameters, lr=learning_rate, **options)  # type: ignore[call-arg]


def _from_pyro(optimizer: PyroOptim, parameters: list[nn.Parameter]) -> Optimizer:
    """One torch optimiser for all parameters, where Pyro has one for each."""
    name = getattr(optimizer.pt_optim_constructor, "__name__", "the optimiser")
    if isinstance(optimizer, PyroLRScheduler):
        raise PpvaeError(
            "optimizer: a schedule of Pyro is stepped by hand for every parameter"
            + try_one_of(
                "optimizer='adam', schedule=lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)"
            )
        )
    if callable(optimizer.pt_optim_args):
        raise PpvaeError(
            f"optimizer: pyro.optim.{name} with a function of the parameter's name for its options"
            + try_one_of("one set of options: pyro.optim.Adam({'lr': 1e-3})", "a function that makes parameter groups")
        )
    if optimizer.pt_clip_args:
        raise PpvaeError(
            f"optimizer: pyro.optim.{name} with clip_args clips the gradient of every parameter by itself"
            + try_one_of("fit(..., clip_norm=...), the norm of the whole gradient per datum")
        )
    if name in ("SGD", "ASGD", "ClippedAdam"):
        _log.warning(
            "gradients are per datum here, N times smaller than Pyro's: so is what the options of %s mean", name
        )
    make: Any = optimizer.pt_optim_constructor
    result: Optimizer = make(parameters, **optimizer.pt_optim_args)
    return result
