"""Several runs of one recipe under other seeds and other values: a folder with a run folder for each, and one table.

Each run is trained in a process of its own, exactly as it would be alone.
"""

from __future__ import annotations

import csv
import io
import itertools
import logging
import re
import signal
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import torch

from .history import RunInterrupt, read_history, terminations
from .train import anchored, resume, train
from ..recipe.recipe import Recipe
from ..recipe.source import member_of
from ..storage import checkpoint
from ..storage.atomic import make_folder, read_json, write_json, write_text
from ..storage.folder import RunFolder
from ...core import PpvaeError
from ...core.errors import RunError, try_one_of
from ...inference import Callback
from ...inference.execution.processes import number_of_processes
from ...inference.execution.progress import progress_bar
from ...inference.execution.workers import cores, in_processes

_log = logging.getLogger("ppvae.runs")

MakeCallbacks: TypeAlias = Callable[[Path, Recipe, bool], Iterable[Callback]]

FILE, TABLE = "several.json", "table.csv"
_BOUNDS = ("elbo_train", "elbo_validation")


@dataclass(frozen=True)
class Member:
    """One of several runs.

    Attributes:
        name: of its folder.
        values: what sets it apart, by key of the recipe; the seed last.
        recipe: its recipe.
    """

    name: str
    values: dict[str, Any]
    recipe: Recipe


@dataclass(frozen=True)
class SeveralFolder:
    """The folder of several runs.

    Attributes:
        path: the folder.
        members: its runs, trained or not.
        failures: by name, why a run could not be trained.
    """

    path: Path
    members: tuple[Member, ...]
    failures: dict[str, str] = field(default_factory=dict)

    def folder(self, member: Member) -> RunFolder:
        """The run folder of a member."""
        return RunFolder(self.path / member.name)

    def rows(self) -> list[dict[str, Any]]:
        """One row per run: its values, how it ended, and the bound at the epoch whose parameters are its result."""
        return [self._row(member) for member in self.members]

    def _row(self, member: Member) -> dict[str, Any]:
        folder = self.folder(member)
        info = folder.read_info_if_whole()
        outcome = "failed" if member.name in self.failures else info.get("outcome") or "not begun"
        row: dict[str, Any] = {
            "run": member.name,
            **member.values,
            "outcome": "interrupted" if outcome == "running" else outcome,
        }
        history = read_history(folder.metrics) if folder.metrics.exists() else []
        if history:
            result = row_of_result(member.recipe, info, history)
            row |= {name: result[name] for name in ("epoch", *_BOUNDS) if name in result}
        if "seconds" in info:
            row["seconds"] = info["seconds"]
        return row

    def groups(self) -> list[dict[str, Any]]:
        """One row for the runs that differ in the seed alone: mean and standard deviation over those at their end."""
        found: dict[str, list[dict[str, Any]]] = {}
        for member, row in zip(self.members, self.rows(), strict=True):
            key = {name: value for name, value in member.values.items() if name != "seed"}
            found.setdefault(repr(key), []).append({**row, "key": key})
        result = []
        for rows in found.values():
            ended = [row for row in rows if row["outcome"] in ("completed", "early stopping")]
            group: dict[str, Any] = {**rows[0]["key"], "num_runs": len(rows), "num_ended": len(ended)}
            for name in _BOUNDS:
                values = [row[name] for row in ended if row.get(name) is not None]
                if values and len(values) == len(ended):
                    group[f"{name}_mean"] = statistics.fmean(values)
                    group[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            result.append(group)
        return result

    def write(self) -> None:
        """Write what belongs here, and the table of what there is by now."""
        rows = self.rows()
        members = [{"run": m.name, "values": m.values, "recipe": m.recipe.to_dict()} for m in self.members]
        values = {"members": members, "failures": self.failures, "rows": rows, "groups": self.groups()}
        write_json(self.path / FILE, values)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / TABLE, text.getvalue())


def row_of_result(
    recipe: Recipe, info: Mapping[str, Any], history: Sequence[Mapping[str, float]]
) -> Mapping[str, float]:
    """The row of the epoch whose parameters are the result of a run: of the best where training went back to it."""
    early, best = recipe.training.early_stopping, info.get("best_epoch")
    restored = early is not None and early.restore_best and info.get("outcome") in ("completed", "early stopping")
    return history[best - 1 if restored and best and best <= len(history) else -1]


