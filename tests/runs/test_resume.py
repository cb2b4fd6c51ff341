"""A run that was interrupted, or extended, goes on to the numbers of one that was not: no bit differs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ppvae.core import RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, Run, RunInterrupt, load_run, resume, train
from ppvae.runs.storage import checkpoint as checkpoints
from ppvae.runs.training.history import StopOnSignal

CLOCK = ("seconds",)


def outcome(folder: Path) -> dict[str, Any]:
    """The last checkpoint and the metrics, without what a clock wrote."""
    state, _ = checkpoints.load(folder / "checkpoints")
    state = {key: value for key, value in state.items() if key not in CLOCK}
    state["history"] = [{k: v for k, v in row.items() if k not in CLOCK} for row in state["history"]]
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    state["lines"] = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
    return state


def same(one: Path, other: Path) -> bool:
    return checkpoints.same(outcome(one), outcome(other))


class At(Callback):
    """Does something once after so many steps."""

    def __init__(self, step: int, do: Callable[[], object]) -> None:
        self.step, self.do = step, do

    def on_step(self, state: TrainingState) -> None:
        if state.step == self.step:
            self.do()


FEATURES: dict[str, dict[str, Any]] = {
    "adam": {},
    "captured": {"compile": "graph"},
    "adagrad, estimator A": {"optimizer": "adagrad", "elbo": {"name": "trace", "num_particles": 2}},
    "sgd, schedules": {"optimizer": "sgd", "schedule": {"name": "multi-step", "milestones": [2, 4]}},
    "early stopping": {"early_stopping": {"patience": 10}, "kl_warmup": {"num_epochs": 4}},
    "full batch": {"batch_size": "all", "clip_norm": 1.0, "weight_prior_scale": 1.0},
}


@pytest.mark.parametrize("feature", FEATURES)
def test_three_and_three_epochs_are_six(small: Recipe, tmp_path: Path, feature: str) -> None:
    recipe = small.replace(training=FEATURES[feature])
    whole = train(recipe.replace(training={"num_epochs": 6}), tmp_path / "whole", progress=False)
    train(recipe, tmp_path / "parts", progress=False)
    parts = resume(tmp_path / "parts", num_epochs=6, progress=False)
    assert same(tmp_path / "whole", tmp_path / "parts")
    assert checkpoints.same(whole.pair.state_dict(), parts.pair.state_dict())
    assert load_run(tmp_path / "parts").recipe == whole.recipe


def test_dynamic_binarisation_goes_on_too(small: Recipe, tmp_path: Path) -> None:
    recipe = small.replace(data={"binarize": "dynamic"})
    train(recipe.replace(training={"num_epochs": 4}), tmp_path / "whole", progress=False)
    train(recipe, tmp_path / "parts", progress=False)
    resume(tmp_path / "parts", num_epochs=4, progress=False)
    assert same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGINT, 1), (signal.SIGTERM, 6), (signal.SIGINT, 8), (signal.SIGINT, 12)]
)
def test_a_signal_saves_the_state_between_two_steps(
    small: Recipe, tmp_path: Path, trained: Run, number: signal.Signals, step: int
) -> None:
    before = signal.getsignal(number)
    kill = At(step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(RunInterrupt, match="its state is saved; go on with: ppvae fit --resume") as stopped:
        train(small, tmp_path / "run", callbacks=[kill], progress=False)
    assert stopped.value.signal == number
    assert signal.getsignal(number) is before
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["outcome"] == "interrupted"
    _, about = checkpoints.load(tmp_path / "run" / "checkpoints")
    assert about["step"] == step
    if step == 12:  # the last step of all: what was saved is the end
        assert about["epoch"] == 3
    resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", trained.folder.path)


@pytest.mark.parametrize("when", ["on_step", "on_epoch"])
def test_a_signal_after_the_last_callback_has_looked_saves_the_state_too(
    small: Recipe, tmp_path: Path, trained: Run, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stopped the run without saving, and the steps since the checkpoint before were lost."""
    look = getattr(StopOnSignal, when)

    def look_too_early(self: StopOnSignal, state: TrainingState) -> None:
        look(self, state)
        if state.step == {"on_step": 6, "on_epoch": 8}[when]:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(StopOnSignal, when, look_too_early)
    with pytest.raises(RunInterrupt, match="its state is saved") as stopped:
        train(small, tmp_path / "run", progress=False)
    assert stopped.value.saved
    monkeypatch.undo()
    resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", trained.folder.path)


def test_many_interruptions(small: Recipe, tmp_path: Path, trained: Run) -> None:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupt):
        train(small, tmp_path / "run", callbacks=[At(2, kill)], progress=False)
    for step in (3, 7, 10):
        with pytest.raises(RunInterrupt):
            resume(tmp_path / "run", callbacks=[At(step, kill)], progress=False)
    resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", trained.folder.path)


def test_a_second_signal_stops_at_once_and_keeps_what_was_saved(small: Recipe, tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupt, match="checkpoint before it is kept") as stopped:
        train(small, tmp_path / "run", callbacks=[At(6, twice)], progress=False)
    assert not stopped.value.saved


def test_metrics_ahead_of_the_checkpoint_are_cut_back(small: Recipe, tmp_path: Path, trained: Run) -> None:
    with pytest.raises(RunInterrupt):
        train(
            small,
            tmp_path / "run",
            callbacks=[At(6, lambda: os.kill(os.getpid(), signal.SIGINT))],
            progress=False,
        )
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"epoch": 2, "elbo_train": 0.0}\n{"epoch": 3, "el')
    resume(tmp_path / "run", progress=False)
    assert same(tmp_path / "run", trained.folder.path)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    small: Recipe, tmp_path: Path, trained: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def kill() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(RunInterrupt):
        train(small, tmp_path / "run", callbacks=[At(3, kill)], progress=False)
    with pytest.raises(RunInterrupt):
        resume(tmp_path / "run", callbacks=[At(9, kill)], progress=False)
    path = tmp_path / "run" / "checkpoints" / "last-00000009.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    resume(tmp_path / "run", progress=False)
    assert "falling back to last-00000003" in caplog.text
    assert same(tmp_path / "run", trained.folder.path)


def test_nothing_to_resume(trained: Run, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"this run is finished: completed 3 epochs\nTry one of:\n  - num_epochs=N, for more epochs"
    ):
        resume(trained.folder.path)
    with pytest.raises(RunError, match="no such folder"):
        resume(tmp_path / "nowhere")
    with pytest.raises(RunError, match="holds no run"):
        resume(tmp_path)


def test_other_data_or_versions_are_refused_unless_forced(
    small: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(small, tmp_path / "run", progress=False)
    for before, after, message in (
        ('"data": {"train": "', '"data": {"train": "0', "the data are not those of the run"),
        ('"pyro": "', '"pyro": "0.', r"pyro is .*, then 0\."),
    ):
        for path in (tmp_path / "run" / "checkpoints").glob("last-*.json"):
            record = path.with_suffix(".sha256")
            old = checkpoints.sha256(path.read_bytes())
            assert before in path.read_text()
            path.write_text(path.read_text().replace(before, after))
            record.write_text(record.read_text().replace(old, checkpoints.sha256(path.read_bytes())))
        with pytest.raises(RunError, match=message):
            resume(tmp_path / "run", num_epochs=4, progress=False)
    resume(tmp_path / "run", num_epochs=4, progress=False, force=True)
    assert "going on as asked" in caplog.text
