"""Evaluations: the numbers are those of the verbs, and what is kept is what was found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from contracts.runs import newest, only_path

from ppvae.core import DataError, RunError
from ppvae.data import random_rows
from ppvae.inference import evaluate_bound
from ppvae.inference.evidence import AIS, ImportanceSampling, log_evidence
from ppvae.runs import Recipe, Run, load_run, train
from ppvae.runs.evaluation import estimates
from ppvae.runs.evaluation.evaluation import (
    REPEATS,
    Method,
    describe,
    evaluate,
    read_evaluations,
)
from ppvae.runs.recipe.signatures import Entry


def test_the_numbers_are_those_of_the_verbs(trained: Run) -> None:
    result = evaluate(
        trained, [Method.parse("importance-sampling:num_samples=20")], num_data=50, progress=False, write=False
    )
    bound, sampled = result["estimates"]
    data = load_run(trained.folder.path).part("test")
    data = data.take(random_rows(len(data), 50))
    each = evaluate_bound(trained.pair, data, num_repeats=REPEATS, device="cpu", progress=False)
    assert bound["mean"] == pytest.approx(each.mean, abs=1e-9)
    assert bound["monte_carlo_error"] == pytest.approx(each.mean_standard_error, abs=1e-9)
    assert bound["reconstruction"] - bound["kl"] == pytest.approx(bound["mean"], abs=1e-4)
    assert bound["side"] == "lower"
    evidence = log_evidence(trained.pair, data, method=ImportanceSampling(20), device="cpu", progress=False)
    assert sampled["mean"] == evidence.mean
    assert sampled["monte_carlo_error"] == evidence.mean_standard_error
    assert sampled["sampling_error"] == evidence.sampling_standard_error
    assert sampled["label"] == "L_20"
    # Over the same data, all of them, the bound is below: many standard errors, and the sign is right.
    assert bound["mean"] < sampled["mean_of_all"]


def test_the_exact_evidence_is_exact(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {"name": "factor-analysis", "latent_dim": 2},
            "data": {"num_train": 100},
            "training": {"num_epochs": 1, "compile": "eager"},
        }
    )
    run = train(recipe, tmp_path / "run", progress=False)
    result = evaluate(run, [Method.parse("exact"), Method.parse("importance-sampling:num_samples=3")], progress=False)
    elbo, sampled, exact = result["estimates"]  # lower bounds first, the truth last
    assert exact["side"] == "exact"
    x = run.part("test").tensor()
    assert exact["mean"] == pytest.approx(float(run.pair.log_evidence(x).detach().double().mean()), rel=1e-6)
    assert exact["monte_carlo_error"] == 0.0
    # The guide is the posterior: every bound is the evidence. Single draws of E log p(x | z) vary, their mean less.
    assert sampled["mean"] == pytest.approx(exact["mean"], abs=1e-3)
    assert abs(elbo["mean"] - exact["mean"]) < 5 * elbo["monte_carlo_error"]


def test_what_is_kept_is_what_was_found(small: Recipe, tmp_path: Path) -> None:
    run = train(small, tmp_path / "run", progress=False)
    assert read_evaluations(run.folder) == []
    first = evaluate(run, [Method.parse("importance-sampling:num_samples=5")], progress=False)
    assert json.loads(only_path(run.folder).read_text()) == first
    columns = newest(run.folder).columns
    key = "importance-sampling:num_samples=5,defensive=0.0"
    assert float(columns[f"{key}/log_evidence"].double().mean()) == pytest.approx(
        first["estimates"][1]["mean_of_all"], abs=1e-6
    )
    assert len(columns["elbo/elbo"]) == 300
    # Another method and another seed stand beside it; other data in another file.
    told: list[str] = []
    second = evaluate(run, [Method.parse("prior-sampling:num_samples=5")], progress=False, say=told.append)
    assert [row["key"] for row in second["estimates"]] == ["elbo", "prior-sampling:num_samples=5", key]
    assert len(told) == 2
    again = evaluate(run, [Method.parse("importance-sampling:num_samples=5")], seed=1, progress=False)
    labels = ["ELBO, seed=0", "ELBO, seed=1", "Prior sampling", "L_5, seed=0", "L_5, seed=1"]
    assert [row["label"] for row in again["estimates"]] == labels
    means = {row["label"]: row["mean_of_all"] for row in again["estimates"]}
    assert means["L_5, seed=0"] == first["estimates"][1]["mean_of_all"] != means["L_5, seed=1"]
    other = evaluate(run, [], part="validation", progress=False)
    assert [row["key"] for row in other["estimates"]] == ["elbo"]
    assert set(newest(run.folder).columns) == {"datum", "elbo/elbo", "elbo/reconstruction", "elbo/kl"}
    few = evaluate(run, [], num_data=20, progress=False)
    assert [one.values for one in read_evaluations(run.folder)] == [few, other, again]


def test_the_stated_command_gives_the_number_again(trained: Run) -> None:
    one = evaluate(trained, [], num_data=20, seed=3, progress=False, write=False)["estimates"][0]
    assert (
        one["command"]
        == f"ppvae evaluate {trained.folder.path} --part test --num-data 20 --seed 3 --threads 1 --method elbo"
    )
    again = evaluate(trained, [], num_data=20, seed=3, progress=False, write=False)["estimates"][0]
    assert one["mean"] == again["mean"]


@pytest.mark.parametrize(
    ("name", "label"), [("SMC2", "SMC2"), ("SMC2Sampler", "SMC2 sampler"), ("Fab4Density", "Fab4 density")]
)
def test_digits_of_a_name_are_in_its_label(name: str, label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = type(name, (AIS,), {})
    monkeypatch.setattr(estimates, "evidence_entries", lambda: {"mine": Entry("mine", method)})
    assert Method.parse("mine").label == label


def test_methods_are_parsed() -> None:
    method = Method.parse("importance-sampling:num_samples=7")
    assert method.make() == ImportanceSampling(7)
    labels = {"importance-sampling:num_samples=7": "L_7", "ais": "AIS", "bridge-sampling": "Bridge sampling"}
    assert {text: Method.parse(text).label for text in labels} == labels
    assert Method.parse("ais:start=prior, num_chains=3").table["start"] == "prior"
    assert Method.parse(Method.parse("ais").key) == Method.parse("ais")
    for text, message in (
        ("aiss", "unknown evidence method 'aiss': did you mean 'ais'"),
        ("ais:chains=3", "unknown key '--method.chains'"),
        ("ais:num_chains", "expected option=value, found 'num_chains'"),
        ("ais:num_chains=a", "--method.num_chains: expected a valid integer, found 'a'"),
    ):
        with pytest.raises(RunError, match=message):
            Method.parse(text)


def test_a_line_says_side_and_errors(trained: Run) -> None:
    row = evaluate(trained, [], num_data=20, progress=False, write=False)["estimates"][0]
    line = describe(row)
    assert line.startswith(f"ELBO (lower): {row['mean']:.3f} ± {row['monte_carlo_error']:.3f} nats per datum")
    assert "over the choice of data" in line
    row |= {"num_trusted": 17, "num_estimated": 19, "mean_of_all": -30.0, "mean_of_all_standard_error": 0.5}
    assert "over the 17 of 20 data that can be trusted (-30.000 ± 0.500 over all 19 that have an esti" in describe(row)


def test_damaged_evaluations_are_named(small: Recipe, tmp_path: Path) -> None:
    run = train(small.replace(training={"num_epochs": 1}), tmp_path / "run", progress=False)
    evaluate(run, [], progress=False)
    path = only_path(run.folder)
    path.write_text("{}")
    problems: list[str] = []
    assert read_evaluations(run.folder, problems) == []
    (problem,) = problems
    assert problem.startswith(f"{path}: not an evaluation") and f"ppvae evaluate {run.folder.path}" in problem
    with pytest.raises(RunError, match="not an evaluation"):
        read_evaluations(run.folder)
    evaluate(run, [], progress=False)  # computes it anew, and leaves what is left of the other
    assert len(newest(run.folder).columns) == 4
    assert path.with_name(path.name + ".damaged").read_text() == "{}"
    next(run.folder.evaluations.glob("*.safetensors")).write_bytes(b"junk")
    with pytest.raises(RunError, match=r"-[0-9a-f]{16}\.safetensors: damaged"):
        read_evaluations(run.folder)
    evaluate(run, [], progress=False)
    assert len(newest(run.folder).columns) == 4
    with pytest.raises((RunError, DataError)):
        evaluate(run, [], part="nothing", progress=False)
