"""Files of a run folder that someone damaged or wrote by hand: refused by the name of the key, and nothing crashes."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from ppvae.core import RunError
from ppvae.runs import Run, RunFolder, load_run, read_history
from ppvae.runs.evaluation.simulation_check import sentence
from ppvae.runs.storage.schema import EvaluationFile, Info, require
from ppvae.runs.training.restore import restore


@pytest.fixture
def folder(trained: Run, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained.folder.path, tmp_path / "run")))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "its content: "),
        ({"best_epoch": 0}, "best_epoch: "),
        ({"seconds": float("nan")}, "seconds: .*finite"),
        ({"segments": [{"epoch": 1, "step": 2, "changes": {"a": [1]}}]}, "segments.0.changes.a: "),
    ],
)
def test_facts_of_a_run(values: Any, message: str) -> None:
    with pytest.raises(RunError, match=f"run.json: {message}"):
        require(Info, values, Path("run.json"))


def test_a_segment_and_what_later_versions_add_are_taken() -> None:
    segment = {"epoch": 1, "step": 2, "changes": {"training.learning_rate": [0.1, 0.2]}}
    require(Info, {"segments": [segment], "later": {"a": 1}}, Path("run.json"))


def test_an_evaluation_is_refused_by_its_first_wrong_key() -> None:
    data = {"name": "x", "part": "test", "num_data": "5", "fingerprint": "", "whole": ""}
    values = {"parameters": "", "parameters_sha256": "", "data": data, "estimates": [], "simulation_checks": []}
    with pytest.raises(RunError, match=r"e.json: data.num_data: .*found '5'"):
        require(EvaluationFile, values, Path("e.json"))


def test_a_row_of_metrics_that_is_no_number(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    first, *others = folder.metrics.read_text().splitlines()
    folder.metrics.write_text("\n".join([json.dumps({**json.loads(first), "kl_train": [1]}), *others]) + "\n")
    with pytest.raises(RunError, match="line 1: not a row of metrics: 'kl_train' is no number"):
        read_history(folder.metrics)
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        assert len(load_run(folder.path).history) == 3  # of the last checkpoint
    assert "the rows of the last checkpoint are taken" in caplog.text


def test_a_best_epoch_without_its_row(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    folder.update_info(best_epoch=3)
    folder.metrics.write_text("".join(folder.metrics.read_text().splitlines(keepends=True)[:2]))
    with caplog.at_level(logging.WARNING, "ppvae.runs"):
        assert load_run(folder.path).info["best_epoch"] is None
    assert "no row of the best epoch, 3" in caplog.text


def test_parameters_that_no_training_leaves(trained: Run) -> None:
    state = {name: value.clone() for name, value in trained.pair.state_dict().items()}
    name = next(iter(dict(trained.pair.named_parameters())))
    for wrong, message in (
        ({**state, name: state[name] * float("nan")}, f"not finite are {name}"),
        ({**state, name: True}, "other things than tensors"),
        ([], "other things than tensors"),
    ):
        with pytest.raises(RunError, match=message):
            restore(trained.pair, wrong, trained.data, 50, "x")


def test_a_check_of_one_datum_is_told_from_its_file() -> None:
    """The error of a mean over one datum is NaN, and null in the file."""
    row = {"label": "AIS", "gap": [0.2, 0.2, 0.2], "num_trusted": 1, "is_sandwich": False}
    told = sentence({**row, "below": [[0.1, None], [0.2, float("nan")]]}, 5)
    assert "between 0.100 and 0.200 nats below it" in told
