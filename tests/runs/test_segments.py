"""What a run says it was trained under is what it was trained under."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.runs import same
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core import RunError
from ppvae.inference import Callback, TrainingState, fit
from ppvae.report import write_report
from ppvae.runs import Recipe, Run, load_run, resume, train
from ppvae.runs.evaluation.evaluation import evaluate
from ppvae.runs.storage import checkpoint


@pytest.fixture
def run(small: Recipe, tmp_path: Path) -> Run:
    return train(small.replace(training={"num_epochs": 2}), tmp_path / "run", progress=False)


def edit(run: Run, before: str, after: str) -> None:
    text = run.folder.recipe.read_text()
    assert before in text
    run.folder.recipe.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("learning_rate = 0.01", "learning_rate = 0.1", "training.learning_rate was 0.01, now 0.1"),
        ("seed = 0", "seed = 5", "seed was 0, now 5"),
        ("latent_dim = ", "latent_dim = 1", "model.latent_dim was"),
    ],
)
def test_an_edited_recipe_is_refused(run: Run, before: str, after: str, key: str) -> None:
    edit(run, before, after)
    with pytest.raises(RunError, match="was edited since the last checkpoint: .*" + key):
        resume(run.folder.path, num_epochs=3, progress=False)
    with pytest.raises(RunError, match="was edited since the last checkpoint"):  # nor is it mixed with a change
        resume(run.folder.path, num_epochs=3, changes={"training": {"clip_norm": 1.0}}, progress=False)


@pytest.mark.usefixtures("unpainted")
def test_a_change_by_an_explicit_option_is_a_segment(run: Run) -> None:
    first = checkpoint.load(run.folder.checkpoints)[0]
    words = ["fit", "--resume", str(run.folder.path), "--epochs", "4", "--learning-rate", "0.1"]
    done = CliRunner().invoke(app, [*words, "--set", "training.clip_norm=3.0"])
    assert done.exit_code == 0, done.output
    later = load_run(run.folder.path)
    assert [row["learning_rate"] for row in later.history] == [0.01, 0.01, 0.1, 0.1]
    assert later.recipe.training.learning_rate == 0.1
    changes = {"training.clip_norm": [None, 3.0], "training.learning_rate": [0.01, 0.1]}
    step = first["step"]
    assert later.info["segments"] == [{"epoch": 2, "step": step, "changes": changes}]
    page = write_report(later).read_text()
    assert f"after epoch 2 (step {step}): training.clip_norm was None, now 3.0; training.learning_rate was" in page
    assert "a model of the last recipe alone, not this one" in page and ">the trained model<" not in page
    # The numbers are those of the verbs: the same state, gone on with under the other options.
    pair = load_run(run.folder.path).pair
    options: dict[str, Any] = {"num_epochs": 4, "batch_size": 50, "learning_rate": 0.01, "clip_norm": 3.0}
    for group in first["optimizer"]["param_groups"]:
        group["lr"] = 0.1
    result = fit(pair, run.data, resume=first, compile="eager", progress=False, device="cpu", **options)
    for name, value in result.state.pair.state_dict().items():
        assert torch.equal(value, later.pair.state_dict()[name])
    # Going on without a change adds none, and more are added to it.
    resume(run.folder.path, num_epochs=5, progress=False)
    again = resume(run.folder.path, num_epochs=6, changes={"training": {"clip_norm": None}}, progress=False)
    assert [segment["epoch"] for segment in again.info["segments"]] == [2, 5]


def test_a_learning_rate_that_a_callback_set_stays(small: Recipe, tmp_path: Path) -> None:
    class Halve(Callback):
        def on_epoch(self, state: TrainingState) -> None:
            if state.epoch == 1:
                state.optimizer.param_groups[0]["lr"] *= 0.5

    run = train(small.replace(training={"num_epochs": 2}), tmp_path / "run", callbacks=[Halve()], progress=False)
    later = resume(run.folder.path, num_epochs=3, changes={"training": {"clip_norm": 9.0}}, progress=False)
    assert [row["learning_rate"] for row in later.history] == [0.01, 0.005, 0.005]


@pytest.mark.parametrize(
    "change",
    [
        {"elbo": {"name": "importance-weighted", "num_particles": 3}},
        {"kl_warmup": {"num_epochs": 5}},
        {"kl_weight": {"name": "cyclic", "start": 0.0, "end": 1.0, "period": 2}},
        {"early_stopping": {"patience": 9}},
        {"compile": "graph"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_may_change_changes(run: Run, change: dict[str, Any]) -> None:
    later = resume(run.folder.path, num_epochs=3, changes={"training": change}, progress=False)
    assert len(later.history) == 3 and later.history[:2] == run.history
    (segment,) = later.info["segments"]
    assert segment["epoch"] == 2 and all(key.startswith(f"training.{next(iter(change))}") for key in segment["changes"])


def test_an_estimator_with_state_does_not_fit_the_state_of_another(run: Run) -> None:
    elbo = {"name": "score-function", "baseline": "decaying-average"}
    with pytest.raises(RunError, match="its checkpoint does not fit its recipe"):
        resume(run.folder.path, num_epochs=3, changes={"training": {"elbo": elbo}}, progress=False)


def test_what_needs_a_new_run_is_refused(run: Run) -> None:
    for changes in ({"seed": 3}, {"model": {"hidden": [9]}}, {"training": {"batch_size": 7}}):
        with pytest.raises(RunError, match=r"cannot change within a run, but only training\.learning_rate"):
            resume(run.folder.path, num_epochs=3, changes=changes, progress=False)
    done = CliRunner().invoke(app, ["fit", "--resume", str(run.folder.path), "--epochs", "3", "--optimizer", "sgd"])
    assert done.exit_code == 1 and "training.optimizer cannot change within a run" in done.stderr


def test_a_learning_rate_under_a_schedule_is_refused(small: Recipe, tmp_path: Path) -> None:
    recipe = small.replace(training={"num_epochs": 1, "schedule": {"name": "step", "step_size": 1}})
    run = train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(RunError, match="the learning rate follows a schedule, step"):
        resume(run.folder.path, num_epochs=2, changes={"training": {"learning_rate": 0.1}}, progress=False)


@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_epochs_than_there_are_are_refused(run: Run, epochs: int) -> None:
    before = run.folder.recipe.read_text()
    with pytest.raises(
        RunError, match=f"has 2 epochs already, which are among those asked for: nothing to do for {epochs}"
    ):
        resume(run.folder.path, num_epochs=epochs, progress=False)
    assert run.folder.recipe.read_text() == before


def test_stopped_between_the_recipe_and_the_first_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that ppvae wrote is no edit: the change goes on where it was stopped."""
    from ppvae.runs.training import train as training

    def cut(*args: Any) -> None:
        raise MemoryError

    changes = {"training": {"learning_rate": 0.1}}
    with monkeypatch.context() as patch:
        patch.setattr(training, "_train", cut)
        with pytest.raises(MemoryError):
            resume(run.folder.path, num_epochs=3, changes=changes, progress=False)
    later = resume(run.folder.path, progress=False)
    assert [row["learning_rate"] for row in later.history] == [0.01, 0.01, 0.1]
    assert [segment["epoch"] for segment in later.info["segments"]] == [2]


def test_damaged_metrics_and_facts_do_not_stand_in_the_way(
    run: Run, small: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(small.replace(training={"num_epochs": 4}), tmp_path / "whole", progress=False)
    rows = run.history
    run.folder.metrics.write_text("{]\n" + run.folder.metrics.read_text())
    run.folder.info.write_text("{")
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        loaded = load_run(run.folder.path)
    assert loaded.history == rows and loaded.info == {}
    assert (
        "the rows of the last checkpoint are taken" in caplog.text and "what it said of the run is lost" in caplog.text
    )
    assert evaluate(loaded, [], num_data=10, progress=False)["estimates"]
    later = resume(run.folder.path, num_epochs=4, progress=False)
    assert json.loads(later.folder.info.read_text())["outcome"] == "completed"
    assert same(later.folder.path, whole.folder.path)


@pytest.mark.usefixtures("unpainted")
def test_a_page_elsewhere_leaves_the_run_folder_alone(run: Run, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [run.folder.path, *run.folder.path.rglob("*")]}
    page = write_report(run, out=tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>")
    assert {path: path.stat().st_mtime_ns for path in [run.folder.path, *run.folder.path.rglob("*")]} == before
