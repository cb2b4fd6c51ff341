"""What has to hold where several processes share every minibatch: the mean of their gradients is that of the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyro.infer
import torch
from torch import Tensor, nn

from .ascent import Ascent
from ..elbo import ELBO
from ..execution.processes import Processes
from ...core import PpvaeError
from ...core.errors import try_one_of

_PYRO = (pyro.infer.Trace_ELBO, pyro.infer.TraceMeanField_ELBO, pyro.infer.TraceEnum_ELBO)
"""Pyro's estimators whose loss is a sum over data; others, by their own text, are not."""


def require_equal_shares(batch_size: int | None, num_data: int, processes: Processes) -> None:
    """Raise a PpvaeError where a minibatch cannot be shared equally."""
    count = processes.count
    if count == 1 or (batch_size is not None and batch_size % count == 0):
        return
    found = f"{batch_size}" if batch_size is not None else f"None, all {num_data} data in their order"
    around = [(batch_size or num_data) // count * count + extra for extra in (0, count)]
    raise PpvaeError(
        f"batch_size: expected a multiple of {count}, as many rows for each of {count} processes, found {found}"
        + try_one_of(*(f"batch_size={size}" for size in around if 0 < size <= num_data), "one process")
    )


def require_sum_over_data(elbo: Any, objective: Ascent, inputs: tuple[Any, ...], processes: Processes) -> None:
    """Raise a PpvaeError where the objective of a batch is not the mean of its parts' objectives.

    Args:
        elbo: the estimator.
        objective: of the step.
        inputs: of the step: a batch and what else it takes.
        processes: that share a batch.
    """
    count = processes.count
    if count == 1:
        return
    name = type(elbo).__name__
    if isinstance(elbo, ELBO) and not elbo.sums_over_data:
        options = " with free_bits" if getattr(elbo, "free_bits", None) is not None else ""
        raise PpvaeError(
            f"{name}{options}: the objective of a batch is no sum over its data, so {count} processes would ascend "
            "another one" + try_one_of("one process", "an estimator whose sums_over_data is True: without free_bits")
        )
    if not isinstance(elbo, ELBO) and type(elbo) not in _PYRO:
        raise PpvaeError(
            f"{name} of Pyro: its loss need not be a sum over data, so {count} processes might descend another one"
            + try_one_of("one process", "an estimator of ppvae.inference.elbo", "Trace_ELBO() of Pyro")
        )
    for path, module in objective.pair.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise PpvaeError(
                f"{path!r} is a {type(module).__name__}: it normalises by the whole batch, of which each of {count} "
                "processes has a part" + try_one_of("nn.LayerNorm or nn.GroupNorm, of one datum", "one process")
            )
    for path in objective.written_buffers(*inputs):
        raise PpvaeError(
            f"buffer {path!r} is written by the programs: each of {count} processes would write it from its own rows"
            + try_one_of("one process", "a value that is computed anew in each step")
        )


def require_same(processes: Processes, facts: Mapping[str, Any]) -> None:
    """Raise a PpvaeError, in all processes, where they were not given the same.

    Args:
        processes: that are to train together.
        facts: plain values, by what they are.
    """
    if processes.count == 1:
        return
    own = {name: str(value) for name, value in facts.items()}
    first = processes.of_first(own)
    differs = next((name for name in own if own[name] != first[name]), "")
    for rank, name in enumerate(processes.texts(differs)):
        if name:
            values = processes.texts(own[name])
            raise PpvaeError(
                f"process {rank} of {processes.count} was given another {name} than process 0: {_short(values[rank])}, "
                f"not {_short(values[0])}"
                + try_one_of("the same arguments in all processes: each has all data, and takes its share of a batch")
            )


def require_same_tensors(processes: Processes, module: nn.Module) -> None:
    """Raise a PpvaeError, in all processes, where a parameter or a buffer is not the same, bit for bit."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    digests = {name: _digest(value) for name, value in tensors.items()}
    first = processes.of_first(digests)
    differs = next((name for name in sorted({*digests, *first}) if digests.get(name) != first.get(name)), "")
    for rank, name in enumerate(processes.texts(differs)):
        if name:
            raise PpvaeError(
                f"{name!r} is not the same in process {rank} of {processes.count} and in process 0: something changed "
                "it there, a callback for instance"
                + try_one_of("callbacks that do the same in all processes", "no random draws in them")
            )


def shapes(module: nn.Module) -> str:
    """Names, shapes and dtypes of the parameters and buffers of a module."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return "; ".join(f"{name} {tuple(value.shape)} {value.dtype}" for name, value in sorted(tensors.items()))


def _digest(value: Tensor) -> str:
    content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content.tobytes()).hexdigest()[:16]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
