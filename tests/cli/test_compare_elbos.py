"""``ppvae compare-elbos`` on a small run: the same numbers as the library's, in tables, files and figures."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.data import random_rows
from ppvae.inference import elbo
from ppvae.inference.comparison.compare import compare_elbos
from ppvae.runs import load_run

SMALL = ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--set", "training.compile=eager"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "run"
    done = CliRunner().invoke(app, ["fit", "--model", "bernoulli-vae", "--epochs", "2", *SMALL, "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    return out


def test_numbers_are_those_of_the_library(run: Path) -> None:
    words = ["compare-elbos", str(run), "--estimator", "trace", "--estimator", "importance-weighted:num_particles=3"]
    done = CliRunner().invoke(app, [*words, "--repeats", "6", "--num-data", "20", "--seed", "5", "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    loaded = load_run(run)
    assert loaded.data.test is not None
    expected = compare_elbos(
        loaded.pair,
        loaded.data.test.take(random_rows(len(loaded.data.test), 20)),
        {"a": elbo.TraceELBO(), "b": elbo.ImportanceWeightedELBO(3)},
        num_repeats=6,
        num_data=len(loaded.data),
        seed=5,
        progress=False,
    )
    for row, name in zip(found["estimators"], ("a", "b"), strict=True):
        assert row["bound"] == pytest.approx(expected.row(name).bound, abs=1e-6)
        assert row["bias"] == pytest.approx(expected.row(name).bias, abs=1e-6)
    assert found["estimators"][0]["bound"] < found["estimators"][1]["bound"]
    folder = Path(found["folder"])
    assert folder == run / "comparison"
    assert json.loads((folder / "comparison.json").read_text())["num_repeats"] == 6
    with (folder / "comparison.csv").open() as file:
        records = list(csv.DictReader(file))
    bounds = [float(r["value"]) for r in records if r["quantity"] == "bound"]
    assert bounds == pytest.approx([row["bound"] for row in found["estimators"]])
    assert {path.name for path in folder.glob("*.png")} == {"bounds.png", "gradient_noise.png", "cost.png"}


def test_what_is_wrong_is_said_in_one_line(run: Path) -> None:
    for words, message in (
        (["--estimator", "vimc"], "did you mean 'vimco'"),
        (["--estimator", "trace:particles=3"], "particles"),
        (["--part", "tset"], "did you mean 'test'"),
        (["--estimator", "trace", "--repeats", "4", "--out", str(run / "recipe.toml" / "x")], "cannot be made"),
    ):
        done = CliRunner().invoke(app, ["compare-elbos", str(run), *words])
        assert done.exit_code == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
    assert CliRunner().invoke(app, ["compare-elbos", str(run), "--repeats", "1"]).exit_code == 2


def test_estimators_are_listed(run: Path) -> None:
    done = CliRunner().invoke(app, ["compare-elbos", str(run), "--estimator", "list"])
    assert done.exit_code == 0
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"trace", "vimco", "renyi"}
