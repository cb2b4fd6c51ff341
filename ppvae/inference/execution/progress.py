"""How far long work is: a bar on a terminal, a plain line now and then in a file or a pipe."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS = 30.0
"""Between two lines, at least."""


def progress_bar(
    iterable: Iterable[Any] | None = None,
    *,
    show: bool,
    total: int | None = None,
    desc: str | None = None,
    unit: str = "step",
    initial: int = 0,
    leave: bool = True,
) -> Any:
    """A bar of tqdm on standard error; where that is no terminal, one that prints lines.

    Args:
        iterable: what is gone through; None where the caller counts by ``update``.
        show: False for no bar and no lines.
        total: how many there are; None where the iterable says so.
        desc: what is done.
        unit: what is counted.
        initial: how many are done.
        leave: whether a bar stays on the terminal at the end.
    """
    kind = tqdm if not show or sys.stderr.isatty() else Lines
    return kind(
        iterable, total=total, desc=desc, unit=unit, initial=initial, leave=leave, disable=not show, file=sys.stderr
    )


class Lines(tqdm):  # type: ignore[type-arg]
    """A bar that prints a line at most every :data:`SECONDS`, all of them together: bars may stand inside others."""

    _last_line = 0.0
    _last_sign = 0.0  # of work: after a pause the clock starts anew

    def __init__(self, *args: Any, **options: Any) -> None:
        now = time.monotonic()
        if now - Lines._last_sign > SECONDS:
            Lines._last_line = now
        # Neither the monitor nor the width of a terminal have a place here.
        options |= {"mininterval": 0.5, "maxinterval": 1e9, "miniters": 1, "ncols": 80}
        super().__init__(*args, **options)

    def refresh(self, *args: Any, **options: Any) -> None:
        """Print a line, if it is time for one."""
        now = Lines._last_sign = time.monotonic()
        if now - Lines._last_line < SECONDS:
            return
        Lines._last_line = now
        print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far it is: "epoch 3/100, elbo -91.20 nats/datum; 0:31 so far, 16:40 left"."""
        about = self.format_dict
        count, total, elapsed = about["n"], about["total"], about["elapsed"]
        words = f"{self.desc.removesuffix(': ')}: " if self.desc else ""
        words += f"{self.unit} {int(count)}" + (f"/{int(total)}" if total else "")
        words += f", {self.postfix}" if self.postfix else ""
        words += f"; {tqdm.format_interval(elapsed)} so far"
        if total and count > self.initial:
            words += f", {tqdm.format_interval((total - count) * elapsed / (count - self.initial))} left"
        return words

    def close(self) -> None:
        """No line of its own: what ends says what came out."""
        self.delay = math.inf  # what is delayed so far leaves nothing behind
        super().close()
