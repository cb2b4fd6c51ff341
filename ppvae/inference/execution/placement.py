"""Where and how work runs: the device, the mode of capture, the dtype of a pair, and moving data there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

import torch
from torch import Tensor, nn

from ...core import Data, PpvaeError
from ...core.compile import MODES, Mode
from ...core.errors import try_one_of
from ...core.pair import map_tensors

Compile = Literal["auto", "eager", "graph", "compiled"]

# Time that a compiled call saves over an interpreted one. Estimated from the size of the work and not timed: a seeded
# run must give the same numbers, and modes differ in rounding.
SAVING_PER_CALL = 5e-4  # seconds, of a leapfrog of any size
SAVING_PER_BYTE = 1.5e-10  # and for every byte that the interpreter writes
SAVING_PER_STEP = 1e-3  # of AEVB's step (784-500-20, M = 100), for a function whose bytes are unknown
COMPILE_SECONDS = 10.0  # time of Inductor, on two cores
WORTH_RECORDING = 50  # recording a small pair takes as long as some tens of its eager runs


def choose_device(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" for a GPU where there is one.

    Raises:
        PpvaeError: a name that PyTorch does not know, or a GPU where there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        result = torch.device(device)
    except RuntimeError as error:
        raise PpvaeError(f"unknown device {device!r}: expected 'auto', 'cpu', 'cuda' or 'cuda:0'") from error
    if result.type == "cuda" and not torch.cuda.is_available():
        raise PpvaeError(f"device {str(device)!r}: PyTorch sees no GPU here" + try_one_of("device='cpu'"))
    return result


def choose_mode(compile: str, calls: int, bytes_per_call: float | None = None) -> Mode:
    """The mode of capture; "auto" records where the number of calls pays for it, and compiles where it pays for that.

    Args:
        compile: "auto" or a mode.
        calls: how often the function will be called.
        bytes_per_call: bytes of all intermediate results of a call; None where unknown.

    Raises:
        PpvaeError: an unknown mode.
    """
    if compile == "auto":
        if calls < WORTH_RECORDING:
            return "eager"
        saving = SAVING_PER_STEP if bytes_per_call is None else SAVING_PER_CALL + SAVING_PER_BYTE * bytes_per_call
        return "compiled" if calls * saving >= COMPILE_SECONDS else "graph"
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
    return to(x, dtype=dtype)


@overload
def to(x: Tensor, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor: ...
@overload
def to(
    x: Mapping[str, Tensor], device: torch.device | None = None, dtype: torch.dtype | None = None
) -> dict[str, Tensor]: ...
@overload
def to(
    x: tuple[Tensor, ...], device: torch.device | None = None, dtype: torch.dtype | None = None
) -> tuple[Tensor, ...]: ...
@overload
def to(x: Data, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Data: ...
def to(x: Data, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Data:
    """A batch on a device, its floating-point members in a dtype."""

    def move(value: Tensor) -> Tensor:
        return value.to(device, dtype if dtype is not None and value.is_floating_point() else value.dtype)

    return map_tensors(move, x)


def home_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