def members_of(values: Mapping[str, Any], seeds: Sequence[int], sweep: Mapping[str, Sequence[Any]]) -> list[Member]:
    """A recipe under every seed and every combination of values.

    Args:
        values: of the recipe.
        seeds: different; none for that of the recipe.
        sweep: the values of each key, ``{"model.latent_dim": [2, 5]}``.

    Raises:
        RunError: a seed or a value twice, no values, or a recipe that is refused, with the key.
    """
    for name, several in {"--seeds": seeds, **sweep}.items():
        for place, value in enumerate(several):
            if value in several[:place]:
                raise RunError(f"{name}: {value!r} is there twice: two equal runs would count as two")
        if not several and name != "--seeds":
            raise RunError(f"--sweep {name}: expected at least one value, found none")
    members = []
    for chosen in itertools.product(*sweep.values()):
        own = dict(zip(sweep, chosen, strict=True))
        changed = dict(values)
        for key, value in own.items():
            changed = _with(changed, key, value)
        for extra in [{"seed": seed} for seed in seeds] or [{}]:
            members.append(({**own, **extra}, Recipe.from_dict({**changed, **extra})))
    names = [_name(shown) for shown, _ in members]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    return [Member(name, shown, recipe) for name, (shown, recipe) in zip(names, members, strict=True)]


