"""``kill -9`` at random moments: the run goes on to the numbers of one that nobody killed, and no half file counts.

The moments are seeded, what the machine was doing then is not: every repetition tests other ones. In the slow suite
the process is killed 50 times, here and there in the default suite 4 times.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contracts.processes import Ppvae
from contracts.runs import assert_whole, left_over, newest, same

from ppvae.runs import Recipe, RunFolder
from ppvae.runs.storage import checkpoint as checkpoints

TINY: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [8]},
    "data": {"num_train": 200, "binarize": "static"},
    "training": {"num_epochs": 30, "batch_size": 20, "learning_rate": 0.01, "compile": "eager"},
    "device": "cpu",
}
RECIPES: dict[str, dict[str, Any]] = {
    "adam": {},
    "best, schedule": {
        "training": {"early_stopping": {"patience": 30}, "schedule": {"name": "cosine", "num_epochs": 30}}
    },
    "dynamic, adagrad": {"data": {"binarize": "dynamic"}, "training": {"optimizer": "adagrad", "elbo": "trace"}},
}
METHODS = ["-k", "200", "--method", "ais:num_chains=2,num_temperatures=40"]
METHODS += ["--method", "ris:num_draws=40,num_chains=2,num_warmup=20,trust=true"]
METHODS += ["--num-data", "100", "--chunk-size", "10"]


def recipe_in(folder: Path, changes: dict[str, Any]) -> Path:
    file = folder / "recipe.toml"
    file.write_text(Recipe.from_dict(TINY).replace(**changes).to_toml())
    return file


def fit_words(recipe: Path, run: Path) -> list[str]:
    """What a user would type now: go on where there is a run, else begin."""
    return ["fit", "--resume", str(run)] if RunFolder(run).exists else ["fit", str(recipe), "--out", str(run)]


def killed_fit(ppvae: Ppvae, tmp_path: Path, changes: dict[str, Any], kills: int, seed: int) -> None:
    recipe = recipe_in(tmp_path, changes)
    seconds = ppvae.check("fit", str(recipe), "--out", str(tmp_path / "whole"))
    run, moments, begun, before = tmp_path / "run", random.Random(seed), 0, ppvae.kills
    while ppvae.kills < before + kills:
        status = ppvae(*fit_words(recipe, run), kill_after=moments.uniform(0.02, 2.4 * seconds / kills + 0.2))
        if status == 0:  # it came to its end: once more from the beginning
            assert same(run, tmp_path / "whole")
            shutil.rmtree(run)
            begun += 1
            assert begun < 20
            continue
        assert status == -signal.SIGKILL, ppvae.log.read_text()
        assert_whole(run)
    if not (run / "run.json").exists() or json.loads((run / "run.json").read_text())["outcome"] != "completed":
        ppvae.check(*fit_words(recipe, run))
    assert same(run, tmp_path / "whole")
    assert "falling back" not in ppvae.log.read_text()
    assert left_over(run) == []
    assert assert_whole(run) >= 2


def killed_evaluate(ppvae: Ppvae, tmp_path: Path, methods: list[str], kills: int, seed: int) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    ppvae.check("fit", str(recipe_in(tmp_path, {"training": {"num_epochs": 5}})), "--out", str(run))
    shutil.copytree(run, whole)
    seconds = ppvae.check("evaluate", str(whole), *methods)
    moments, before, ended, again = random.Random(seed), ppvae.kills, 0, list[str]()
    while ppvae.kills < before + kills:
        longest = 2.4 * seconds / kills + 0.2
        status = ppvae("evaluate", str(run), *methods, *again, kill_after=moments.uniform(0.02, longest))
        assert_whole(run)
        again = []
        if status == 0:  # it came to its end: once more from the beginning
            same_evaluation(run, whole)
            again, ended = ["--again"], ended + 1
            assert ended < 20
            continue
        assert status == -signal.SIGKILL, ppvae.log.read_text()
    ppvae.check("evaluate", str(run), *methods)
    same_evaluation(run, whole)
    assert "damaged" not in ppvae.log.read_text()


def same_evaluation(run: Path, whole: Path) -> None:
    assert numbers(run) == numbers(whole)
    assert checkpoints.same(dict(newest(RunFolder(run)).columns), dict(newest(RunFolder(whole)).columns))
    assert same(run, whole)  # evaluating touches no file of training
    assert left_over(run) == []
    assert not (run / "chunks").exists()
    assert len(list(run.glob("evaluations/*.safetensors"))) == 1


def numbers(run: Path) -> list[dict[str, Any]]:
    rows = newest(RunFolder(run)).rows
    names = ("key", "side", "mean", "monte_carlo_error", "sampling_error", "num_data", "num_estimated")
    return [{name: row[name] for name in names} for row in rows]


@pytest.mark.slow
def test_killed_while_training(ppvae: Ppvae, tmp_path: Path) -> None:
    killed_fit(ppvae, tmp_path, {"training": {"num_epochs": 12}}, kills=3, seed=1)


def test_killed_while_evaluating(ppvae: Ppvae, tmp_path: Path) -> None:
    killed_evaluate(ppvae, tmp_path, ["-k", "50", "--num-data", "20"], kills=1, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_killed_twelve_times_while_training(ppvae: Ppvae, tmp_path: Path, name: str) -> None:
    killed_fit(ppvae, tmp_path, RECIPES[name], kills=12, seed=len(name))


@pytest.mark.slow
def test_killed_ten_times_while_evaluating(ppvae: Ppvae, tmp_path: Path) -> None:
    killed_evaluate(ppvae, tmp_path, METHODS, kills=10, seed=3)


@pytest.mark.slow
def test_chunks_outlive_one_kill_after_another(ppvae: Ppvae, tmp_path: Path) -> None:
    """Killed when there are two chunks, then when there are four, then when there are six: none is lost."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    ppvae.check("fit", str(recipe_in(tmp_path, {"training": {"num_epochs": 5}})), "--out", str(run))
    shutil.copytree(run, whole)
    words = ["--method", "ais:num_chains=2,num_temperatures=60", "--num-data", "100", "--chunk-size", "10"]
    ppvae.check("evaluate", str(whole), *words)

    def chunks() -> set[str]:
        return {path.name for path in (run / "chunks").glob("*.safetensors")}

    known: set[str] = set()
    for enough in (2, 4, 6):
        status = ppvae("evaluate", str(run), *words, kill_when=lambda enough=enough: len(chunks()) >= enough)
        assert status == -signal.SIGKILL, ppvae.log.read_text()
        assert_whole(run)
        assert known <= chunks() and len(chunks()) >= enough
        known = chunks()
    ppvae.check("evaluate", str(run), *words)
    assert f"going on; chunks that are finished: {len(known)}" in ppvae.log.read_text()
    same_evaluation(run, whole)


@pytest.mark.slow
def test_killed_four_times_as_a_command_of_its_own(ppvae: Ppvae, tmp_path: Path) -> None:
    """As a user has it: the whole command from its start, saving every five seconds."""
    recipe = recipe_in(tmp_path, {"training": {"num_epochs": 400}})
    ppvae.check("fit", str(recipe), "--out", str(tmp_path / "whole"))
    run, moments, kills = tmp_path / "run", random.Random(4), 0
    while kills < 4:
        command = [sys.executable, "-m", "ppvae", *fit_words(recipe, run)]
        with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as child:
            try:
                child.wait(moments.uniform(1.0, 20.0))
            except subprocess.TimeoutExpired:
                child.kill()
        if child.returncode == 0:
            assert same(run, tmp_path / "whole")
            shutil.rmtree(run)
            continue
        assert child.returncode == -signal.SIGKILL
        kills += 1
        assert_whole(run)
    ppvae.check(*fit_words(recipe, run))
    assert same(run, tmp_path / "whole")
    assert left_over(run) == []
