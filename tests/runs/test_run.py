"""Run folders: what is written, what is read back, what is refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ppvae.core import FitError, RunError
from ppvae.inference import Callback, TrainingState, fit
from ppvae.models import FactorAnalysis, bernoulli_vae
from ppvae.runs import Recipe, Run, RunFolder, load_run, member_of, read_history, resume, train
from ppvae.runs.storage import checkpoint
from ppvae.runs.storage.folder import create, hold_lock

PAIR = """
import pyro, pyro.distributions as dist, torch
from ppvae.core import ModelGuidePair
from ppvae.models import bernoulli_vae

class MyPair(ModelGuidePair):
    def __init__(self, data_dim, latent_dim: int = 2):
        super().__init__()
        self.inner = bernoulli_vae(data_dim, latent_dim=latent_dim, hidden=(8,))
    def model(self, x, num_data=None):
        return self.inner.model(x, num_data)
    def guide(self, x, num_data=None):
        return self.inner.guide(x, num_data)

def make():
    return MyPair(64)

def needs(thing):
    return thing

number = 3
"""


def test_a_recipe_trains_as_fit_does(trained: Run) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = bernoulli_vae(64, latent_dim=2, hidden=[16])
    result = fit(
        pair,
        trained.data,
        num_epochs=3,
        batch_size=50,
        learning_rate=0.01,
        compile="eager",
        device="cpu",
        progress=False,
    )
    assert checkpoint.same(dict(pair.state_dict()), dict(trained.pair.state_dict()))
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in result.history]
    assert rows == [{key: value for key, value in row.items() if key != "seconds"} for row in trained.history]


def test_what_stands_in_the_folder(trained: Run) -> None:
    folder = trained.folder
    rows = read_history(folder.metrics)
    assert rows == trained.history
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    info = json.loads(folder.info.read_text())
    assert (info["outcome"], info["epochs"], info["steps"]) == ("completed", 3, 12)
    assert set(info["data"]) == {"train", "validation", "test"}
    assert info["num_parameters"] == sum(p.numel() for p in trained.pair.parameters())
    recipe = Recipe.read(folder.path)
    assert recipe.data.binarize == "static"
    assert recipe.ppvae is not None
    assert not list(folder.path.rglob("*.tmp"))


def test_a_run_is_loaded_as_it_was_trained(trained: Run) -> None:
    loaded = load_run(trained.folder.path)
    assert checkpoint.same(dict(loaded.pair.state_dict()), dict(trained.pair.state_dict()))
    assert loaded.history == trained.history
    assert loaded.parameters == "epoch 3, the last"
    assert loaded.held_out == "test"
    assert load_run(trained.folder.path, which="best").parameters.endswith("the best on validation data")
    with pytest.raises(RunError, match="has no part 'tset'"):
        loaded.part("tset")


def test_early_stopping_gives_the_best_parameters_back(small: Recipe, tmp_path: Path) -> None:
    recipe = small.replace(training={"num_epochs": 60, "learning_rate": 0.05, "early_stopping": {"patience": 2}})
    run = train(recipe, tmp_path / "run", progress=False)
    assert run.info["outcome"] == "early stopping"
    loaded, last = load_run(tmp_path / "run"), load_run(tmp_path / "run", which="last")
    assert checkpoint.same(dict(loaded.pair.state_dict()), dict(run.pair.state_dict()))
    assert not checkpoint.same(dict(last.pair.state_dict()), dict(run.pair.state_dict()))
    assert loaded.parameters == f"epoch {run.info['best_epoch']}, the best on validation data"
    with pytest.raises(RunError, match="this run is finished: stopped at epoch"):
        resume(tmp_path / "run")


def test_a_run_that_a_callback_ends_is_saved(small: Recipe, tmp_path: Path) -> None:
    """Before its first checkpoint is due: the parameters are those of the run, and it goes on as if never ended."""

    def enough(state: TrainingState) -> None:
        if state.epoch == 2:
            state.stop("enough")

    run = train(small.replace(training={"num_epochs": 9}), tmp_path / "run", callbacks=[enough], progress=False)
    assert (len(run.history), run.info["message"]) == (2, "enough")
    loaded = load_run(tmp_path / "run")
    assert len(loaded.history) == 2
    assert checkpoint.same(dict(loaded.pair.state_dict()), dict(run.pair.state_dict()))
    rest = resume(tmp_path / "run", num_epochs=3, progress=False)
    whole = train(small.replace(training={"num_epochs": 3}), tmp_path / "whole", progress=False)
    assert checkpoint.same(dict(rest.pair.state_dict()), dict(whole.pair.state_dict()))


def test_binarisation_is_chosen_where_the_likelihood_needs_it(
    small: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        run = train(small.replace(data={"binarize": "auto"}), tmp_path / "a", progress=False)
    assert run.recipe.data.binarize == "static"
    assert "binarised once" in caplog.text
    recipe = small.replace(data={"binarize": "auto"}, model={"allow_grey": True}, training={"num_epochs": 1})
    assert train(recipe, tmp_path / "b", progress=False).recipe.data.binarize == "none"


def test_other_models_by_name(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {"name": "factor-analysis", "latent_dim": 2},
            "data": {"num_train": 100},
            "training": {"num_epochs": 1, "compile": "eager"},
        }
    )
    run = train(recipe, tmp_path / "run", progress=False)
    assert isinstance(run.pair, FactorAnalysis)
    assert run.recipe.data.binarize == "none"


def test_a_folder_that_exists(small: Recipe, tmp_path: Path) -> None:
    train(small, tmp_path / "run", progress=False)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"a run stands here already\nTry one of:\n  - overwrite=True"):
        train(small, tmp_path / "run", progress=False)
    run = train(small.replace(training={"num_epochs": 1}), tmp_path / "run", overwrite=True, progress=False)
    assert len(run.history) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"is not empty and holds no run \(it holds thesis.tex\)"):
        train(small, tmp_path / "other", overwrite=True, progress=False)


def test_a_folder_that_cannot_be_written(small: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: cannot be made: Not a directory"):
        train(small, tmp_path / "file" / "run", progress=False)


def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    with hold_lock(folder):
        with pytest.raises(RunError, match=rf"another process is writing here \(process {os.getpid()}\)"):
            with hold_lock(RunFolder(tmp_path / "run")):
                pass
    with hold_lock(folder):
        pass


def test_a_lock_dies_with_its_process(tmp_path: Path) -> None:
    folder = create(tmp_path / "run")
    code = (
        "import pathlib, time\n"
        "from ppvae.runs.storage.folder import RunFolder, hold_lock\n"
        f"with hold_lock(RunFolder(pathlib.Path({str(folder.path)!r}))):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=rf"\(process {holder.pid}\)"), hold_lock(folder):
            pass
        holder.kill()
    with hold_lock(folder):
        pass


def test_runs_are_there_without_fcntl() -> None:
    """As on Windows, which has no such module."""
    code = "import sys; sys.modules['fcntl'] = None\nimport ppvae.runs; print(ppvae.runs.Recipe.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Recipe\n"


def test_a_failed_run_says_so(small: Recipe, tmp_path: Path) -> None:
    class Spoil(Callback):
        def on_step(self, state: TrainingState) -> None:
            next(state.pair.parameters()).data.fill_(float("nan"))

    with pytest.raises(FitError):
        train(small, tmp_path / "run", callbacks=[Spoil()], progress=False)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["outcome"] == "failed"
    assert "not finite" in info["message"]


def test_a_broken_line_of_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "elbo_train": null}\n{"epoch')
    (row,) = read_history(path)
    assert row["elbo_train"] != row["elbo_train"]
    path.write_text('{"epoch\n{"epoch": 1}\n')
    with pytest.raises(RunError, match="line 1: not a row of metrics"):
        read_history(path)


def test_a_pair_from_a_file(small: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "my_model.py"
    file.write_text(PAIR)
    spec = f"{file}:MyPair"
    recipe = Recipe.from_dict(
        {**small.to_dict(), "model": {"pair": spec, "sha256": checkpoint.sha256(PAIR.encode()), "latent_dim": 3}}
    )
    # The recipe alone runs nothing.
    with pytest.raises(RunError, match=r"stands in a file of yours: .*\n.*\n  - --pair"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.toml").exists()
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        member = member_of(spec)
    assert f"running {file}" in caplog.text
    run = train(recipe, tmp_path / "run", pair=member, progress=False)
    assert (tmp_path / "run" / "pair.py").read_text() == PAIR
    assert run.pair.inner.posterior.event_shape == (3,)
    loaded = load_run(tmp_path / "run", pair=member)
    assert checkpoint.same(dict(loaded.pair.state_dict()), dict(run.pair.state_dict()))
    file.write_text(PAIR + "# changed\n")
    with pytest.raises(RunError, match="has changed since the run"):
        load_run(tmp_path / "run", pair=member)
    load_run(tmp_path / "run", pair=member, force=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MyPiar", "has no 'MyPiar': did you mean 'MyPair'"),
        ("needs", "takes arguments that a recipe cannot state"),
        ("number", "expected a ModelGuidePair, found int"),
        ("make", ""),
    ],
)
def test_what_a_file_may_define(small: Recipe, tmp_path: Path, name: str, message: str) -> None:
    file = tmp_path / "my_model.py"
    file.write_text(PAIR)
    recipe = Recipe.from_dict({**small.to_dict(), "model": {"pair": f"{file}:{name}"}}).replace(
        training={"num_epochs": 1}
    )
    if not message:
        train(recipe, tmp_path / "run", pair=member_of(f"{file}:{name}"), progress=False)
        return
    with pytest.raises(RunError, match=message):
        train(recipe, tmp_path / "run", pair=member_of(f"{file}:{name}"), progress=False)


def test_files_that_define_nothing(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0")
    with pytest.raises(RunError, match="fails: ZeroDivisionError"):
        member_of(f"{file}:A")
    with pytest.raises(RunError, match="no such file"):
        member_of(f"{tmp_path}/none.py:A")
    with pytest.raises(RunError, match=r"expected 'file\.py:Name'"):
        member_of("none.py")


def test_a_named_model_takes_no_pair(small: Recipe, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="so a pair has no place here"):
        train(small, tmp_path / "run", pair=FactorAnalysis(64, 2), progress=False)
