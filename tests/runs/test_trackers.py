"""Trackers get the rows of the history, one an epoch: real event files, and fakes of MLflow and Weights & Biases."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ppvae.core import RunError
from ppvae.inference import Callback, Fit, TrainingState, fit
from ppvae.models import FactorAnalysis
from ppvae.runs.trackers.mlflow import MLflowLogger
from ppvae.runs.trackers.tensorboard import TensorBoardLogger
from ppvae.runs.trackers.tracker import Tracker
from ppvae.runs.trackers.wandb import WandbLogger

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard (the extra `track`) is not installed"
)


def train(*callbacks: Callback, num_epochs: int = 3, resume: Any = None, seed: int = 0) -> Fit:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    return fit(
        FactorAnalysis(3, 1),
        x[:30],
        validation=x[30:],
        num_epochs=num_epochs,
        batch_size=10,
        compile="eager",
        callbacks=callbacks,
        progress=False,
        resume=resume,
        seed=seed,
    )


def expected(result: Fit) -> list[tuple[int, dict[str, float]]]:
    return [(int(row["epoch"]), {k: v for k, v in row.items() if k != "epoch"}) for row in result.history]


# --- every tracker ---


class Recorder(Tracker):
    """Keeps what it is told; may fail at an epoch, or at the end."""

    package = "json"  # there is always one

    def __init__(self, fail_at: int | str | None = None) -> None:
        super().__init__()
        self.fail_at, self.calls = fail_at, list[Any]()

    def open(self, state: TrainingState) -> None:
        if self.fail_at == "open":
            raise ConnectionError("no server")
        self.calls.append(("open", state.epoch))

    def write(self, epoch: int, metrics: dict[str, float]) -> None:
        if self.fail_at == epoch:
            raise ConnectionError("server went away")
        self.calls.append((epoch, metrics))

    def close(self) -> None:
        self.calls.append("close")
        if self.fail_at == "close":
            raise ConnectionError("server went away")


def test_a_row_an_epoch() -> None:
    tracker = Recorder()
    result = train(tracker)
    assert tracker.calls == [("open", 0), *expected(result), "close"]
    assert {"elbo_train", "elbo_validation", "kl_train", "learning_rate", "step"} <= set(tracker.calls[1][1])


def test_resumed() -> None:
    first = train(num_epochs=1)
    tracker = Recorder()
    result = train(tracker, resume=first.state.state_dict())
    assert tracker.calls == [("open", 1), *expected(result)[1:], "close"]


@pytest.mark.parametrize("where", [2, "close"])
def test_a_failing_tracker_does_not_end_training(where: int | str, caplog: pytest.LogCaptureFixture) -> None:
    tracker = Recorder(fail_at=where)
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        result = train(tracker)
    assert str(result.outcome) == "completed 3 epochs" and tracker.calls[-1] == "close"
    (record,) = caplog.records
    assert "Recorder" in record.getMessage() and "ConnectionError: server went away" in record.getMessage()
    written = [call[0] for call in tracker.calls if isinstance(call, tuple) and call[0] != "open"]
    assert written == [epoch for epoch in (1, 2, 3) if epoch != where]


def test_one_that_cannot_be_opened_stops_before_work() -> None:
    with pytest.raises(ConnectionError, match="no server"):
        train(Recorder(fail_at="open"))


def test_a_tracker_changes_no_number() -> None:
    def numbers(result: Fit) -> list[Any]:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]

    assert numbers(train(Recorder())) == numbers(train()) != numbers(train(seed=1))


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("tensorboard", lambda: TensorBoardLogger("somewhere")),
        ("mlflow", MLflowLogger),
        ("wandb", WandbLogger),
    ],
)
def test_a_missing_package_is_said(package: str, make: Callable[[], Callback], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # importing it is then an ImportError
    with pytest.raises(RunError, match=rf"needs {package}, which is not installed[\s\S]*ppvae\[track\]"):
        make()


# --- TensorBoard: the real one ---


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard(tmp_path: Path) -> None:
    result = train(TensorBoardLogger(tmp_path))
    found = scalars(tmp_path)
    for name in result.history[0]:
        if name != "epoch":
            assert [step for step, _ in found[name]] == [1, 2, 3]
            assert [value for _, value in found[name]] == pytest.approx([row[name] for row in result.history])
    assert "epoch" not in found


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_after_a_resume_hides_what_was_lost(tmp_path: Path) -> None:
    saved = train(num_epochs=1).state.state_dict()
    train(TensorBoardLogger(tmp_path), seed=1)  # ran to epoch 3, but the checkpoint is of epoch 1
    result = train(TensorBoardLogger(tmp_path), num_epochs=2, resume=saved)
    found = scalars(tmp_path)["elbo_train"]
    assert [step for step, _ in found] == [1, 2]
    assert found[1][1] == pytest.approx(result.history[1]["elbo_train"])


# --- MLflow and Weights & Biases: fakes that take the calls of the real ones ---


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    fake = ModuleType("mlflow")

    def start_run(*, run_id: str | None = None, run_name: str | None = None) -> Any:
        calls.append(("start_run", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    vars(fake).update(
        set_experiment=lambda name: calls.append(("set_experiment", name)),
        start_run=start_run,
        log_params=lambda params: calls.append(("log_params", params)),
        log_metrics=lambda metrics, step: calls.append((step, metrics)),
        end_run=lambda: calls.append("end_run"),
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return calls


def test_mlflow(mlflow: list[Any]) -> None:
    recipe = {"seed": 0, "training": {"optimizer": "adam"}, "long": "x" * 900}
    logger = MLflowLogger(experiment="digits", run_name="first", parameters=recipe)
    result = train(logger)
    assert mlflow == [
        ("set_experiment", "digits"),
        ("start_run", None, "first"),
        ("log_params", {"seed": "0", "training.optimizer": "adam", "long": "x" * 500}),
        *expected(result),
        "end_run",
    ]
    assert logger.run_id == "abc"


def test_mlflow_goes_on_with_a_run(mlflow: list[Any]) -> None:
    train(MLflowLogger(run_id="xyz"), num_epochs=1)
    assert mlflow[0] == ("start_run", "xyz", None) and mlflow[-1] == "end_run"


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []
    fake = ModuleType("wandb")

    def init(**options: Any) -> Any:
        calls.append(("init", options))
        return SimpleNamespace(
            id=options["id"] or "abc",
            log=lambda metrics, step: calls.append((step, metrics)),
            finish=lambda: calls.append("finish"),
        )

    vars(fake).update(init=init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return calls


def test_wandb(wandb: list[Any]) -> None:
    logger = WandbLogger(project="digits", config={"seed": 0}, mode="offline")
    result = train(logger)
    (_, options), *rows, last = wandb
    assert options == {
        "project": "digits",
        "name": None,
        "id": None,
        "resume": None,
        "config": {"seed": 0},
        "mode": "offline",
        "dir": None,
    }
    assert rows == expected(result) and last == "finish" and logger.run_id == "abc"


def test_wandb_goes_on_with_a_run(wandb: list[Any]) -> None:
    train(WandbLogger(run_id="xyz"), num_epochs=1)
    assert wandb[0][1]["id"] == "xyz" and wandb[0][1]["resume"] == "allow"
