"""Train a recipe into a run folder, or go on with one."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pyro.distributions import Normal

from .forensics import save_dump
from .history import Checkpoints, EpochCounter, MetricsFile, RunInterrupt, StopOnSignal
from .prepare import prepare
from .provenance import about_run, clock, command, compare
from .roles import labels_known
from .run import Run
from .segments import apply, differences, extend, refuse_edits, refuse_unchangeable
from ..recipe.catalogue import SCHEDULES, build, build_values, elbo_entries
from ..recipe.recipe import Recipe
from ..recipe.source import split_spec
from ..storage import checkpoint
from ..storage.atomic import sha256, write_bytes, write_text
from ..storage.folder import RunFolder, create, find_run, hold_lock, refuse_existing
from ...core import FitError, ModelGuidePair, PpvaeError
from ...core.errors import RunError, try_one_of
from ...data import Dataset
from ...data.registry import REGISTRY
from ...inference import EarlyStopping, Fit, KLWarmup, fit
from ...inference.execution.processes import Processes, together
from ...inference.training.state import AnyCallback

_log = logging.getLogger("ppvae.runs")

_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    pair: Any = None,
    overwrite: bool = False,
    callbacks: Iterable[AnyCallback] = (),
    progress: bool = True,
) -> Run:
    """Train a recipe into a new run folder.

    Args:
        recipe: the recipe.
        out: the folder.
        pair: for a recipe with ``model.pair``: the class, function or instance that its file defines
            (:func:`ppvae.runs.member_of` runs the file); a recipe alone never runs code.
        overwrite: replace a run in that folder.
        callbacks: further callbacks, or functions, of :func:`ppvae.inference.fit`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        RunError: the folder, the recipe or the file cannot be used.
        RunInterrupt: Ctrl-C or SIGTERM; the state is saved.
        FitError, DataError, PairError: from training.
    """
    with together() as processes, contextlib.ExitStack() as after:
        if not processes.is_first:
            processes.wait()  # data that have to be downloaded are, once
            recipe, data, new_pair = prepare(anchored(recipe), pair)
            return _train(RunFolder(Path(out)), recipe, data, new_pair, None, callbacks, progress, {}, processes)
        if not Path(out).exists():
            after.callback(RunFolder(Path(out)).remove_if_empty)  # where the recipe, the data or the pair is refused
        folder = create(out, overwrite=overwrite)
        with hold_lock(folder):
            if not overwrite:  # another process may have trained here since
                refuse_existing(folder)
            recipe, data, new_pair = prepare(anchored(recipe), pair)
            folder.clear()
            folder.sweep()
            _write_recipe(folder, recipe, {})
            if "pair" in recipe.model:
                write_bytes(folder.path / "pair.py", split_spec(recipe.model["pair"])[0].read_bytes())
            processes.wait()
            return _train(folder, recipe, data, new_pair, None, callbacks, progress, {}, processes)


def resume(
    path: Path | str,
    *,
    num_epochs: int | None = None,
    changes: Mapping[str, Any] | None = None,
    pair: Any = None,
    force: bool = False,
    callbacks: Iterable[AnyCallback] = (),
    progress: bool = True,
) -> Run:
    """Go on with a run from its last checkpoint, to the numbers of a run that was never interrupted, bit for bit.

    Args:
        path: the run folder.
        num_epochs: epochs in all, if not those of the recipe.
        changes: to the recipe, as for :meth:`Recipe.replace`, from here on: ``{"training": {"learning_rate": 1e-4}}``.
            They begin a new segment of the run, recorded in ``run.json`` and in every checkpoint.
        pair: as for :func:`train`.
        force: go on although the data, a version or the number of processes changed.
        callbacks: further callbacks.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        RunError: nothing to resume; the recipe, the data, the file of the pair, a version or the number of processes
            has changed; a change that needs a new run; or fewer epochs than it has.
    """
    with together() as processes, contextlib.ExitStack() as held:
        if not processes.is_first:
            processes.wait()  # for what it writes
        folder = find_run(path)
        if processes.is_first:
            held.enter_context(hold_lock(folder))
            folder.sweep()
        info = folder.read_info_if_whole()
        state: dict[str, Any] | None = None
        about: Mapping[str, Any] = {}
        if checkpoint.find_records(folder.checkpoints, "last"):
            state, about = checkpoint.load(folder.checkpoints)
        else:
            _log.warning("%s: interrupted before its first checkpoint; it starts anew", folder.path)
        then, recipe = _recipe_to_resume(folder, info, about, changes)
        recipe = _with_epochs(folder, recipe, num_epochs, int(about.get("epoch", 0)), info)
        recipe, data, new_pair = prepare(recipe, pair, force=force)
        segments = list(about.get("segments", []))
        if state is not None:
            compare(folder, about, about_run(data, processes.count), force)
            segments = extend(segments, about, _changes(then, recipe, about, processes))
            apply(state, then, recipe)
            state["processes"] = processes.count  # compare has said what it had to
        if processes.is_first:
            _write_recipe(folder, recipe, info)
            processes.wait()
        return _train(folder, recipe, data, new_pair, state, callbacks, progress, info, processes, segments)


def _recipe_to_resume(
    folder: RunFolder, info: Mapping[str, Any], about: Mapping[str, Any], changes: Mapping[str, Any] | None
) -> tuple[Recipe, Recipe]:
    """The recipe of the last checkpoint, and the one to go on with."""
    on_disk = Recipe.read(folder.recipe)
    then = Recipe.from_dict(about["recipe"]) if "recipe" in about else on_disk
    edits, asked = differences(then, on_disk), differences(then, then.replace(**(changes or {})))
    if edits not in ({}, asked) and _digest(on_disk) not in info.get("recipe_digests", []):
        refuse_edits(folder, edits)
    now = on_disk.replace(**(changes or {}))
    refuse_unchangeable(folder, then, now)
    return then, now


def _changes(then: Recipe, now: Recipe, about: Mapping[str, Any], processes: Processes) -> dict[str, list[Any]]:
    """What is another than at the last checkpoint, with both values."""
    before = about.get("processes", 1)
    return {
        **differences(then, now),
        **({"processes": [before, processes.count]} if before != processes.count else {}),
    }


def _digest(recipe: Recipe) -> str:
    return sha256(recipe.to_toml().encode())


def _write_recipe(folder: RunFolder, recipe: Recipe, info: Mapping[str, Any]) -> None:
    """Write ``recipe.toml``, known from then on as no one else's."""
    folder.update_info(recipe_digests=[*dict.fromkeys([*info.get("recipe_digests", []), _digest(recipe)])])
    write_text(folder.recipe, recipe.to_toml())


