"""Trackers: callbacks that hand the row of each epoch on, and whose failures never end a training."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

from ...core.errors import RunError, try_one_of
from ...inference import Callback, TrainingState

_log = logging.getLogger("ppvae.runs")


class Tracker(Callback):
    """Hands metrics on to another program; subclasses say how to open it, write a row to it and close it.

    A tracker that cannot be opened stops training before it begins. A later failure, for instance of its server, is
    logged, and training goes on.

    Attributes:
        package: the package that it needs.
        replaces: whether a row that is written again replaces the first.

    Raises:
        RunError: the package is not installed.
    """

    package: ClassVar[str]
    replaces: ClassVar[bool] = False

    def __init__(self) -> None:
        self.module = optional(self.package, type(self).__name__)
        self._is_open = False

    @abstractmethod
    def open(self, state: TrainingState) -> None:
        """Begin, or go on where ``state.epoch`` epochs are done."""

    @abstractmethod
    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """Hand over the metrics of an epoch, counted from 1."""

    @abstractmethod
    def close(self) -> None:
        """End."""

    def on_start(self, state: TrainingState) -> None:
        """Open."""
        self.open(state)
        self._is_open = True

    def on_epoch(self, state: TrainingState) -> None:
        """Write the last row of the history."""
        self.hand_over(state.history[-1])

    def hand_over(self, row: Mapping[str, float]) -> None:
        """Write a row of the history; its epoch is the axis of the plots. A failure is logged."""
        epoch = int(row["epoch"])
        try:
            self.write(epoch, {name: float(value) for name, value in row.items() if name != "epoch"})
        except Exception as error:
            self._complain(f"epoch {epoch} is missing there", error)

    def on_end(self, state: TrainingState) -> None:
        """Close, if it was opened."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self.close()
        except Exception as error:
            self._complain("it was not closed", error)

    def _complain(self, what: str, error: Exception) -> None:
        _log.warning("%s: %s, training goes on: %s: %s", type(self).__name__, what, type(error).__name__, error)


def optional(package: str, logger: str) -> Any:
    """Import a package of the extra ``track``.

    Args:
        package: what to import.
        logger: the class that needs it, for the message.

    Raises:
        RunError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise RunError(
            f"{logger} needs {error.name or package}, which is not installed"
            + try_one_of("pip install 'ppvae[track]'", "metrics.jsonl in the run folder, which holds the same rows")
        ) from error


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table as dotted keys.

    >>> flat({"seed": 0, "training": {"elbo": {"name": "trace"}}})
    {'seed': 0, 'training.elbo.name': 'trace'}
    """
    items: dict[str, Any] = {}
    for key, value in values.items():
        items |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return items
