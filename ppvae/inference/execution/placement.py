"""Where and how work runs: the device, the mode of capture, the dtype of a pair, and data brought there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ...core import Data, PpvaeError
from ...core.compile import MODES, Mode

Compile = Literal["auto", "eager", "graph", "compiled"]

# Inductor takes 5 to 12 s for a step on two cores and saves about 1 ms of each (784-500-20, M = 100).
CALLS_WORTH_COMPILING = 10_000


def choose_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" for a GPU where there is one.

    Raises:
        PpvaeError: a name that PyTorch does not know, or a GPU where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise PpvaeError(f"unknown device {device!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise PpvaeError(f"device {str(device)!r}: PyTorch sees no GPU here; try device='cpu'")
    return chosen


def choose_mode(compile: str, expected_calls: int) -> Mode:
    """The mode of capture; "auto" compiles where so many calls pay for it.

    Raises:
        PpvaeError: an unknown mode.
    """
    if compile == "auto":
        return "compiled" if expected_calls >= CALLS_WORTH_COMPILING else "graph"
    for mode in MODES:
        if compile == mode:
            return mode
    raise PpvaeError(f"compile: expected 'auto', {', '.join(map(repr, MODES))}, found {compile!r}")


def dtype_of(module: nn.Module) -> torch.dtype:
    """The floating dtype of a module's first parameter; the default dtype where it has none."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.get_default_dtype()


def like_pair(x: Data, dtype: torch.dtype) -> Data:
    """Floating tensors of a batch in the dtype of the pair."""
    if isinstance(x, Mapping):
        return {key: _cast(value, dtype) for key, value in x.items()}
    return _cast(x, dtype)


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