def _with_epochs(
    folder: RunFolder, recipe: Recipe, num_epochs: int | None, done: int, info: Mapping[str, Any]
) -> Recipe:
    """The recipe with as many epochs in all.

    Raises:
        RunError: no more than the run has already.
    """
    if num_epochs is not None and num_epochs <= done:
        raise RunError(
            f"{folder.path}: has {done} epochs already, which are among those asked for: nothing to do for {num_epochs}"
            + try_one_of(f"num_epochs={done + recipe.training.num_epochs}")
        )
    if num_epochs is not None and num_epochs != recipe.training.num_epochs:
        return recipe.replace(training={"num_epochs": num_epochs})
    outcome = info.get("outcome")
    if outcome == "early stopping" or (outcome == "completed" and done >= recipe.training.num_epochs):
        raise RunError(
            f"{folder.path}: this run is finished: {info.get('message', '')}"
            + try_one_of("num_epochs=N, for more epochs", "overwrite=True to train it anew")
        )
    return recipe


def anchored(recipe: Recipe) -> Recipe:
    """Files of the user's by their absolute paths, so that a run can be loaded from any folder."""
    changes: dict[str, Any] = {}
    source = Path(recipe.data.source).expanduser()
    if recipe.data.source not in REGISTRY and source.exists():
        changes["data"] = {"source": str(source.absolute())}
    file, _, name = str(recipe.model.get("pair", "")).rpartition(":")
    if file and Path(file).expanduser().is_file():
        model = {**recipe.model, "pair": f"{Path(file).expanduser().absolute()}:{name}"}
        changes["model"] = model
    return recipe.replace(**changes)


