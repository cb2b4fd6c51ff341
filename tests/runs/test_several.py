"""Several runs at once: each is the run alone, the table is over them, and what is interrupted goes on."""

from __future__ import annotations

import csv
import json
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.processes import Ppvae
from contracts.runs import same
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core import RunError
from ppvae.report import write_comparison
from ppvae.runs import is_several, load_run, members_of, read_several, train, train_several

SMALL: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [8]},
    "data": {"num_train": 200, "binarize": "static"},
    "training": {"num_epochs": 2, "batch_size": 50, "compile": "eager"},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("several") / "runs"
    members = members_of(SMALL, [3, 1], {"model.latent_dim": [2, 4]})
    train_several(members, out, progress=False)
    return out


def test_each_run_is_the_run_alone(several: Path, tmp_path: Path) -> None:
    found = read_several(several)
    assert is_several(several) and [member.name for member in found.members] == [
        "latent_dim-2-seed-3",
        "latent_dim-2-seed-1",
        "latent_dim-4-seed-3",
        "latent_dim-4-seed-1",
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(found.members[3].recipe, tmp_path / "alone", progress=False)
    finally:
        torch.set_num_threads(threads)
    assert same(several / found.members[3].name, tmp_path / "alone")


def test_the_table_is_over_the_seeds_of_each_value(several: Path) -> None:
    rows = list(csv.DictReader((several / "table.csv").read_text().splitlines()))
    groups = json.loads((several / "several.json").read_text())["groups"]
    assert [(row["model.latent_dim"], row["seed"]) for row in rows] == [("2", "3"), ("2", "1"), ("4", "3"), ("4", "1")]
    for row in rows:
        last = load_run(several / row["run"]).history[-1]
        assert float(row["elbo_validation"]) == last["elbo_validation"] and row["outcome"] == "completed"
    for group, own in zip(groups, (rows[:2], rows[2:]), strict=True):
        values = [float(row["elbo_train"]) for row in own]
        assert group["num_ended"] == 2
        assert group["elbo_train_mean"] == pytest.approx(statistics.fmean(values))
        assert group["elbo_train_sd"] == pytest.approx(statistics.stdev(values))


def test_the_report_shows_mean_and_spread(several: Path) -> None:
    runs = [load_run(several / member.name) for member in read_several(several).members]
    page = write_comparison(runs, out=several / "report.html").read_text(encoding="utf-8")
    values = [run.history[-1]["elbo_validation"] for run in runs[:2]]
    assert "Over seeds" in page
    assert f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}".replace("-", "−") in page


def test_force_goes_with_one_run(several: Path) -> None:
    result = CliRunner().invoke(app, ["fit", "--resume", str(several), "--force"])
    assert result.exit_code == 1 and "--force has no place beside it" in result.output


@pytest.mark.parametrize("way", ["--resume", "--out"])
def test_what_is_there_stays(several: Path, way: str) -> None:
    words = (
        ["fit", "--resume", several] if way == "--resume" else ["fit", "--seeds", "2", "--data", "digits", way, several]
    )
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 1
    assert ("come to their end" if way == "--resume" else "several runs stand here already") in result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "expected how many"),
        (["--seeds", "a"], "expected how many"),
        (["--seeds", "1,2,1"], "1 is there twice"),
        (["--seeds", "2", "--seed", "3"], "one run has one seed"),
        (["--sweep", "model.latent_dm=2"], "latent_dm"),
        (["--sweep", "model.latent_dim=2,two"], "two"),
        (["--sweep", "model.latent_dim=2,2"], "2 is there twice"),
        (["--sweep", "model.latent_dim="], "expected KEY=V1,V2"),
        (["--sweep", "seed=1,2"], "--seeds 1,2"),
        (["--sweep", "device=cpu,cpu"], "there twice"),
        (["--sweep", "training.num_epochs=2,0"], "num_epochs"),
        (["--sweep", "model.latent_dim=2", "--sweep", "model.latent_dim=3"], "there twice"),
        (["--sweep", "model.latent_dim=2", "--set", "model.latent_dim=3"], "one of the two"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(words: list[str], message: str, tmp_path: Path) -> None:
    out = tmp_path / "new"
    result = CliRunner().invoke(app, ["fit", "--model", "bernoulli-vae", *words, "--out", str(out)])
    assert result.exit_code == 1 and message in result.output, result.output
    assert not out.exists()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RunError, match=r"it holds mine\.txt"):
        train_several(members_of(SMALL, [1], {}), tmp_path)


def test_an_interrupted_set_goes_on_with_what_is_missing(ppvae: Ppvae, tmp_path: Path) -> None:
    out, alone = tmp_path / "runs", tmp_path / "alone"
    settings = ["model.hidden=[8]", "data.num_train=200", "data.binarize=static", "training.compile=eager"]
    words = ["--model", "bernoulli-vae", "--epochs", "80", *(w for one in settings for w in ("--set", one))]

    def begun() -> bool:  # one: the other process may still import
        return any(file.stat().st_size for file in out.glob("*/metrics.jsonl"))

    command = ["fit", *words, "--seeds", "2", "--out", str(out)]
    status, _, stderr = ppvae.stopped_by(signal.SIGTERM, command, begun, tmp_path)
    assert f"ppvae fit --resume {out}" in stderr
    assert status == 143
    result = CliRunner().invoke(app, ["fit", "--resume", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert [row["outcome"] for row in json.loads(result.stdout)["rows"]] == ["completed", "completed"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train(read_several(out).members[1].recipe, alone, progress=False)
    finally:
        torch.set_num_threads(threads)
    assert same(out / "seed-1", alone)
