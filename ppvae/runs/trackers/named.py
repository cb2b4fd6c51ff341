"""Trackers of a run folder by name: opened with the run, opened again when it goes on, and no epoch written twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .mlflow import MLflowLogger
from .tensorboard import TensorBoardLogger
from .tracker import Tracker
from .wandb import WandbLogger
from ..recipe.catalogue import build, parsed
from ..recipe.recipe import Recipe
from ..recipe.signatures import Entry
from ..storage.atomic import read_json, write_json
from ..storage.folder import existing
from ...core import PpvaeError
from ...core.errors import RunError, try_one_of
from ...inference import Callback, TrainingState

LOGGERS: Mapping[str, Entry] = {
    "tensorboard": Entry("tensorboard", TensorBoardLogger, ("folder",)),
    "mlflow": Entry("mlflow", MLflowLogger, ("run_id", "parameters")),
    "wandb": Entry("wandb", WandbLogger, ("run_id", "config")),
}
"""What ``ppvae fit --logger`` can name."""

NONE = "none"
_FILE = "trackers.json"


def loggers_of(folder: Path | str, names: Iterable[str], recipe: Recipe) -> list[Callback]:
    """The trackers of a new run, to be handed to :func:`train` as ``callbacks``.

    Args:
        folder: of the run; TensorBoard's files go into its ``tensorboard``.
        names: "tensorboard", "mlflow", "wandb", with options or without: "mlflow:experiment=digits".
        recipe: what is run, for the page of the run there.

    Raises:
        RunError: an unknown name or option, or a package that is not installed.
    """
    return [Remembered(Path(folder), table, recipe) for table in _tables(names).values()]


def loggers_again(folder: Path | str, names: Iterable[str] = ()) -> list[Callback]:
    """The trackers that a run had, which go on with the same runs there; and further ones, which get all its epochs.

    Args:
        folder: of the run.
        names: further ones, as for :func:`loggers_of`; "none" for none at all.

    Raises:
        RunError: no run stands there; otherwise as :func:`loggers_of`.
    """
    path = existing(folder).path
    asked = list(names)
    tables = _tables(asked)
    if NONE in asked:
        return []
    known = _read(path)
    for name, about in known.items():
        if name in LOGGERS and name not in tables:
            tables[name] = {"name": name, **about.get("options", {})}
    recipe = Recipe.read(existing(path).recipe)
    return [Remembered(path, table, recipe, known.get(name)) for name, table in tables.items()]


class Remembered(Callback):
    """A tracker whose run, and the last epoch it was handed, stand in ``trackers.json`` of the run folder.

    After a crash the tracker may know epochs that the checkpoint does not. They come out the same again, bit for bit,
    so they are not written again, unless the tracker itself replaces them.

    Args:
        folder: of the run.
        table: name and options.
        recipe: what is run.
        known: what the file says of this tracker, for a run that goes on.
    """

    def __init__(
        self, folder: Path, table: Mapping[str, Any], recipe: Recipe, known: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.name = folder, str(table["name"])
        self.options = {key: value for key, value in table.items() if key != "name"}
        known = known or {}
        self.last_epoch = int(known.get("last_epoch", 0))
        run_id = known.get("run_id")
        # Parameters of a run that goes on stand there already, and MLflow refuses another value.
        about = None if run_id else recipe.to_dict()
        title = Path(folder).resolve().name
        given: dict[str, Any]
        if self.name == "tensorboard":
            given = {"folder": folder / "tensorboard"}
        elif self.name == "mlflow":
            given = {"run_id": run_id, "parameters": about, "run_name": self.options.get("run_name") or title}
        else:
            given = {"run_id": run_id, "config": about, "name": self.options.get("name") or title}
        options = {key: value for key, value in self.options.items() if key not in given}
        self.tracker: Tracker = build(LOGGERS, {"name": self.name}, **options, **given)

    def on_start(self, state: TrainingState) -> None:
        """Open, and hand over the epochs done that it was never given.

        Raises:
            RunError: it cannot be opened.
        """
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
        if state.epoch > self.last_epoch or self.tracker.replaces:
            self._hand_over(state.history[-1])

    def on_end(self, state: TrainingState) -> None:
        """Close."""
        self.tracker.on_end(state)

    def _hand_over(self, row: Mapping[str, float]) -> None:
        # Noted first: a process killed in between leaves an epoch out rather than writing it twice.
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
            table = parsed(LOGGERS, text, "--logger", "logger")
            tables[table["name"]] = table
    return tables


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    if not (folder / _FILE).exists():
        return {}
    values = read_json(folder / _FILE)
    if not isinstance(values, dict) or not all(isinstance(value, dict) for value in values.values()):
        raise RunError(f"{folder / _FILE}: expected a table of trackers" + try_one_of("remove that file"))
    return values
