"""Trackers of a run folder by name: opened with the run and again when it is resumed; no epoch is written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .mlflow import MLflowLogger
from .tensorboard import TensorBoardLogger
from .tracker import Tracker
from .wandb import WandbLogger
from ..recipe.catalogue import build, parse_table
from ..recipe.recipe import Recipe
from ..recipe.signatures import Entry
from ..storage.atomic import read_json, write_json
from ..storage.folder import find_run
from ...core import PpvaeError
from ...core.errors import RunError, try_one_of
from ...inference import Callback, TrainingState

LOGGERS: Mapping[str, Entry] = {
    "tensorboard": Entry("tensorboard", TensorBoardLogger, ("folder",)),
    "mlflow": Entry("mlflow", MLflowLogger, ("run_id", "parameters")),
    "wandb": Entry("wandb", WandbLogger, ("run_id", "config")),
}
"""The choices of ``ppvae fit --logger``."""

NONE = "none"
_FILE = "trackers.json"


def loggers_of(folder: Path | str, names: Iterable[str], recipe: Recipe) -> list[Callback]:
    """The trackers of a new run, to be handed to :func:`train` as ``callbacks``.

    Args:
        folder: of the run; TensorBoard's files go into its ``tensorboard``.
        names: "tensorboard", "mlflow", "wandb", with options or without: "mlflow:experiment=digits".
        recipe: of the run, for its page in the tracker.

    Raises:
        RunError: an unknown name or option, or a package that is not installed.
    """
    return [ResumableTracker(Path(folder), table, recipe) for table in _tables(names).values()]


def loggers_again(folder: Path | str, names: Iterable[str] = ()) -> list[Callback]:
    """The trackers of a run, which go on with their own runs; and further ones, which get all epochs.

    Args:
        folder: of the run.
        names: further ones, as for :func:`loggers_of`; "none" for none at all.

    Raises:
        RunError: the folder holds no run; otherwise as :func:`loggers_of`.
    """
    path = find_run(folder).path
    texts = list(names)
    tables = _tables(texts)
    if NONE in texts:
        return []
    records = _read(path)
    for name, about in records.items():
        if name in LOGGERS and name not in tables:
            tables[name] = {"name": name, **about.get("options", {})}
    recipe = Recipe.read(find_run(path).recipe)
    return [ResumableTracker(path, table, recipe, records.get(name)) for name, table in tables.items()]


class ResumableTracker(Callback):
    """A tracker whose run and last epoch are recorded in ``trackers.json`` of the run folder.

    After a crash the tracker may have epochs that the checkpoint does not. They are repeated bit for bit, so they are
    not written again, unless the tracker itself replaces them.

    Args:
        folder: of the run.
        table: name and options.
        recipe: of the run.
        record: of this tracker in the file, for a run that goes on.
    """

    def __init__(
        self, folder: Path, table: Mapping[str, Any], recipe: Recipe, record: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.name = folder, str(table["name"])
        self.options = {key: value for key, value in table.items() if key != "name"}
        record = record or {}
        self.last_epoch = int(record.get("last_epoch", 0))
        run_id = record.get("run_id")
        # The tracker has the parameters of a run that goes on, and MLflow refuses another value.
        about = None if run_id else recipe.to_dict()
        title = Path(folder).resolve().name
        arguments: dict[str, Any]
        if self.name == "tensorboard":
            arguments = {"folder": folder / "tensorboard"}
        elif self.name == "mlflow":
            arguments = {"run_id": run_id, "parameters": about, "run_name": self.options.get("run_name") or title}
        else:
            arguments = {"run_id": run_id, "config": about, "name": self.options.get("name") or title}
        options = {key: value for key, value in self.options.items() if key not in arguments}
        self.tracker: Tracker = build(LOGGERS, {"name": self.name}, **options, **arguments)

    def on_start(self, state: TrainingState) -> None:
        """Open, and hand over the past epochs that it lacks.

        Raises:
            RunError: it cannot be opened.
        """
        if not state.processes.is_first:
            return
        try:
            self.tracker.on_start(state)
        except PpvaeError:
            raise
        except Exception as error:
            raise RunError(
                f"the logger {self.name} cannot be opened: {type(error).__name__}: {error}"
                + try_one_of("its server and its settings", "no --logger, and --logger none beside --resume")
            ) from error
        for row in state.history:
            if row["epoch"] > self.last_epoch:
                self._hand_over(row)
        self._keep()

    def on_epoch(self, state: TrainingState) -> None:
        """Hand over the row of this epoch, once."""
        if state.processes.is_first and (state.epoch > self.last_epoch or self.tracker.replaces):
            self._hand_over(state.history[-1])

    def on_end(self, state: TrainingState) -> None:
        """Close."""
        if state.processes.is_first:
            self.tracker.on_end(state)

    def _hand_over(self, row: Mapping[str, float]) -> None:
        # Recorded first: a process killed in between omits an epoch rather than writing it twice.
        self.last_epoch = max(self.last_epoch, int(row["epoch"]))
        self._keep()
        self.tracker.hand_over(row)

    def _keep(self) -> None:
        about: dict[str, Any] = {"options": self.options, "last_epoch": self.last_epoch}
        run_id = getattr(self.tracker, "run_id", None)
        if run_id:
            about["run_id"] = run_id
        write_json(self.folder / _FILE, {**_read(self.folder), self.name: about})


def _tables(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for text in names:
        if text != NONE:
            table = parse_table(LOGGERS, text, "--logger", "logger")
            tables[table["name"]] = table
    return tables


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    if not (folder / _FILE).exists():
        return {}
    values = read_json(folder / _FILE)
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise RunError(f"{folder / _FILE}: expected a table of trackers" + try_one_of("remove that file"))
    return values
