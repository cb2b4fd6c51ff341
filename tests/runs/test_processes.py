"""The command in several processes: killed, interrupted and resumed to the same numbers; evaluations shared."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from contracts.processes import Ppvae
from contracts.runs import assert_whole, left_over, newest, same

from ppvae.runs import Recipe, RunFolder
from ppvae.runs.storage import checkpoint

TINY: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [8]},
    "data": {"num_train": 200, "binarize": "dynamic"},
    "training": {"num_epochs": 12, "batch_size": 20, "learning_rate": 0.01, "compile": "eager"},
    "device": "cpu",
}


def recipe_in(folder: Path) -> Path:
    file = folder / "recipe.toml"
    file.write_text(Recipe.from_dict(TINY).to_toml())
    return file


def epochs_of(run: Path) -> int:
    metrics = run / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def said(ppvae: Ppvae, before: int) -> str:
    return ppvae.log.read_text()[before:]


def end_and_resume(ppvae: Ppvae, folder: Path, whole: Path, rank: int, after: float, number: signal.Signals) -> str:
    """End a process after so many seconds or epochs, go on, and compare; what the processes said."""
    run, before = folder / f"run-{rank}-{number}", len(ppvae.log.read_text())
    recipe = str(folder / "recipe.toml")
    when = after if isinstance(after, float) else (lambda: epochs_of(run) >= after)
    statuses = ppvae.together("fit", recipe, "--out", str(run), end={rank: (when, number)})
    if run.exists():
        assert_whole(run)
    if number == signal.SIGKILL and statuses != [0, 0]:
        assert sorted(statuses) == [-signal.SIGKILL, 1], said(ppvae, before)
    if statuses != [0, 0]:
        words = ["--resume", str(run)] if RunFolder(run).exists else [recipe, "--out", str(run)]
        assert ppvae.together("fit", *words) == [0, 0], said(ppvae, before)
    assert same(run, whole)
    assert left_over(run) == []
    return said(ppvae, before)


@pytest.fixture(scope="module")
def whole(ppvae: Ppvae, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nobody disturbed."""
    folder, before = tmp_path_factory.mktemp("whole"), len(ppvae.log.read_text())
    assert ppvae.together("fit", str(recipe_in(folder)), "--out", str(folder / "run")) == [0, 0], ppvae.log.read_text()
    assert said(ppvae, before).count("next: ppvae evaluate") == 1  # one of them speaks
    return folder / "run"


def test_a_process_that_dies_ends_the_other_and_the_run_goes_on(ppvae: Ppvae, whole: Path, tmp_path: Path) -> None:
    recipe_in(tmp_path)
    text = end_and_resume(ppvae, tmp_path, whole, 1, 3, signal.SIGKILL)
    assert "process 0 of 2: another process ended without a word: it was killed" in text


def test_an_interrupt_of_one_process_stops_both_after_the_same_step(ppvae: Ppvae, whole: Path, tmp_path: Path) -> None:
    recipe_in(tmp_path)
    text = end_and_resume(ppvae, tmp_path, whole, 1, 3, signal.SIGINT)
    assert text.count("its state is saved; go on with: torchrun --nproc-per-node 2 -m ppvae fit --resume") == 1


def test_another_number_of_processes_is_refused_or_told(ppvae: Ppvae, whole: Path, tmp_path: Path) -> None:
    run, before = tmp_path / "run", len(ppvae.log.read_text())
    shutil.copytree(whole, run)
    words = ["fit", "--resume", str(run), "--epochs", "13"]
    assert ppvae(*words) == 1
    assert "processes: 1, then 2, each with noise of its own" in said(ppvae, before)
    assert f"torchrun --nproc-per-node 2 -m ppvae fit --resume {run}" in said(ppvae, before)
    ppvae.check(*words, "--force")
    info = json.loads((run / "run.json").read_text())
    assert info["processes"] == 1 and info["segments"] == [{"epoch": 12, "step": 120, "changes": {"processes": [2, 1]}}]


def test_a_verb_that_is_not_shared_says_so_once(ppvae: Ppvae, tmp_path: Path) -> None:
    before = len(ppvae.log.read_text())
    assert ppvae.together("report", str(tmp_path)) == [1, 1]
    assert said(ppvae, before).count("report: expected one process, found 2") == 1


def test_several_runs_are_not_shared(ppvae: Ppvae, tmp_path: Path) -> None:
    """Each rank would start all of them, in one folder."""
    before = len(ppvae.log.read_text())
    words = ("--seeds", "2", "--out", str(tmp_path / "several"))
    assert ppvae.together("fit", str(recipe_in(tmp_path)), *words) == [1, 1]
    assert said(ppvae, before).count("expected one process to start them, found 2 of torchrun") == 1
    assert not (tmp_path / "several").exists()


@pytest.mark.slow
def test_killed_ten_times(ppvae: Ppvae, tmp_path: Path) -> None:
    recipe, whole, moments = recipe_in(tmp_path), tmp_path / "whole", random.Random(0)
    started = time.monotonic()
    assert ppvae.together("fit", str(recipe), "--out", str(whole)) == [0, 0]
    seconds = time.monotonic() - started
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        recipe_in(folder)
        end_and_resume(ppvae, folder, whole, turn % 2, moments.uniform(0.3 * seconds, seconds), signal.SIGKILL)


def columns(run: Path) -> dict[str, Any]:
    return dict(newest(RunFolder(run)).columns)


def numbers(run: Path) -> list[dict[str, Any]]:
    names = ("key", "side", "mean", "monte_carlo_error", "sampling_error", "num_data", "worst_pareto_k", "conditions")
    return [{name: row.get(name) for name in names} for row in newest(RunFolder(run)).rows]


def test_an_evaluation_is_the_same_by_one_and_by_two(ppvae: Ppvae, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    ppvae.check("fit", str(recipe_in(tmp_path)), "--out", str(one))
    shutil.copytree(one, two)
    words = ["-k", "50", "-k", "200", "--chunk-size", "5", "--num-data", "42"]
    ppvae.check("evaluate", str(one), *words)

    def two_chunks() -> bool:
        return len(list((two / "chunks").glob("*"))) >= 2

    statuses = ppvae.together("evaluate", str(two), *words, end={1: (two_chunks, signal.SIGKILL)})
    assert statuses in ([1, -signal.SIGKILL], [0, 0]), ppvae.log.read_text()  # the kill may come too late
    assert ppvae.together("evaluate", str(two), *words) == [0, 0], ppvae.log.read_text()
    assert numbers(two) == numbers(one)
    assert checkpoint.same(columns(two), columns(one))
    assert left_over(two) == [] and not (two / "chunks").exists()


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    """As a user has it: torchrun ends the processes when one is killed, and starts those that go on."""
    recipe, runs = recipe_in(tmp_path), [tmp_path / "whole", tmp_path / "run"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "ppvae", "fit"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(recipe), "--out", str(runs[0])], check=True, env=environment)
    many = [str(recipe), "--epochs", "2000", "--out", str(runs[1])]
    with subprocess.Popen([*command, *many], env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not list((runs[1] / "checkpoints").glob("*.sha256")):
            time.sleep(0.1)
            assert process.poll() is None
        children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0 and "another process ended without a word" in errors
    assert_whole(runs[1])
