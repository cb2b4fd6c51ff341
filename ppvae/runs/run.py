"""Train a recipe into a run folder, go on with one, load one back."""

from __future__ import annotations

import logging
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pyro
import torch
from pyro.distributions import Normal

from . import checkpoint
from .atomic import write_text
from .catalogue import SCHEDULES, build, build_model, elbo_entries
from .folder import RunFolder, create, existing, locked
from .forensics import save_dump
from .history import Checkpoints, MetricsFile, Row, StopOnSignal, Stopped, read_history
from .recipe import Recipe
from .source import build_pair, digest_of, split_spec
from .. import __version__
from ..core import FitError, ModelGuidePair, PpvaeError, structure
from ..core.errors import RunError, try_one_of
from ..data import Dataset
from ..data import load as load_data
from ..inference import Callback, EarlyStopping, Fit, KLWarmup, fit

_log = logging.getLogger("ppvae.runs")

Which = Literal["result", "best", "last"]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run: what it was made from and what came of it.

    Attributes:
        folder: where it stands.
        recipe: what was run.
        pair: the trained pair.
        data: the data set.
        history: one row an epoch, as ``Fit.history``.
        info: versions, times, outcome, fingerprints (``run.json``).
        parameters: which parameters the pair has: "epoch 12, the best on validation data", for messages.
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
            raise RunError(f"{self.data.name}: has no part {name!r}; it has {', '.join(parts)}")
        part = parts[name]
        return replace(part, validation=None, test=None) if name == "train" else part

    @property
    def held_out(self) -> str:
        """The part to evaluate on: "test" where there is one, else "validation", else "train"."""
        return next(name for name in ("test", "validation", "train") if name in self.data.parts)

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}, {self.recipe.model_name}, {self.parameters})"


