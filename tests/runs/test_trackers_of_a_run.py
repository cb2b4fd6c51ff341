"""Trackers named on the command line: what reaches them through crashes and resumes is every epoch, once."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from ppvae.cli.main import app
from ppvae.core import RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, loggers_again, loggers_of, read_history, resume, train

needs_tensorboard = pytest.mark.skipif(
    find_spec("tensorboard") is None, reason="tensorboard (the extra `track`) is not installed"
)


class Server:
    """MLflow's part of the calls that the logger makes: runs with their parameters and rows."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.active = ""
        self.down = False

    def start_run(self, *, run_id: str | None = None, run_name: str | None = None) -> Any:
        if self.down:
            raise ConnectionError("no server")
        self.active = run_id or f"run{len(self.runs)}"
        self.runs.setdefault(self.active, {"name": run_name, "params": {}, "rows": []})
        return SimpleNamespace(info=SimpleNamespace(run_id=self.active))

    def log_params(self, params: dict[str, str]) -> None:
        known = self.runs[self.active]["params"]
        for key, value in params.items():
            if known.setdefault(key, value) != value:
                raise ValueError(f"changing the parameter {key} is not allowed")  # as MLflow does

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.runs[self.active]["rows"].append((step, metrics["elbo_train"]))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    fake = ModuleType("mlflow")
    vars(fake).update(
        set_experiment=lambda name: None,
        start_run=found.start_run,
        log_params=found.log_params,
        log_metrics=found.log_metrics,
        end_run=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return found


class Crash(Callback):
    """Stands in for kill -9 after an epoch's row was handed over; the last checkpoint is older."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, state: TrainingState) -> None:
        if state.epoch == self.epoch:
            raise SystemExit


def steps(server: Server, name: str = "run0") -> list[int]:
    return [step for step, _ in server.runs[name]["rows"]]


def values(folder: Path) -> list[float]:
    return [row["elbo_train"] for row in read_history(folder / "metrics.jsonl")]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_every_epoch_once_through_a_crash(small: Recipe, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    trackers = loggers_of(folder, ["mlflow:experiment=digits"], small)
    train(small.replace(training={"num_epochs": 1}), folder, callbacks=trackers, progress=False)
    with pytest.raises(SystemExit):  # epochs 2 and 3 are told of, and no checkpoint is written after the first
        resume(folder, num_epochs=4, callbacks=[*loggers_again(folder), Crash(3)], progress=False)
    assert steps(server) == [1, 2, 3]
    again = resume(folder, num_epochs=5, callbacks=loggers_again(folder), progress=False)
    assert again.info["epochs"] == 5
    assert server.runs["run0"]["name"] == "run" and list(server.runs) == ["run0"]
    assert server.runs["run0"]["params"]["training.optimizer"] == "adam"
    assert server.runs["run0"]["rows"] == list(zip(range(1, 6), values(folder), strict=True))
    about = json.loads((folder / "trackers.json").read_text())
    assert about == {"mlflow": {"options": {"experiment": "digits"}, "last_epoch": 5, "run_id": "run0"}}


def test_a_tracker_that_comes_later_gets_all_epochs(small: Recipe, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    train(small.replace(training={"num_epochs": 2}), folder, progress=False)
    assert loggers_again(folder) == []
    resume(folder, num_epochs=3, callbacks=loggers_again(folder, ["mlflow"]), progress=False)
    assert server.runs["run0"]["rows"] == list(zip(range(1, 4), values(folder), strict=True))
    assert loggers_again(folder, ["none"]) == []
    assert len(loggers_again(folder)) == 1


def test_a_new_run_over_an_old_one_is_a_new_run_there(small: Recipe, tmp_path: Path, server: Server) -> None:
    folder = tmp_path / "run"
    one = small.replace(training={"num_epochs": 1})
    for _ in range(2):
        train(one, folder, callbacks=loggers_of(folder, ["mlflow"], one), overwrite=True, progress=False)
    assert steps(server, "run0") == steps(server, "run1") == [1]
    train(one, folder, overwrite=True, progress=False)
    assert loggers_again(folder) == []


def test_one_that_cannot_be_opened_is_told_and_leaves_room(small: Recipe, tmp_path: Path, server: Server) -> None:
    folder, server.down = tmp_path / "run", True
    with pytest.raises(RunError, match=r"logger mlflow cannot be opened: ConnectionError: no server[\s\S]*Try one of"):
        train(small, folder, callbacks=loggers_of(folder, ["mlflow"], small), progress=False)
    server.down = False
    train(small, folder, callbacks=loggers_of(folder, ["mlflow"], small), progress=False)
    assert steps(server) == [1, 2, 3]
    server.down = True
    with pytest.raises(RunError, match="cannot be opened"):  # and not: "its checkpoint does not fit its recipe"
        resume(folder, num_epochs=4, callbacks=loggers_again(folder), progress=False)
    resume(folder, num_epochs=4, callbacks=loggers_again(folder, ["none"]), progress=False)


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_command_line_with_tensorboard(small: Recipe, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe, out = tmp_path / "recipe.toml", tmp_path / "run"
    recipe.write_text(small.to_toml())
    assert invoke("fit", recipe, "--out", out, "--logger", "tensorboard", "--epochs", 2).exit_code == 0
    with pytest.raises(SystemExit):
        resume(out, num_epochs=4, callbacks=[*loggers_again(out), Crash(3)], progress=False)
    assert invoke("fit", "--resume", out, "--epochs", 4).exit_code == 0
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("elbo_train")]
    expected = torch.tensor(values(out)).tolist()
    assert found == list(zip([1, 2, 3, 4], expected, strict=True))
    assert invoke("fit", recipe, "--out", out, "--overwrite", "--epochs", 1).exit_code == 0
    assert not (out / "tensorboard").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "unknown logger 'tensorbord': did you mean 'tensorboard'"),
        ("mlflow:experimnt=x", "did you mean 'experiment'"),
        ("wandb", "needs wandb, which is not installed"),
    ],
)
def test_command_line_refuses(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "run"
    result = invoke("fit", "--model", "bernoulli-vae", "--data", "digits", "--out", out, "--logger", name)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not out.exists()


def test_damaged_memory_is_told(small: Recipe, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(small.replace(training={"num_epochs": 1}), folder, progress=False)
    (folder / "trackers.json").write_text("[1]")
    with pytest.raises(RunError, match="expected a table of trackers"):
        loggers_again(folder)


def test_importing_the_room_imports_no_tracker() -> None:
    code = "import sys, ppvae.runs; print(*sorted({'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
