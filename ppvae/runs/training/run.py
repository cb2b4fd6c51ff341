"""A run that has been trained: what it holds, and how it is loaded back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from .history import Row, read_history
from .prepare import prepare
from .provenance import about_run
from .restore import restore
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from ..storage.folder import RunFolder, find_run
from ...core import ModelGuidePair
from ...core.errors import RunError, did_you_mean
from ...data import Dataset

_log = logging.getLogger("ppvae.runs")

Which = Literal["result", "best", "last"]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run: its recipe and its outcome.

    Attributes:
        folder: its folder.
        recipe: its recipe.
        pair: the trained pair.
        data: the data set.
        history: one row an epoch, as ``Fit.history``.
        info: versions, times, outcome, fingerprints (``run.json``).
        parameters: where the pair's parameters are from, for messages: "epoch 12, the best on validation data".
    """

    folder: RunFolder
    recipe: Recipe
    pair: ModelGuidePair
    data: Dataset
    history: list[Row] = field(default_factory=list)
    info: Mapping[str, Any] = field(default_factory=dict)
    parameters: str = ""

    def part(self, name: str) -> Dataset:
        """The part "train", "validation" or "test" of the data.

        Raises:
            RunError: there is none of that name.
        """
        parts = self.data.parts
        if name not in parts:
            raise RunError(f"{self.data.name}: has no part {name!r}: {did_you_mean(name, parts)}")
        part = parts[name]
        return replace(part, validation=None, test=None) if name == "train" else part

    @property
    def held_out(self) -> str:
        """The part to evaluate on: "test" where there is one, else "validation", else "train"."""
        return next(name for name in ("test", "validation", "train") if name in self.data.parts)

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}, {self.recipe.model_name}, {self.parameters})"


def load_run(path: Path | str, *, pair: Any = None, which: Which = "result", force: bool = False) -> Run:
    """A run as it was trained: recipe, data, pair with its parameters, history.

    Args:
        path: the run folder.
        pair: as for :func:`train`.
        which: "result" for what training returned (the best epoch where early stopping went back to it, else the
            last); "best" on validation data; "last".
        force: although the file of the pair changed.

    Raises:
        RunError: the folder holds no run, no checkpoint, or damaged ones only.
    """
    folder = find_run(path)
    recipe, data, new_pair = prepare(Recipe.read(folder.recipe), pair, force=force)
    early = recipe.training.early_stopping
    best = which == "best" or (which == "result" and early is not None and early.restore_best)
    if best and not checkpoint.find_records(folder.checkpoints, "best"):
        if which == "best":
            raise RunError(f"{folder.path}: no best epoch is kept: the run had no validation data")
        best = False
    state, about = checkpoint.load(folder.checkpoints, "best" if best else "last")
    restore(new_pair, state.get("pair", {}), data, recipe.training.batch_size, str(folder.path))
    kind = "the best on validation data" if best else "the last"
    info, history = folder.read_info_if_whole(), _history(folder)
    if (info.get("best_epoch") or 0) > len(history):
        _log.warning("%s: has no row of the best epoch, %s", folder.metrics, info["best_epoch"])
        info["best_epoch"] = None
    if info.get("data") and info["data"] != about_run(data)["data"] and not force:
        _log.warning("%s: the data are not those that the run was trained on", folder.path)
    return Run(
        folder,
        recipe,
        new_pair,
        data,
        history,
        info,
        f"epoch {about.get('epoch', '?')}, {kind}",
    )


def _history(folder: RunFolder) -> list[Row]:
    """The rows of ``metrics.jsonl``; where that is damaged, those of the last checkpoint."""
    try:
        rows = read_history(folder.metrics)
        for number, row in enumerate(rows, 1):
            if not {"epoch", "elbo_train"} <= set(row):
                raise RunError(f"{folder.metrics}, line {number}: a row without its epoch or its bound")
        return rows
    except RunError as error:
        state, _ = checkpoint.load(folder.checkpoints)
        _log.warning("%s; the rows of the last checkpoint are taken", str(error).splitlines()[0])
        return [dict(row) for row in state["history"]]
