"""Ctrl-C takes effect between two steps, not inside one, so that the run can be resumed bit for bit."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from ..execution.processes import Processes


class BetweenSteps:
    """In this context the first Ctrl-C inside :meth:`step` waits for its end; a second one interrupts at once.

    Only Python's own handler is replaced, and restored at the end; a handler that a program has installed stays (that
    of ``ppvae fit`` waits for the end of a step too). Outside the main thread it does nothing. Several processes end
    after the same step: there the first Ctrl-C is a request, which the loop follows when all know of it.

    Args:
        processes: that train together.

    Attributes:
        inside: whether a step is running; after an interruption, whether it was inside one.
    """

    def __init__(self, processes: Processes | None = None) -> None:
        self.processes = processes or Processes()
        self.inside = False
        self._waiting = False
        self._handling = False

    def __enter__(self) -> BetweenSteps:
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._handling = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handling:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._handling = False

    def step(self) -> _Step:
        """A context in which the first Ctrl-C waits."""
        return _Step(self)

    def _handle(self, number: int, frame: FrameType | None) -> Any:
        alone = self.processes.count == 1
        if (alone and not self.inside) or self._waiting:
            raise KeyboardInterrupt
        self._waiting = True
        if not alone:
            self.processes.request_stop()
        if self.processes.is_first:
            os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")


class _Step:
    def __init__(self, owner: BetweenSteps) -> None:
        self.owner = owner

    def __enter__(self) -> None:
        self.owner.inside = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        owner = self.owner
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            return  # the second Ctrl-C, inside the step
        owner.inside = False
        if owner._waiting and kind is None and owner.processes.count == 1:
            owner._waiting = False
            raise KeyboardInterrupt
