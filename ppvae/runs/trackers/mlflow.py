"""Metrics of every epoch to MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tracker import Tracker, flat
from ...inference import TrainingState

_LONGEST = 500  # characters of a parameter that every server since MLflow 1.28 accepts


class MLflowLogger(Tracker):
    """Logs the row of every epoch to an MLflow run; needs the extra ``track``.

    Where to is MLflow's own matter: ``mlflow.set_tracking_uri``, or the environment variable MLFLOW_TRACKING_URI.

    Args:
        experiment: its name; None for MLflow's active one.
        run_name: what MLflow shows.
        run_id: a run to go on with after a resume.
        parameters: what was run, nested or not: ``recipe.to_dict()``.

    Attributes:
        run_id: known once training has begun.

    Raises:
        RunError: MLflow is not installed.
    """

    package = "mlflow"

    def __init__(
        self,
        *,
        experiment: str | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.experiment, self.run_name, self.run_id = experiment, run_name, run_id
        self.parameters = {name: str(value)[:_LONGEST] for name, value in flat(parameters or {}).items()}

    def open(self, state: TrainingState) -> None:
        """Start the run, or go on with ``run_id``."""
        if self.experiment is not None:
            self.module.set_experiment(self.experiment)
        run = self.module.start_run(run_id=self.run_id, run_name=self.run_name)
        self.run_id = str(run.info.run_id)
        if self.parameters:
            self.module.log_params(self.parameters)

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        """All metrics in one call."""
        self.module.log_metrics(metrics, step=epoch)

    def close(self) -> None:
        """End the run."""
        self.module.end_run()