def _train(
    folder: RunFolder,
    recipe: Recipe,
    data: Dataset,
    pair: ModelGuidePair,
    state: Mapping[str, Any] | None,
    callbacks: Iterable[AnyCallback],
    progress: bool,
    info: Mapping[str, Any],
    processes: Processes,
    segments: list[Any] | None = None,
) -> Run:
    about = about_run(data, processes.count)
    start = time.time()
    note: Callable[..., None] = folder.update_info if processes.is_first else _write_nothing
    note(
        **{**about, "outcome": "running", "message": "", "started": info.get("started", clock(start))},
        seed=recipe.seed,
        segments=segments or [],
        model=recipe.model_name,
        num_parameters=sum(p.numel() for p in pair.parameters()),
    )
    table = recipe.training
    kept = {**about, "recipe": recipe.to_dict(), "segments": segments or []}
    checkpoints = Checkpoints(folder.checkpoints, table.num_epochs, kept)
    stop = StopOnSignal(checkpoints.save, processes)
    seconds = float(info.get("seconds", 0.0))
    counter = EpochCounter()
    ours = [counter, MetricsFile(folder.metrics), checkpoints, *callbacks, stop]
    try:
        with stop:
            result = _fit(recipe, pair, data, state, ours, progress)
    except PpvaeError as error:
        with contextlib.suppress(RunError):  # on a full disk neither can be written; the error itself matters more
            dump = save_dump(folder, recipe, error) if isinstance(error, FitError) and processes.is_first else None
            if dump is not None:
                error.args = (f"{error}\nThe step is kept; do it again with: ppvae replay {dump}",)
            note(outcome="failed", message=str(error), seconds=seconds + time.time() - start)
        if isinstance(error, FitError) and error.snapshot:
            processes.wait()  # all have this error: torchrun ends the first one with the others
        raise
    except Exception as error:
        # The checksum is right, but the content does not fit: of another recipe, or written by hand.
        if state is None or counter.epochs or not isinstance(error, _MISFITS):
            raise
        raise RunError(
            f"{folder.path}: its checkpoint does not fit its recipe: {type(error).__name__}: {error}"
            + try_one_of("the recipe.toml of that checkpoint", "train the run anew, with overwrite=True")
        ) from error
    outcome = result.outcome
    note(
        outcome=outcome.code,
        message=outcome.message,
        finished=clock(time.time()),
        seconds=seconds + time.time() - start,
        epochs=len(result.history),
        steps=result.state.step,
        best_epoch=result.best_epoch,
    )
    processes.wait()  # as torchrun ends the first one with the others
    if outcome.code == "interrupted":
        number = stop.signal or int(signal.SIGINT)
        remark = "its state is saved" if stop.saved else "the checkpoint before it is kept"
        words = [*command(processes.count), "fit", "--resume", str(folder.path)]
        raise RunInterrupt(
            f"{outcome.message}; {remark}; go on with: {shlex.join(words)}",
            signal=number,
            folder=folder.path,
            saved=stop.saved,
        )
    early = table.early_stopping
    best = early is not None and early.restore_best and result.best_epoch is not None
    kind = (
        f"epoch {result.best_epoch}, the best on validation data" if best else f"epoch {len(result.history)}, the last"
    )
    info = processes.of_first(folder.read_info() if processes.is_first else None)
    return Run(folder, recipe, pair, data, result.history, info, kind)


def _write_nothing(**values: Any) -> None:
    return None


def _fit(
    recipe: Recipe,
    pair: ModelGuidePair,
    data: Dataset,
    state: Mapping[str, Any] | None,
    callbacks: list[AnyCallback],
    progress: bool,
) -> Fit:
    table = recipe.training
    scale = table.weight_prior_scale
    schedule: Callable[..., Any] | None = None if table.schedule is None else build(SCHEDULES, table.schedule)
    return fit(
        pair,
        data,
        elbo=build(elbo_entries(), table.elbo),
        optimizer=table.optimizer,
        learning_rate=table.learning_rate,
        num_epochs=table.num_epochs,
        batch_size=None if table.batch_size == "all" else table.batch_size,
        groups=labels_known(data, pair) if table.labels_apart else None,
        schedule=schedule,
        clip_norm=table.clip_norm,
        weight_prior=None if scale is None else Normal(0.0, scale),
        kl_weight=1.0 if table.kl_weight is None else build_values(table.kl_weight),
        schedules=None if table.schedules is None else build_values(table.schedules),
        kl_warmup=None if table.kl_warmup is None else KLWarmup(**table.kl_warmup.model_dump()),
        early_stopping=None if table.early_stopping is None else EarlyStopping(**table.early_stopping.model_dump()),
        seed=recipe.seed,
        device=recipe.device,
        compile=table.compile,
        callbacks=callbacks,
        progress=progress,
        resume=state,
        on_interrupt="return",
    )
