"""The power is cut at every moment of a write: what was told to be safe is there, and nothing that counts is half."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.power_cut import Disk, Lost
from contracts.runs import assert_whole, newest, same

from ppvae.core import RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, Run, RunFolder, load_run, resume, train
from ppvae.runs.evaluation.evaluation import Method, evaluate
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.atomic import make_folder, write_bytes, write_json
from ppvae.runs.training import history
from ppvae.runs.training import train as run_module

LOST: tuple[Lost, ...] = ("files", "folders")
DiskOf = Callable[..., Disk]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DiskOf]:
    made: list[Disk] = []

    def make(lose: Lost = "nothing") -> Disk:
        root = tmp_path / f"disk-{len(made)}"
        root.mkdir()
        made.append(Disk(root, monkeypatch, lose))
        return made[-1]

    yield make
    for one in made:
        one.close()


# --- each file, and each sync that could be left out ------------------------------------------------------------------


def write_three(disk: Disk, folder: Path) -> None:
    """Three versions of one file, in a folder that is new."""
    make_folder(disk.root / "run" / "deep")
    for version in (b"one" * 1000, b"two" * 2000, b"three"):
        write_bytes(disk.root / "run" / "deep" / "file", version)
        disk.finished()
    for done, left in disk.left(folder):
        path = left / "run" / "deep" / "file"
        content = path.read_bytes() if path.exists() else None
        told = [None, b"one" * 1000, b"two" * 2000, b"three"]
        assert content in told[done : done + 2]


def save_checkpoints(disk: Disk, folder: Path) -> None:
    """Saves of both kinds: the newest that was told of is there, or the one that was being written."""
    for step in range(1, 4):
        state = {"step": step, "weights": torch.full((50,), float(step))}
        checkpoint.save(disk.root / "run" / "checkpoints", "last", step, state, {})
        disk.finished()
        checkpoint.save(disk.root / "run" / "checkpoints", "best", step, state, {})
        disk.finished()
    for done, left in disk.left(folder):
        for kind, count in (("last", (done + 1) // 2), ("best", done // 2)):
            if count:
                state, _ = checkpoint.load(left / "run" / "checkpoints", kind)
                assert state["step"] in (count, count + 1)
                assert torch.equal(state["weights"], torch.full((50,), float(state["step"])))


def write_recipes(disk: Disk, folder: Path) -> None:
    """A recipe and the facts of a run, each replaced."""
    run = RunFolder(disk.root / "run")
    make_folder(run.path)
    for number in range(3):
        write_bytes(run.recipe, f"number = {number}\n".encode())
        write_json(run.info, {"number": number, "text": "x" * 5000})
        disk.finished()
    for done, left in disk.left(folder):
        if done:
            assert int((left / "run" / run.recipe.name).read_text().split()[-1]) in (done - 1, done)
            assert json.loads((left / "run" / run.info.name).read_text())["number"] in (done - 1, done)


WRITES = [write_three, save_checkpoints, write_recipes]


@pytest.mark.parametrize("write", WRITES)
def test_outlives_a_cut(write: Callable[[Disk, Path], None], disk: DiskOf, tmp_path: Path) -> None:
    watched = disk()
    write(watched, tmp_path / "left")
    assert len(watched.cuts) > 10


@pytest.mark.parametrize("lose", LOST)
@pytest.mark.parametrize("write", WRITES)
def test_a_sync_left_out_is_seen(write: Callable[[Disk, Path], None], lose: Lost, disk: DiskOf, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, RunError, OSError, ValueError, IndexError)):
        write(disk(lose), tmp_path / "left")


# --- whole runs -------------------------------------------------------------------------------------------------------


class EveryEpoch(history.Checkpoints):
    """Saves after every epoch, not every few seconds."""

    def on_epoch(self, state: TrainingState) -> None:
        self._next = 0.0
        super().on_epoch(state)


class Told(Callback):
    """Counts the epochs that are over."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def on_epoch(self, state: TrainingState) -> None:
        self.disk.finished()


def test_training_outlives_a_cut(
    small: Recipe, trained: Run, disk: DiskOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on from the last epoch that was over, to the numbers of one that nothing befell."""
    monkeypatch.setattr(run_module, "Checkpoints", EveryEpoch)
    watched = disk()
    train(small, watched.root / "run", callbacks=[Told(watched)], progress=False)
    watched.finished()
    resumed = set()
    for done, left in watched.left(tmp_path / "left"):
        run = left / "run"
        if not done:
            continue
        assert assert_whole(run) >= 1
        _, about = checkpoint.load(run / "checkpoints")
        assert about["epoch"] in (min(done, 3), min(done + 1, 3))
        if done == 4:  # told to be finished
            assert [row["epoch"] for row in load_run(run).history] == [1, 2, 3]
            assert same(run, trained.folder.path)
        elif done not in resumed:
            resumed.add(done)
            if RunFolder(run).read_info().get("outcome") != "completed":
                resume(run, progress=False)
            assert same(run, trained.folder.path)
    assert resumed == {1, 2, 3}


def test_an_evaluation_outlives_a_cut(trained: Run, disk: DiskOf, tmp_path: Path) -> None:
    """Its chunks are whole, and the numbers that were told are there."""
    root = tmp_path / "copied"
    shutil.copytree(trained.folder.path, root / "run")
    watched = disk()
    shutil.copytree(root / "run", watched.root / "run")
    settle(watched)
    run = load_run(watched.root / "run")
    method = Method.parse("importance-sampling:num_samples=6")
    how: dict[str, Any] = {"num_data": 20, "chunk_size": 8, "device": "cpu", "progress": False}
    evaluate(run, [method], **how)
    watched.finished()
    for done, left in watched.left(tmp_path / "left"):
        assert_whole(left / "run")
        if done:
            assert f"{method.key}/log_evidence" in newest(RunFolder(left / "run")).columns


def settle(disk: Disk) -> None:
    """Everything that stands there now is on the disk."""
    for path in [disk.root, *disk.root.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    disk.cuts.clear()