def train(
    recipe: Recipe,
    out: Path | str,
    *,
    pair: Any = None,
    overwrite: bool = False,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Run:
    """Train a recipe into a new run folder.

    Args:
        recipe: what to run.
        out: the folder.
        pair: for a recipe with ``model.pair``: the class, function or instance that its file defines
            (:func:`ppvae.runs.member_of` runs the file); a recipe alone never runs code.
        overwrite: replace a run that stands there.
        callbacks: further callbacks of :func:`ppvae.inference.fit`.
        progress: show a bar on a terminal.

    Raises:
        RunError: the folder, the recipe or the file cannot be used.
        Stopped: Ctrl-C or SIGTERM; the state is saved.
        FitError, DataError, PairError: from training.
    """
    folder = create(out, overwrite=overwrite)
    with locked(folder):
        recipe, data, built = prepare(recipe, pair)
        folder.clear()
        write_text(folder.recipe, recipe.to_toml())
        if "pair" in recipe.model:
            shutil.copyfile(split_spec(recipe.model["pair"])[0], folder.path / "pair.py")
        return _train(folder, recipe, data, built, None, callbacks, progress, {})


def resume(
    path: Path | str,
    *,
    num_epochs: int | None = None,
    pair: Any = None,
    force: bool = False,
    callbacks: Iterable[Callback] = (),
    progress: bool = True,
) -> Run:
    """Go on with a run from its last checkpoint, to the numbers of a run that was never interrupted, bit for bit.

    Args:
        path: the run folder.
        num_epochs: epochs in all, if not those of the recipe.
        pair: as for :func:`train`.
        force: go on although the data or a version changed.
        callbacks: further callbacks.
        progress: show a bar on a terminal.

    Raises:
        RunError: nothing to resume, or the data, the file of the pair or a version is another than then.
    """
    folder = existing(path)
    with locked(folder):
        recipe = Recipe.read(folder.recipe)
        info = folder.read_info() if folder.info.exists() else {}
        extended = num_epochs is not None and num_epochs != recipe.training.num_epochs
        if extended:
            recipe = recipe.changed(training={"num_epochs": num_epochs})
        elif info.get("outcome") in ("completed", "early stopping"):
            raise RunError(
                f"{folder.path}: this run is finished: {info.get('message', '')}"
                + try_one_of("more epochs: --epochs N", "--overwrite to train it anew")
            )
        recipe, data, built = prepare(recipe, pair, force=force)
        if not checkpoint.found(folder.checkpoints, "last"):
            _log.warning("%s: interrupted before its first checkpoint; it starts anew", folder.path)
            state = None
        else:
            state, about = checkpoint.load(folder.checkpoints)
            _compare(folder, about, _about(data), force)
        if extended:
            write_text(folder.recipe, recipe.to_toml())
        return _train(folder, recipe, data, built, state, callbacks, progress, info)


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
    folder = existing(path)
    recipe, data, built = prepare(Recipe.read(folder.recipe), pair, force=force)
    early = recipe.training.early_stopping
    best = which == "best" or (which == "result" and early is not None and early.restore_best)
    if best and not checkpoint.found(folder.checkpoints, "best"):
        if which == "best":
            raise RunError(f"{folder.path}: no best epoch is kept: the run had no validation data")
        best = False
    state, about = checkpoint.load(folder.checkpoints, "best" if best else "last")
    try:
        built.load_state_dict(state["pair"])
    except (RuntimeError, KeyError) as error:
        raise RunError(f"{folder.path}: its checkpoint does not fit its recipe: {error}") from error
    kind = "the best on validation data" if best else "the last"
    info = folder.read_info() if folder.info.exists() else {}
    if info.get("data") and info["data"] != _about(data)["data"] and not force:
        _log.warning("%s: the data are not those that the run was trained on", folder.path)
    return Run(
        folder,
        recipe,
        built,
        data,
        read_history(folder.metrics),
        info,
        f"epoch {about.get('epoch', '?')}, {kind}",
    )


def prepare(recipe: Recipe, pair: Any = None, *, force: bool = False) -> tuple[Recipe, Dataset, ModelGuidePair]:
    """The data and the untrained pair of a recipe, and the recipe with what was left open decided."""
    data = _data(recipe, "none" if recipe.data.binarize == "auto" else recipe.data.binarize)
    built = _pair(recipe, data, pair, force)
    if recipe.data.binarize == "auto":
        choice = "static" if _wants_binary(built, data) else "none"
        if choice == "static":
            _log.warning("%s: grey values under a Bernoulli: binarised once (binarize = 'static')", data.name)
            data = _data(recipe, "static")
        recipe = recipe.changed(data={"binarize": choice})
    return recipe.changed(ppvae=__version__), data, built


def _data(recipe: Recipe, binarize: Any) -> Dataset:
    table = recipe.data
    data = load_data(
        table.source,
        binarize=binarize,
        seed=table.seed,
        flatten=table.flatten,
        image_shape=None if table.image_shape is None else tuple(table.image_shape),
        validation=table.validation,
        test=table.test,
        key=table.key,
    )
    return data if table.num_train is None else data.take(table.num_train)


def _pair(recipe: Recipe, data: Dataset, given: Any, force: bool) -> ModelGuidePair:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        if "pair" not in recipe.model:
            if given is not None:
                raise RunError(f"the recipe names the model {recipe.model['name']!r}, so --pair has no place here")
            built = build_model(recipe.model, data)
            assert isinstance(built, ModelGuidePair)
            return built
        spec = recipe.model["pair"]
        if given is None:
            raise RunError(
                f"the recipe's pair stands in a file of yours: {spec}"
                + try_one_of(f"--pair {spec}, which runs that file", "load_run(folder, pair=MyPair)")
            )
        path, _ = split_spec(spec)
        recorded = recipe.model.get("sha256")
        if recorded and recorded != digest_of(path) and not force:
            raise RunError(
                f"{path} has changed since the run: SHA-256 {digest_of(path)[:12]}, then {recorded[:12]}"
                + try_one_of("the copy that the run folder keeps, pair.py", "--force")
            )
        options = {key: value for key, value in recipe.model.items() if key not in ("pair", "sha256")}
        return build_pair(given, options, data)


def _wants_binary(pair: ModelGuidePair, data: Dataset) -> bool:
    if data.batch_space != "unit":
        return False
    try:
        shape = structure(pair, data.batch(torch.arange(min(2, len(data)))))
    except Exception:
        return False  # training will say what is wrong, and better
    return any(info.family == "Bernoulli" and not info.opted_out for info in shape.observed)


def _train(
    folder: RunFolder,
    recipe: Recipe,
    data: Dataset,
    pair: ModelGuidePair,
    state: Mapping[str, Any] | None,
    callbacks: Iterable[Callback],
    progress: bool,
    info: Mapping[str, Any],
) -> Run:
    about = _about(data)
    started = time.time()
    folder.update_info(
        **{**about, "outcome": "running", "message": "", "started": info.get("started", _clock(started))},
        seed=recipe.seed,
        model=recipe.model_name,
        num_parameters=sum(p.numel() for p in pair.parameters()),
    )
    table = recipe.training
    checkpoints = Checkpoints(folder.checkpoints, table.num_epochs, about)
    stop = StopOnSignal(checkpoints.save)
    spent = float(info.get("seconds", 0.0))
    try:
        with stop:
            result = _fit(
                recipe, pair, data, state, [MetricsFile(folder.metrics), checkpoints, *callbacks, stop], progress
            )
    except PpvaeError as error:
        dump = save_dump(folder, recipe, error) if isinstance(error, FitError) else None
        if dump is not None:
            error.args = (f"{error}\nThe step is kept; do it again with: ppvae replay {dump}",)
        folder.update_info(outcome="failed", message=str(error), seconds=spent + time.time() - started)
        raise
    outcome = result.outcome
    folder.update_info(
        outcome=outcome.code,
        message=outcome.message,
        finished=_clock(time.time()),
        seconds=spent + time.time() - started,
        epochs=len(result.history),
        steps=result.state.step,
        best_epoch=result.best_epoch,
    )
    if outcome.code == "interrupted":
        number = stop.signal or int(signal.SIGINT)
        kept = "its state is saved" if stop.saved else "the checkpoint before it is kept"
        raise Stopped(
            f"{outcome.message}; {kept}; go on with: ppvae fit --resume {folder.path}",
            signal=number,
            folder=folder.path,
            saved=stop.saved,
        )
    early = table.early_stopping
    best = early is not None and early.restore_best and result.best_epoch is not None
    kind = (
        f"epoch {result.best_epoch}, the best on validation data" if best else f"epoch {len(result.history)}, the last"
    )
    return Run(folder, recipe, pair, data, result.history, folder.read_info(), kind)


def _fit(
    recipe: Recipe,
    pair: ModelGuidePair,
    data: Dataset,
    state: Mapping[str, Any] | None,
    callbacks: list[Callback],
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
        schedule=schedule,
        clip_norm=table.clip_norm,
        weight_prior=None if scale is None else Normal(0.0, scale),
        kl_warmup=None if table.kl_warmup is None else KLWarmup(**table.kl_warmup.model_dump()),
        early_stopping=None if table.early_stopping is None else EarlyStopping(**table.early_stopping.model_dump()),
        seed=recipe.seed,
        device=recipe.device,
        compile=table.compile,
        callbacks=callbacks,
        progress=progress,
        resume=state,
    )


def _about(data: Dataset) -> dict[str, Any]:
    """What a resumed run is compared by."""
    return {
        "versions": {
            "ppvae": __version__,
            "torch": torch.__version__,
            "pyro": pyro.__version__,
            "python": platform.python_version(),
        },
        "data": {name: part.fingerprint() for name, part in data.parts.items()},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def _compare(folder: RunFolder, then: Mapping[str, Any], now: Mapping[str, Any], force: bool) -> None:
    differences = []
    if then.get("data") != now["data"]:
        differences.append("the data are not those of the run (their SHA-256 differs)")
    for name in ("ppvae", "torch", "pyro"):
        before = then.get("versions", {}).get(name)
        if before != now["versions"][name]:
            differences.append(f"{name} is {now['versions'][name]}, then {before}")
    if differences and not force:
        raise RunError(
            f"{folder.path}: cannot be resumed to the same numbers: {'; '.join(differences)}"
            + try_one_of("the versions and data of the run", "--force, for other numbers")
        )
    for difference in differences:
        _log.warning("%s: %s; going on as asked", folder.path, difference)
    if then.get("threads") != now["threads"]:
        _log.warning(
            "%s: %s threads, then %s: the last digits may differ", folder.path, now["threads"], then.get("threads")
        )


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
