"""A pair on a device, and pure functions of it captured there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .placement import Compile, choose_mode, dtype_of
from ...core import ModelGuidePair
from ...core.compile import Captured, bind, capture, state_of


class OnState:
    """A captured function of an execution's state and further arguments."""

    def __init__(self, execution: Execution, captured: Captured) -> None:
        self.execution, self.captured = execution, captured

    def __call__(self, *args: Any) -> Any:
        """The function of these tensors."""
        return self.captured(self.execution.state, *args)


class Execution:
    """A pair on a device, and pure functions of it captured there.

    Attributes:
        original: the caller's pair.
        pair: the same pair, or one derived from it (with its global sites at fixed values).
        device: where to compute.
        dtype: of the parameters and data.
        compile: the caller's option.
        state: parameters and buffers, on the device.
    """

    def __init__(
        self, original: ModelGuidePair, pair: ModelGuidePair | None = None, *, device: torch.device, compile: Compile
    ) -> None:
        choose_mode(compile, 1)  # raises for an unknown mode before work begins
        self.original, self.pair = original, pair if pair is not None else original
        self.device, self.dtype, self.compile = device, dtype_of(original), compile
        self.refresh()

    def refresh(self) -> None:
        """Read the parameters and buffers of the pair anew."""
        self.state = {name: value.to(self.device) for name, value in state_of(self.original).items()}

    def capture(
        self, function: Callable[..., Any], *, name: str, calls: int, bytes_per_call: float | None = None
    ) -> OnState:
        """``function(*tensors)`` as a captured function that reads the pair's state.

        Args:
            function: traceable; it reads parameters through the caller's pair, or pairs derived from it.
            name: of the function in log lines.
            calls: how often it will be called.
            bytes_per_call: bytes that a call moves, if known: the time saved by compiling grows with them.
        """
        mode = choose_mode(self.compile, calls, bytes_per_call)
        # The state goes into the caller's pair, from which derived pairs read it.
        return OnState(self, capture(bind(self.original, lambda _, *args: function(*args)), mode=mode, name=name))
