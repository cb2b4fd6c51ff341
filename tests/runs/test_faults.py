"""Faults done to a run: full and read-only disks, damaged files, files of other versions, two processes in one folder.

And resuming bit for bit for every estimator and optimiser, from a step in the middle of an epoch.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from contracts.runs import assert_whole, left_over, same

from ppvae.core import RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, Run, RunFolder, RunInterrupt, load_run, resume, train
from ppvae.runs.recipe.catalogue import elbo_entries
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.folder import create
from ppvae.runs.training import history
from ppvae.runs.training import train as run_module

TINY: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [8]},
    "data": {"num_train": 200, "binarize": "static"},
    "training": {"num_epochs": 3, "batch_size": 50, "learning_rate": 0.01, "compile": "eager"},
    "device": "cpu",
}


class EveryEpoch(history.Checkpoints):
    """Saves after every epoch, not every few seconds."""

    def on_epoch(self, state: TrainingState) -> None:
        self._next = 0.0
        super().on_epoch(state)


class At(Callback):
    """Does something once after so many steps."""

    def __init__(self, step: int, do: Callable[[], object]) -> None:
        self.step, self.do = step, do

    def on_step(self, state: TrainingState) -> None:
        if state.step == self.step:
            self.do()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stopped_at(recipe: Recipe, path: Path, *steps: int) -> None:
    """A run that was interrupted after each of these steps."""
    with pytest.raises(RunInterrupt):
        train(recipe, path, callbacks=[At(steps[0], interrupt)], progress=False)
    for step in steps[1:]:
        with pytest.raises(RunInterrupt):
            resume(path, callbacks=[At(step, interrupt)], progress=False)


@pytest.fixture(scope="module")
def tiny() -> Recipe:
    return Recipe.from_dict(TINY)


@pytest.fixture(scope="module")
def whole(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tiny, tmp_path_factory.mktemp("faults") / "whole", progress=False)


# --- disks -----------------------------------------------------------------------------------------------------------


@contextmanager
def disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes, in memory."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here, which takes root: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", 1_000_000) as path:
        yield path


def fill(path: Path, leave: int) -> Path:
    """Fill the disk, up to so many bytes."""
    state = os.statvfs(path)
    filler = path / ".filler"
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - leave)))
    return filler


def test_a_disk_that_is_full_from_the_start(small_disk: Path, tiny: Recipe, whole: Run) -> None:
    filler = fill(small_disk, 0)
    with pytest.raises(RunError, match=r"No space left on device\nTry one of:"):
        train(tiny, small_disk / "run", progress=False)
    filler.unlink()
    train(tiny, small_disk / "run", progress=False)
    assert same(small_disk / "run", whole.folder.path)


@pytest.mark.parametrize("leave", [0, 4096, 12_288, 28_672, 53_248])
def test_a_disk_that_fills_up_during_training(
    small_disk: Path, tiny: Recipe, whole: Run, monkeypatch: pytest.MonkeyPatch, leave: int
) -> None:
    """What is left decides at which file it happens: metrics, parameters, values, sums, run.json."""
    monkeypatch.setattr(run_module, "Checkpoints", EveryEpoch)
    run, filler = small_disk / "run", small_disk / ".filler"
    with pytest.raises(RunError, match=r"cannot be written: No space left on device\nTry one of:\n.*"):
        train(tiny, run, callbacks=[At(6, lambda: fill(small_disk, leave))], progress=False)
    assert assert_whole(run) >= 1
    assert not list(run.rglob("*.tmp"))
    with pytest.raises(RunError, match="No space left on device"):
        resume(run, progress=False)  # still full
    filler.unlink()
    resume(run, progress=False)
    assert same(run, whole.folder.path)
    assert left_over(run) == []


def test_a_disk_that_is_full_when_a_signal_comes(small_disk: Path, tiny: Recipe, whole: Run) -> None:
    def full_and_stop() -> None:
        fill(small_disk, 0)
        interrupt()

    stopped_at(tiny, small_disk / "run", 2)
    with pytest.raises(RunError, match="No space left on device"):
        resume(small_disk / "run", callbacks=[At(6, full_and_stop)], progress=False)
    (small_disk / ".filler").unlink()
    resume(small_disk / "run", progress=False)
    assert same(small_disk / "run", whole.folder.path)


def test_a_read_only_disk(small_disk: Path, tiny: Recipe, whole: Run) -> None:
    stopped_at(tiny, small_disk / "run", 6)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError, match=r"new: cannot be made: Read-only file system"):
        train(tiny, small_disk / "new", progress=False)
    with pytest.raises(RunError, match="Read-only file system"):
        train(tiny, small_disk / "run", overwrite=True, progress=False)
    with pytest.raises(RunError, match="Read-only file system"):
        resume(small_disk / "run", progress=False)
    loaded = load_run(small_disk / "run")  # reading is no writing
    assert loaded.parameters == "epoch 1, the last"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    resume(small_disk / "run", progress=False)
    assert same(small_disk / "run", whole.folder.path)


# --- damaged files and files of other versions -----------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".safetensors", ".json", ".sha256"])
@pytest.mark.parametrize("harm", ["bit", "cut", "empty"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tiny: Recipe, tmp_path: Path, whole: Run, caplog: pytest.LogCaptureFixture, ending: str, harm: str
) -> None:
    stopped_at(tiny, tmp_path / "run", 3, 9)
    path = tmp_path / "run" / "checkpoints" / f"last-00000009{ending}"
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes({"bit": bytes(content), "cut": content[: len(content) // 3], "empty": b""}[harm])
    with pytest.raises(RunInterrupt):
        resume(tmp_path / "run", callbacks=[At(5, interrupt)], progress=False)
    assert "falling back to last-00000003" in caplog.text
    # The damaged one is gone: beside it the good ones would not have been kept.
    records = checkpoint.find_records(tmp_path / "run" / "checkpoints", "last")
    assert [record.stem for record in records] == ["last-00000005", "last-00000003"]
    resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", whole.folder.path)


def test_the_newest_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_000, 100_000_001):  # eight digits are written; the ninth must not mislead
        checkpoint.save(tmp_path, "last", step, {"step": step}, {})
    assert checkpoint.load(tmp_path)[0] == {"step": 100_000_001}
    assert [record.stem for record in checkpoint.find_records(tmp_path, "last")] == ["last-100000001", "last-100000000"]


def forge(path: Path, old: str, new: str) -> None:
    """Change the JSON of a checkpoint, and its sum with it."""
    record = path.with_suffix(".sha256")
    before = checkpoint.sha256(path.read_bytes())
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    record.write_text(record.read_text().replace(before, checkpoint.sha256(path.read_bytes())))


def test_a_checkpoint_of_a_later_format_is_refused_and_kept(tiny: Recipe, tmp_path: Path) -> None:
    """To fall back would throw away what the later version did."""
    stopped_at(tiny, tmp_path / "run", 3, 9)
    path = tmp_path / "run" / "checkpoints" / "last-00000009.json"
    forge(path, '"version": 1', '"version": 2')
    with pytest.raises(RunError, match=r"last-00000009\.json: written by a later version of ppvae; .*\nTry one of:"):
        resume(tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="written by a later version"):
        load_run(tmp_path / "run")
    assert path.exists()


def test_another_version_is_said_and_refused_unless_forced(
    tiny: Recipe, tmp_path: Path, whole: Run, caplog: pytest.LogCaptureFixture
) -> None:
    stopped_at(tiny, tmp_path / "run", 6)
    (path,) = (tmp_path / "run" / "checkpoints").glob("last-*.json")
    torch_version = json.loads(path.read_text())["about"]["versions"]["torch"]
    forge(path, f'"torch": "{torch_version}"', '"torch": "1.0"')
    with pytest.raises(RunError, match=r"torch is .*, then 1\.0\nTry one of:\n.*\n  - force=True"):
        resume(tmp_path / "run", progress=False)
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        resume(tmp_path / "run", progress=False, force=True)
    assert "then 1.0; going on as asked" in caplog.text
    assert same(tmp_path / "run", whole.folder.path)


def test_a_checkpoint_of_another_recipe_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    """An edit is seen by the recipe that the checkpoint carries; where it carries none, by what does not fit."""
    stopped_at(tiny, tmp_path / "run", 6)
    recipe, folder = tmp_path / "run" / "recipe.toml", tmp_path / "run" / "checkpoints"
    state, about = checkpoint.load(folder)
    unknown = {key: value for key, value in about.items() if key != "recipe"}
    for old, new in (("latent_dim = 2", "latent_dim = 3"), ('"adam"', '"sgd"')):
        text = recipe.read_text()
        assert old in text
        recipe.write_text(text.replace(old, new))
        for facts, message in ((about, "was edited since"), (unknown, "its checkpoint does not fit its recipe")):
            checkpoint.save(folder, "last", 6, state, facts)
            with pytest.raises(RunError, match=message):
                resume(tmp_path / "run", progress=False)
        recipe.write_text(text)


def test_a_buffer_of_the_optimiser_that_is_too_short_is_refused(tiny: Recipe, tmp_path: Path) -> None:
    """The fused step writes past its end: found by fuzzing, as a segmentation fault."""
    stopped_at(tiny, tmp_path / "run", 6)
    folder = tmp_path / "run" / "checkpoints"
    state, about = checkpoint.load(folder)
    first = state["optimizer"]["state"][0]
    for name, value in (("exp_avg", first["exp_avg"].flatten()[:3].clone()), ("step", first["exp_avg"])):
        forged = {**first, name: value}
        optimizer = {**state["optimizer"], "state": {**state["optimizer"]["state"], 0: forged}}
        checkpoint.save(folder, "last", 6, {**state, "optimizer": optimizer}, about)
        with pytest.raises(RunError, match=f"does not fit its recipe: ValueError: {name} of the optimiser is"):
            resume(tmp_path / "run", progress=False)


def test_an_overwrite_that_was_cut_short_can_be_done_again(
    tiny: Recipe, tmp_path: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny, tmp_path / "run", progress=False)
    real, left = Path.unlink, 0

    def dies(path: Path, missing_ok: bool = False) -> None:
        nonlocal left
        if path.parent == tmp_path / "run" and not path.name.startswith("."):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
        real(path, missing_ok=missing_ok)

    for count in range(5):
        left = count
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", dies)
            with pytest.raises(KeyboardInterrupt):
                train(tiny, tmp_path / "run", overwrite=True, progress=False)
        if count:  # what stands there is no finished run any more, and still known as a run
            assert not (tmp_path / "run" / "run.json").exists()
        with pytest.raises(RunError, match="a run stands here already"):
            train(tiny, tmp_path / "run", progress=False)
    train(tiny, tmp_path / "run", overwrite=True, progress=False)
    assert same(tmp_path / "run", whole.folder.path)


def test_what_killed_processes_left_is_swept(tiny: Recipe, tmp_path: Path, whole: Run) -> None:
    run = tmp_path / "run"
    stopped_at(tiny, run, 6)
    left = ["checkpoints/.last-00000007.json.abc.tmp", ".run.json.abc.tmp", "checkpoints/last-00000007.safetensors"]
    for name in left:
        (run / name).write_bytes(b"half")
    (run / ".report.html.abc.tmp").write_bytes(b"of another process, which may be alive")
    resume(run, progress=False)
    assert left_over(run) == [".report.html.abc.tmp"]
    assert same(run, whole.folder.path)


# --- two processes ---------------------------------------------------------------------------------------------------


def test_two_processes_in_one_folder(tiny: Recipe, tmp_path: Path, whole: Run) -> None:
    """One trains; whatever another one tries there fails at once, and harms nothing."""
    context = multiprocessing.get_context("fork")
    training, go_on = context.Event(), context.Event()

    def first() -> None:
        def wait() -> None:
            training.set()
            go_on.wait(120)

        train(tiny, tmp_path / "run", callbacks=[At(5, wait)], progress=False)

    process = context.Process(target=first)
    process.start()
    try:
        assert training.wait(120)
        for attempt in (
            lambda: train(tiny, tmp_path / "run", overwrite=True, progress=False),
            lambda: resume(tmp_path / "run", progress=False),
        ):
            with pytest.raises(RunError, match=rf"another process is writing here \(process {process.pid}\)"):
                attempt()
        with pytest.raises(RunError, match="a run stands here already"):
            train(tiny, tmp_path / "run", progress=False)
    finally:
        go_on.set()
        process.join(120)
    assert process.exitcode == 0
    assert same(tmp_path / "run", whole.folder.path)


def test_a_run_that_was_finished_in_the_meantime_is_not_replaced(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path, *, overwrite: bool = False) -> RunFolder:
        folder = create(path, overwrite=overwrite)
        (path / "recipe.toml").write_text("of the faster one")
        return folder

    monkeypatch.setattr(run_module, "create", slow)
    with pytest.raises(RunError, match="a run stands here already"):
        train(tiny, tmp_path / "run", progress=False)
    assert (tmp_path / "run" / "recipe.toml").read_text() == "of the faster one"


# --- every estimator and optimiser -----------------------------------------------------------------------------------

OPTIMIZERS = ("adam", "adagrad", "adamw", "sgd")
ALL = list(itertools.product(elbo_entries(), OPTIMIZERS))
# Every estimator once, every optimiser at least twice.
FEW = [(name, OPTIMIZERS[index % len(OPTIMIZERS)]) for index, name in enumerate(elbo_entries())]


def resumed_is_whole(recipe: Recipe, elbo: str, optimizer: str, tmp_path: Path, *steps: int) -> None:
    table = {"name": elbo, **({"alpha": 0.5} if elbo == "renyi" else {})}  # the one option without a default
    options = {"learning_rate": 1e-3, "num_epochs": 2, "optimizer": optimizer, "elbo": table}
    recipe = recipe.replace(training=options)
    if elbo == "with-classifier":
        model = {"name": "semi-supervised-vae", "latent_dim": 2, "hidden": [8]}
        recipe = recipe.replace(model=model, data={"num_labels": 10})
    whole = train(recipe, tmp_path / "whole", progress=False)
    stopped_at(recipe, tmp_path / "run", *steps)
    parts = resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", tmp_path / "whole")
    assert checkpoint.same(dict(parts.pair.state_dict()), dict(whole.pair.state_dict()))


def test_the_few_cover_every_estimator_and_optimiser() -> None:
    assert {name for name, _ in FEW} == set(elbo_entries())
    assert {optimizer for _, optimizer in FEW} == set(OPTIMIZERS)


@pytest.mark.parametrize(("elbo", "optimizer"), FEW)
def test_resumed_in_the_middle_of_an_epoch(tiny: Recipe, tmp_path: Path, elbo: str, optimizer: str) -> None:
    resumed_is_whole(tiny, elbo, optimizer, tmp_path, 6)


@pytest.mark.slow
@pytest.mark.parametrize(("elbo", "optimizer"), ALL)
def test_resumed_at_every_kind_of_step(tiny: Recipe, tmp_path: Path, elbo: str, optimizer: str) -> None:
    """First step, middle of an epoch, its end, the step after: four interruptions."""
    resumed_is_whole(tiny, elbo, optimizer, tmp_path, 1, 3, 4, 5)


@pytest.mark.slow
@pytest.mark.parametrize(("elbo", "optimizer"), ALL)
def test_resumed_on_mnist(tiny: Recipe, tmp_path: Path, data_folder: Path, elbo: str, optimizer: str) -> None:
    recipe = tiny.replace(data={"source": "mnist", "num_train": 300}, training={"batch_size": 100})
    resumed_is_whole(recipe, elbo, optimizer, tmp_path, 2, 4)
