"""Metrics of every epoch to TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .tracker import Tracker, optional
from ...inference import TrainingState


class TensorBoardLogger(Tracker):
    """Writes the row of every epoch as scalars for ``tensorboard --logdir FOLDER``; needs the extra ``track``.

    After a resume, what an interrupted run wrote beyond its checkpoint is hidden.

    Args:
        folder: where the event files go, for instance the run folder.

    Raises:
        RunError: TensorBoard is not installed.
    """

    package = "tensorboard"
    replaces = True

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._writer: Any = None

    def open(self, state: TrainingState) -> None:
        """Open an event file, which hides what older ones hold beyond the epochs done."""
        writers = optional("torch.utils.tensorboard", type(self).__name__)
        self._writer = writers.SummaryWriter(str(self.folder), purge_step=state.epoch + 1)

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """One scalar for each metric, flushed."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