def _with(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Values with another one at a key like "training.learning_rate"; a table there is replaced whole."""
    first, _, rest = key.partition(".")
    if not rest:
        return {**values, first: value}
    table = values.get(first, {})
    if not isinstance(table, Mapping):
        raise RunError(f"--sweep {key}: {first!r} is no table")
    return {**values, first: _with(table, rest, value)}


def _name(values: Mapping[str, Any]) -> str:
    parts = [f"{key.rpartition('.')[2]}-{value}" for key, value in values.items()]
    return re.sub(r"[^\w.+-]+", "-", "-".join(parts)).strip("-.")[:100] or "run"


def is_several(path: Path | str) -> bool:
    """Whether a folder is one of several runs."""
    return (Path(path) / FILE).is_file()


def read_several(path: Path | str) -> SeveralFolder:
    """The folder of several runs.

    Raises:
        RunError: it is none, or its file is damaged.
    """
    file = Path(path) / FILE
    values = read_json(file)
    try:
        members = [Member(str(m["run"]), dict(m["values"]), Recipe.from_dict(m["recipe"])) for m in values["members"]]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{file}: is damaged: {type(error).__name__}: {error}") from error
    for member in members:
        if not re.fullmatch(r"[\w.+-]+", member.name) or member.name.startswith("."):
            raise RunError(f"{file}: is damaged: {member.name!r} is no name of a run")
    return SeveralFolder(Path(path), tuple(members), dict(values.get("failures", {})))


def train_several(
    members: Sequence[Member],
    out: Path | str,
    *,
    pair: str | None = None,
    overwrite: bool = False,
    callbacks: MakeCallbacks | None = None,
    threads: int = 1,
    progress: bool = True,
) -> SeveralFolder:
    """Train several runs, as many at a time as there are cores, each in a process of its own.

    Args:
        members: from :func:`members_of`.
        out: the folder for their folders.
        pair: ``FILE.py:Name`` for recipes with ``model.pair``.
        overwrite: replace runs that stand there.
        callbacks: an importable function that makes the callbacks of a run, from its folder, its recipe, and whether it
            goes on.
        threads: of each run.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        RunError: the folder exists and holds something else, or this is one of several processes of torchrun.
        RunInterrupt: Ctrl-C or SIGTERM; each run has saved its state.
    """
    _require_one_process()
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise RunError(f"{path}: is a file" + try_one_of("another folder"))
    there = sorted(child.name for child in path.iterdir()) if path.is_dir() else []
    if there and not (overwrite and is_several(path)):
        what = "several runs stand here already" if is_several(path) else f"is not empty (it holds {there[0]})"
        again = (f"ppvae fit --resume {path}, or resume_several", "overwrite=True to replace them")
        raise RunError(f"{path}: {what}" + try_one_of(*(again if is_several(path) else ()), "another folder"))
    make_folder(path)
    several = SeveralFolder(path, tuple(replace(member, recipe=anchored(member.recipe)) for member in members))
    if overwrite and is_several(path):
        for member in read_several(path).members:
            if several.folder(member).exists:
                several.folder(member).clear()
    several.write()
    return _run(several, pair, None, callbacks, threads, progress)


def resume_several(
    path: Path | str,
    *,
    num_epochs: int | None = None,
    pair: str | None = None,
    callbacks: MakeCallbacks | None = None,
    threads: int = 1,
    progress: bool = True,
) -> SeveralFolder:
    """Go on with those that have not come to their end; the others stay.

    Args:
        path: the folder.
        num_epochs: epochs of each in all, if not those of its recipe.
        pair, callbacks, threads, progress: as for :func:`train_several`.

    Raises:
        RunError: nothing is left to do, or this is one of several processes of torchrun.
        RunInterrupt: as for :func:`train_several`.
    """
    _require_one_process()
    return _run(read_several(path), pair, num_epochs, callbacks, threads, progress)


def _require_one_process() -> None:
    if (count := number_of_processes()) > 1:
        raise RunError(
            f"several runs: each is trained in a process of its own, on one machine: expected one process to start "
            f"them, found {count} of torchrun"
            + try_one_of("the same command without torchrun", "torchrun for one run at a time")
        )


def _run(
    several: SeveralFolder,
    pair: str | None,
    num_epochs: int | None,
    callbacks: MakeCallbacks | None,
    threads: int,
    progress: bool,
) -> SeveralFolder:
    left = [member for member in several.members if not _has_ended(several.folder(member), num_epochs)]
    if not left:
        raise RunError(
            f"{several.path}: all {len(several.members)} runs have come to their end"
            + try_one_of("num_epochs=N, for more epochs", f"ppvae report {several.path}")
        )
    jobs = [(several.folder(m).path, m.recipe.to_dict(), num_epochs, pair, callbacks, threads) for m in left]
    for member in left:
        several.failures.pop(member.name, None)
    bar = progress_bar(total=len(several.members), initial=len(several.members) - len(left), unit="run", show=progress)
    try:
        with _terminated():
            for done in in_processes(_one, jobs, max(1, cores() // threads)):
                name = left[done.number].name
                if isinstance(done.error, PpvaeError):
                    several.failures[name] = str(done.error)
                elif done.error is not None and not isinstance(done.error, KeyboardInterrupt):
                    raise done.error
                bar.update(1)
                several.write()
    except KeyboardInterrupt as error:
        several.write()
        ended = sum(_has_ended(several.folder(member), num_epochs) for member in several.members)
        raise RunInterrupt(
            f"interrupted with {ended} of {len(several.members)} runs at their end; the state of the others is saved; "
            f"go on with: ppvae fit --resume {several.path}",
            signal=getattr(error, "signal", int(signal.SIGINT)),
            folder=several.path,
            saved=True,
        ) from None
    finally:
        bar.close()
    for name, message in several.failures.items():
        _log.warning("%s failed: %s", name, message.splitlines()[0])
    if len(several.failures) == len(several.members):
        raise RunError(f"{several.path}: every run failed: {next(iter(several.failures.values()))}")
    return several


def _has_ended(folder: RunFolder, num_epochs: int | None) -> bool:
    info = folder.read_info_if_whole()
    outcome = info.get("outcome")
    if outcome == "completed" and num_epochs is not None:
        return int(info.get("epochs", 0)) >= num_epochs
    return outcome in ("completed", "early stopping", "failed")


def _one(
    path: Path,
    values: dict[str, Any],
    num_epochs: int | None,
    pair: str | None,
    callbacks: MakeCallbacks | None,
    threads: int,
) -> None:
    """In a process of its own: train a run, or go on with it; its folder says what became of it."""
    torch.set_num_threads(threads)
    folder, member = RunFolder(path), None if pair is None else member_of(pair)
    goes_on = bool(checkpoint.find_records(folder.checkpoints, "last"))
    recipe = Recipe.from_dict(values)
    made = [] if callbacks is None else list(callbacks(path, recipe, goes_on))
    try:
        if goes_on:
            resume(path, num_epochs=num_epochs, pair=member, callbacks=made, progress=False)
        else:
            if num_epochs is not None:
                recipe = recipe.replace(training={"num_epochs": num_epochs})
            train(recipe, path, pair=member, overwrite=folder.exists, callbacks=made, progress=False)
    except RunInterrupt as error:  # which cannot be sent to another process
        raise KeyboardInterrupt(str(error)) from None


class _Terminated(KeyboardInterrupt):
    """A signal that asks the process to end, passed on as Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM and SIGHUP end the runs as Ctrl-C does."""
    before: dict[int, Any] = {}
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, handle) for number in terminations()}
    try:
        yield
    except KeyboardInterrupt:
        if came:
            raise _Terminated(came[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
