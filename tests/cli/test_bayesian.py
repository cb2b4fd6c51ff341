"""Full variational Bayes from the command line: weights with a posterior, evaluated and reported like any run."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.data import random_rows
from ppvae.inference import elbo, evaluate_bound, evidence, log_evidence, signal_to_noise
from ppvae.models import BayesianPair
from ppvae.runs import load_run

SMALL = ["--set", "data.num_train=200", "--set", "model.hidden=[8]", "--set", "training.compile=eager"]


def test_a_bayesian_run_is_trained_evaluated_and_loaded(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--bayesian", "likelihood", "--set", "bayesian.prior_scale=0.5"]
    done = CliRunner().invoke(app, [*words, "--epochs", "2", *SMALL, "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    run = load_run(out)
    assert isinstance(run.pair, BayesianPair)
    assert run.recipe.bayesian is not None
    assert run.recipe.bayesian.prior_scale == 0.5
    last = run.history[-1]
    assert last["elbo_train"] == pytest.approx(last["reconstruction_train"] - last["kl_train"] + last["global_train"])
    done = CliRunner().invoke(app, ["evaluate", str(out), "-k", "10", "--num-data", "30", "--json"])
    assert done.exit_code == 0, done.stderr
    rows = {row["key"]: row for row in json.loads(done.stdout)["estimates"]}
    assert run.data.test is not None
    estimator = elbo.TraceMeanFieldELBO(on_missing_kl="sample")
    held_out = run.data.test.take(random_rows(len(run.data.test), 30))
    found = evaluate_bound(run.pair, held_out, elbo=estimator, num_data=200, progress=False)
    assert rows["elbo"]["mean"] == pytest.approx(found.mean, abs=1e-3)  # the KL of the weights over N = 200
    assert rows["elbo"]["monte_carlo_error"] == pytest.approx(found.mean_standard_error, rel=1e-3)
    unshared = evaluate_bound(run.pair, held_out, elbo=estimator, progress=False).mean
    assert unshared < rows["elbo"]["mean"] - 1


def test_evaluated_over_draws_of_the_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--bayesian", "likelihood", "--epochs", "2", *SMALL]
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    words = ["evaluate", str(out), "-k", "20", "--num-data", "30", "--json"]
    assert CliRunner().invoke(app, words).exit_code == 0
    done = CliRunner().invoke(app, [*words, "--weights", "3"])
    assert done.exit_code == 0, done.stderr
    rows = {row["label"]: row for row in json.loads(done.stdout)["estimates"]}
    assert list(rows) == ["ELBO", "L_20", "L_20, 3 weights"]  # one beside the other
    run = load_run(out)
    assert run.data.test is not None
    for label, sites in (("L_20", "mean"), ("L_20, 3 weights", 3)):
        found = log_evidence(
            run.pair,
            run.data.test.take(random_rows(len(run.data.test), 30)),
            method=evidence.ImportanceSampling(20),
            global_sites=sites,
            chunk_size=100,
            progress=False,
        )
        assert rows[label]["num_trusted"] == int(found.trusted.sum())
        assert rows[label]["mean_of_all"] == pytest.approx(found.mean_of_all, abs=1e-5)
        error = rows[label]["mean_of_all_standard_error"]
        known = math.nan if error is None else error  # unknown where it is for some datum
        assert known == pytest.approx(found.mean_of_all_standard_error, rel=1e-4, nan_ok=True)
    command = shlex.split(rows["L_20, 3 weights"]["command"])
    again = CliRunner().invoke(app, [*command[1:], "--again", "--json"])
    assert again.exit_code == 0, again.stderr
    same = {row["label"]: row for row in json.loads(again.stdout)["estimates"]}
    assert same["L_20, 3 weights"]["mean"] == rows["L_20, 3 weights"]["mean"]


def test_weights_of_a_plain_pair_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--epochs", "1", *SMALL, "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    done = CliRunner().invoke(app, ["evaluate", str(out), "-k", "20", "--num-data", "30", "--weights", "3"])
    assert done.exit_code == 1
    assert "no posterior over weights" in done.stderr and "--bayesian" in done.stderr


def test_a_module_that_does_not_exist_is_suggested(tmp_path: Path) -> None:
    words = ["fit", "--model", "bernoulli-vae", "--bayesian", "liklihood", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*words, *SMALL])
    assert done.exit_code == 1
    assert "did you mean 'likelihood'" in done.stderr


def test_the_report_shows_what_is_known_of_the_weights(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["fit", "--model", "bernoulli-vae", "--bayesian", "likelihood", "--epochs", "1", *SMALL]
    assert CliRunner().invoke(app, [*words, "--out", str(out)]).exit_code == 0
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0, done.stderr
    run = load_run(out)
    ratios = torch.cat([value.flatten() for value in signal_to_noise(run.pair, run.data).values()])
    below = float((ratios < 1).double().mean())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"{below:.0%} of {len(ratios)} weights" in page
    assert {"weight_noise.png", "uncertainty.png"} <= {path.name for path in (out / "figures").iterdir()}
