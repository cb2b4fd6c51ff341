"""Metrics of every epoch to Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .tracker import Tracker
from ...inference import TrainingState


class WandbLogger(Tracker):
    """Logs the row of every epoch to a Weights & Biases run; needs the extra ``track``.

    Args:
        project: its name.
        name: what Weights & Biases shows.
        run_id: a run to go on with after a resume.
        config: what was run, ``recipe.to_dict()``.
        mode: "offline" writes to ``folder`` only, for ``wandb sync``; None for what WANDB_MODE says.
        folder: where local files go; None for the package's own choice.

    Attributes:
        run_id: known once training has begun.

    Raises:
        RunError: the package ``wandb`` is not installed.
    """

    package = "wandb"

    def __init__(
        self,
        *,
        project: str | None = None,
        name: str | None = None,
        run_id: str | None = None,
        config: Mapping[str, Any] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        self.project, self.name, self.run_id = project, name, run_id
        self.config, self.mode, self.folder = dict(config or {}), mode, folder
        self._run: Any = None

    def open(self, state: TrainingState) -> None:
        """Start the run, or go on with ``run_id``."""
        self._run = self.module.init(
            project=self.project,
            name=self.name,
            id=self.run_id,
            resume=None if self.run_id is None else "allow",
            config=self.config,
            mode=self.mode,
            dir=self.folder,
        )
        self.run_id = str(self._run.id)

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """All metrics in one call."""
        self._run.log(metrics, step=epoch)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
