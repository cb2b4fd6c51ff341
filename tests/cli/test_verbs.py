"""The verbs in one process: what they print, what they write, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.runs import newest
from typer.testing import CliRunner, Result

from ppvae.cli import common
from ppvae.cli.demo import demo
from ppvae.cli.main import app
from ppvae.runs import RunFolder, load_run, read_history
from ppvae.runs.evaluation.evaluation import Method
from ppvae.runs.evaluation.evaluation import evaluate as run_evaluation

SMALL = ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--set", "training.compile=eager"]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def good(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    good(
        "fit",
        "--model",
        "bernoulli-vae",
        "--data",
        "digits",
        "--set",
        "model.latent_dim=2",
        *SMALL,
        "--epochs",
        2,
        "--out",
        out,
    )
    return out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["demo"],
        ["fit"],
        ["evaluate"],
        ["sample"],
        ["restore"],
        ["report"],
        ["data"],
        ["data", "list"],
        ["data", "convert"],
    ],
)
def test_help_has_an_example(words: list[str]) -> None:
    text = good(*words, "--help")
    assert "Usage: " in text
    if words not in ([], ["data"]):
        assert "Example: ppvae " + " ".join(words) in text
        assert "--json" in text


def test_fit_writes_a_run_and_says_so(run: Path, tmp_path: Path) -> None:
    assert len(read_history(run / "metrics.jsonl")) == 2
    out = tmp_path / "again"
    told = json.loads(good("fit", run / "recipe.toml", "--out", out, "--json"))
    assert told["run"] == str(out)
    assert told["outcome"] == "completed"
    assert (
        told["metrics"]["elbo_validation"]
        == read_history(run / "metrics.jsonl")[told["best_epoch"] - 1]["elbo_validation"]
    )


def test_fit_options_change_the_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        "--elbo",
        "trace",
        "--optimizer",
        "sgd",
        "--learning-rate",
        "1e-4",
        "--batch-size",
        20,
        "--epochs",
        1,
        "--seed",
        4,
    ]
    good(
        "fit",
        "--model",
        "factor-analysis",
        "--set",
        "model.latent_dim=3",
        "--data",
        "digits",
        *words,
        *SMALL[:2],
        "--out",
        out,
    )
    recipe = load_run(out).recipe
    assert recipe.model == {"name": "factor-analysis", "latent_dim": 3, "isotropic": False}
    table = recipe.training
    assert (
        table.elbo["name"],
        table.optimizer,
        table.learning_rate,
        table.batch_size,
        table.num_epochs,
        recipe.seed,
    ) == (
        "trace",
        "sgd",
        1e-4,
        20,
        1,
        4,
    )


def test_fit_resumes(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    good("fit", run / "recipe.toml", "--out", out, "--epochs", 1)
    good("fit", "--resume", out, "--epochs", 2)
    rows = [read_history(folder / "metrics.jsonl")[-1] for folder in (run, out)]
    assert rows[0]["elbo_validation"] == rows[1]["elbo_validation"]
    result = call("fit", "--resume", out)
    assert result.exit_code == 1
    assert "this run is finished" in result.stderr


def test_evaluate_gives_the_numbers_of_the_library(run: Path) -> None:
    told = json.loads(good("evaluate", run, "-k", 5, "--num-data", 30, "--seed", 2, "--device", "cpu", "--json"))
    methods = [Method.parse("importance-sampling:num_samples=5")]
    expected = run_evaluation(load_run(run), methods, num_data=30, seed=2, device="cpu", write=False, progress=False)
    assert [row["mean"] for row in told["estimates"]] == [row["mean"] for row in expected["estimates"]]
    assert [row["label"] for row in told["estimates"]] == ["ELBO", "L_5"]
    assert newest(RunFolder(run)).values == told


def test_evaluate_for_people(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "numbers.json"
    text = good("evaluate", run, "-k", 3, "--num-data", 20, "--method", "prior-sampling:num_samples=4", "--out", out)
    rows = json.loads(out.read_text())["estimates"]
    for row in rows:
        assert row["label"] in text
        assert f"{row['mean_of_all']:.3f}" in text
    assert "importance-sampling" in good("evaluate", run, "--method", "list")
    assert (
        "num_samples"
        in json.loads(good("evaluate", run, "--method", "list", "--json"))["importance-sampling"]["options"]
    )


def test_sample_writes_an_array_or_a_picture(run: Path, tmp_path: Path) -> None:
    told = json.loads(good("sample", run, "-n", 7, "--kind", "sample", "--out", tmp_path / "x.npy", "--json"))
    x = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert told["shape"] == list(x.shape) == [7, 64]
    assert set(np.unique(x)) <= {0.0, 1.0}
    good("sample", run, "-n", 7, "--out", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert call("sample", run, "--out", tmp_path / "x.gif").exit_code == 1


def test_tables_become_one_mapped_file(tmp_path: Path) -> None:
    rows = np.random.RandomState(0).rand(30, 2)
    parts = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for part, path in zip(np.split(rows, 2), parts, strict=True):
        pd.DataFrame(part, columns=["a", "b"]).to_parquet(path)
    said = json.loads(good("data", "convert", *parts, tmp_path / "rows.npy", "--json"))
    assert said == {"path": str(tmp_path / "rows.npy"), "shape": [30, 2]}
    assert not good("data", "convert", *parts, tmp_path / "rows.npy")  # what it says goes to stderr
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)
    refused = call("data", "convert", tmp_path / "rows.npy", tmp_path / "again.npy")
    assert refused.exit_code == 1 and "of files, .parquet is read piece by piece" in refused.output
    assert not (tmp_path / "again.npy").exists()


def test_data_list(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PPVAE_DATA", str(tmp_path))
    monkeypatch.setenv("PPVAE_CACHE", str(tmp_path))
    listing = {one["name"]: one for one in json.loads(good("data", "list", "--json"))}
    assert listing["digits"]["found"]
    assert not listing["mnist"]["found"]
    assert listing["digits"]["sizes"] == {"train": 1297, "validation": 200, "test": 300}
    assert "frey-faces" in good("data", "list")


def test_demo_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppvae.cli.demo.METHODS", ("importance-sampling:num_samples=5",))
    out = tmp_path / "demo"
    good("fit", "digits", "--epochs", 1, "--set", "training.compile=eager", "--out", out)  # which it replaces
    told = json.loads(good("demo", "--out", out, "--epochs", 2, "--json"))
    assert told["report"] == str(out / "report.html")
    assert Path(told["report"]).stat().st_size < 5e6
    assert [row["label"] for row in told["evaluation"]["estimates"]] == ["ELBO", "L_5"]
    assert {path.stem for path in (out / "figures").iterdir()} >= {
        "learning_curve",
        "reconstructions",
        "samples",
        "manifold",
        "latents",
    }
    assert demo.__doc__ is not None


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["fit"], 2, "give a RECIPE, data, --model, --pair or --resume"),
        (["fit", "--epochs", "many"], 2, "epochs"),
        (["nonsense"], 2, "nonsense"),
        (["evaluate", "x", "--which", "worst"], 2, "worst"),
        (
            ["fit", "--model", "bernouli-vae", "--out", "OUT"],
            1,
            "error: unknown model 'bernouli-vae': did you mean 'bernoulli-vae'?",
        ),
        (["fit", "--model", "bernoulli-vae", "--data", "mnits", "--out", "OUT"], 1, "unknown data set 'mnits'"),
        (["fit", "--model", "bernoulli-vae", "--set", "model.latent_dm=2"], 1, "unknown key 'model.latent_dm'"),
        (["fit", "--model", "bernoulli-vae", "--set", "model.latent_dim"], 1, "--set: expected KEY=VALUE"),
        (
            ["fit", "--model", "bernoulli-vae", "--set", "model.latent_dim=0", "--out", "OUT"],
            1,
            "at least one latent dimension",
        ),
        (["fit", "--model", "bernoulli-vae", "--batch-size", "5000", "--out", "OUT"], 1, "larger than the data"),
        (["fit", "--model", "bernoulli-vae", "--device", "tpu:0", "--out", "OUT"], 1, "device"),
        (["fit", "none.toml"], 1, "no such recipe"),
        (["fit", "--pair", "none.py:A"], 1, "no such file"),
        (["fit", "other.toml", "--resume", "OUT"], 1, "RECIPE has no place beside it"),
        (["evaluate", "OUT"], 1, "no such folder"),
        (["report", "OUT"], 1, "no such folder"),
    ],
)
def test_failures_end_with_a_status_and_a_message(words: list[str], status: int, message: str, tmp_path: Path) -> None:
    result = call(*[word.replace("OUT", str(tmp_path / "out")) for word in words])
    assert result.exit_code == status, result.output
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_existing_run_is_not_overwritten(run: Path) -> None:
    result = call("fit", run / "recipe.toml", "--out", run)
    assert result.exit_code == 1
    assert "a run stands here already" in result.stderr
    assert "--overwrite" in result.stderr


def test_an_unforeseen_error_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("ppvae.runs.load_run", fail)
    result = call("report", run)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ZeroDivisionError: division by zero\n")
    assert "Traceback" not in result.stderr
    monkeypatch.setenv("PPVAE_DEBUG", "1")
    assert "Traceback" in call("report", run).stderr


def test_threads_are_put_back(run: Path) -> None:
    before = torch.get_num_threads()
    good("sample", run, "-n", 1, "--threads", 2, "--out", run / "x.npy")
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("beside", "num_threads", "busy"), [(0.0, 4, False), (2.0, 4, False), (3.0, 4, True), (9.0, 1, False)]
)
def test_contention_for_cores_is_told(
    beside: float, num_threads: int, busy: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On four cores: threads that wait for each other made an evaluation fifty times slower."""
    with monkeypatch.context() as patch:
        patch.setattr(common, "running_beside", lambda: beside)
        patch.setattr(common.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
        patch.setattr(torch, "get_num_threads", lambda: num_threads)
        with common.threads(None):
            pass
        assert ("--threads 1 may be many times faster" in capsys.readouterr().err.replace("\n", " ")) == busy
        with common.threads(1):  # who says a number has thought of it
            assert capsys.readouterr().err == ""
    assert common.running_beside() >= 0


def test_progress_without_a_terminal_is_on_standard_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line now and then (here: at every occasion), and JSON alone on standard output."""
    monkeypatch.setattr("ppvae.inference.execution.progress.SECONDS", 0.0)
    out = tmp_path / "run"
    done = call("fit", "--model", "bernoulli-vae", *SMALL, "--epochs", 2, "--out", out, "--json")
    assert json.loads(done.stdout)["outcome"] == "completed"
    assert "\nepoch 2/2, elbo -" in f"\n{done.stderr}"
    assert "data/s; 00:0" in done.stderr
    done = call("evaluate", out, "-k", 5, "--num-data", 20)
    assert "ImportanceSampling: datum " in done.stderr
    assert "datum" not in done.stdout.replace("nats per datum", "")
