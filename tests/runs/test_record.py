"""A page shows the numbers of its parameters, compares over common data, and every command on it makes what it says."""

from __future__ import annotations

import re
import shlex
import statistics
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.runs import newest
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.data import random_rows
from ppvae.inference import log_evidence
from ppvae.inference.evidence import ImportanceSampling
from ppvae.report import write_comparison, write_report
from ppvae.report.common_data import columns_of, compare_runs
from ppvae.report.figures.pictures import _best_estimate
from ppvae.report.findings import find
from ppvae.report.html.page import number
from ppvae.runs import Recipe, Run, load_run, resume, train
from ppvae.runs.evaluation.estimates import REPEATS, bound_of, key_of, whole_mean
from ppvae.runs.evaluation.evaluation import Evaluation, Method, evaluate

L_5 = Method.parse("importance-sampling:num_samples=5")


@pytest.fixture
def run(small: Recipe, tmp_path: Path) -> Run:
    return train(small.replace(training={"num_epochs": 1}), tmp_path / "run", progress=False)


def words_of(page: Path) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text()).split())


@pytest.mark.usefixtures("unpainted")
def test_a_resumed_run_does_not_show_the_numbers_of_its_earlier_parameters(run: Run) -> None:
    early = evaluate(run, [L_5], num_data=30, progress=False)
    later = resume(run.folder.path, num_epochs=2, progress=False)
    means = [number(row["mean_of_all"], 3) for row in early["estimates"]]
    page = words_of(write_report(later))
    assert "These parameters were not evaluated: the estimates in the run folder are of other parameters" in page
    assert not any(mean in page for mean in means)
    (command,) = newest(run.folder).commands
    assert "epoch 1, the last: ELBO, L 5" in page and command in page
    # The command that stands there computes them for the parameters of the page; the earlier ones are still known.
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    page = words_of(write_report(load_run(run.folder.path)))
    now = newest(run.folder)
    assert now.values["parameters"] == "epoch 2, the last" and [row["name"] for row in now.rows] == ["ELBO", "L_5"]
    for row, mean in zip(now.rows, means, strict=True):
        assert number(row["mean_of_all"], 3) in page and mean not in page
    assert "Not shown: estimates of other parameters than those of this page (1)" in page


@pytest.mark.usefixtures("unpainted")
def test_another_number_of_data_leaves_what_is_finished(run: Run) -> None:
    first = evaluate(run, [L_5], num_data=40, progress=False)
    evaluate(run, [Method.parse("prior-sampling:num_samples=3")], num_data=20, progress=False)
    told: list[str] = []
    again = evaluate(run, [L_5], num_data=40, progress=False, say=told.append)
    assert again == first and all("kept from an earlier evaluation" in line for line in told)
    page = words_of(write_report(load_run(run.folder.path)))
    assert "Log evidence of 40 data, drawn at random from 300, of digits" in page
    assert "On other data Log evidence of 20 data, drawn at random from 300, of digits" in page


def test_estimates_of_some_data_stand_at_those_data_and_for_all(run: Run) -> None:
    result = evaluate(run, [L_5], num_data=50, progress=False)
    one, found = newest(run.folder), find(load_run(run.folder.path))
    best = _best_estimate(found)
    assert best is not None
    label, values, rows = best
    assert torch.equal(rows, random_rows(300, 50)) and torch.equal(rows, one.datum)
    data = load_run(run.folder.path).part("test")
    assert torch.equal(found.x[rows], data.tensor()[rows])  # of which the estimates are
    again = log_evidence(run.pair, data.take(rows), method=ImportanceSampling(5), device="cpu", progress=False)
    assert torch.equal(one.columns[f"{key_of(L_5.key, 0)}/log_evidence"], again.log_evidence)
    (key,) = [row["key"] for row in one.rows if row["label"] == label]
    torch.testing.assert_close(values, columns_of(one)[key].float(), equal_nan=True)
    # The mean over the whole part, as the library makes it of the same numbers.
    stored = next(row["over_all"] for row in result["estimates"] if row["method"] == "importance-sampling")
    bounds = bound_of(run, data, 0, "cpu", REPEATS).elbo
    whole = again.over_all(bounds, rows)
    assert (stored["value"], stored["error"]) == pytest.approx((whole.value, whole.error))
    assert (stored["num_data"], stored["num_estimated"], stored["side"]) == (300, 50, "lower")
    assert f"{stored['value']:.3f} ± {stored['error']:.3f} (lower), by their bound" in str(
        whole_mean(result["estimates"][1])
    )
    page = words_of(write_report(load_run(run.folder.path)))
    assert "Of the whole part, by its bound and what an estimate adds to that of these 50 data" in page
    # Of all data there is nothing to add, and of one datum no error.
    assert all("over_all" not in row for row in evaluate(run, [L_5], progress=False)["estimates"])
    (_, alone) = evaluate(run, [L_5], num_data=1, progress=False)["estimates"]
    assert alone["over_all"]["error"] is None and "±" not in str(whole_mean(alone))


def test_an_estimate_under_other_conditions_says_what_it_replaces(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(run, [], num_data=10, progress=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    told: list[str] = []
    evaluate(run, [], num_data=10, progress=False, say=told.append)
    assert told[0] == "ELBO: computed anew, in place of an estimate under other conditions (threads was 1)"


def test_every_command_on_a_page_makes_what_it_stands_beside(run: Run, tmp_path: Path) -> None:
    evaluate(run, [L_5], num_data=20, seed=3, progress=False, options=["--which", "last"])
    loaded = load_run(run.folder.path)
    page = tmp_path / "the page.html"
    text = write_report(loaded, seed=2, device="cpu", out=page).read_text()
    rows = re.findall(r'<h3>([^\n]*?)</h3>\s*<div class="command"><code>(.*?)</code>', text)
    commands = {re.sub(r"<[^>]+>", "", name): unescape(line) for name, line in rows if line.startswith("ppvae ")}
    assert len(commands) == 4

    def call(command: str) -> None:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output

    page.unlink()
    call(commands["this page"])
    assert page.read_text() == text
    again = tmp_path / "again"
    call(commands["the trained model"].replace("NEW_FOLDER", str(again)))
    for name, value in load_run(again).pair.state_dict().items():
        assert torch.equal(value, loaded.pair.state_dict()[name])
    before = {row["label"]: row["mean_of_all"] for row in newest(run.folder).rows}
    for name, command in commands.items():
        if "data" in name:
            call(command + " --again")
    assert {row["label"]: row["mean_of_all"] for row in newest(run.folder).rows} == before
    assert {name.partition(" of ")[0] for name in commands} >= {"ELBO", "L5"}


def _evaluation(
    size: int,
    values: list[float],
    outcome: list[int] | None = None,
    whole: str = "same",
    datum: list[int] | None = None,
) -> Evaluation:
    key = "ais:num_chains=4"
    row: dict[str, Any] = {"key": key, "name": "AIS", "label": "AIS", "method": "ais", "options": {"num_chains": 4}}
    row |= {"seed": 0, "side": "lower", "monte_carlo_error": 0.1, "num_trusted": size}
    columns = {
        f"{key}/log_evidence": torch.tensor(values),
        f"{key}/standard_error": torch.full((size,), 0.2),
        f"{key}/outcome": torch.tensor(outcome or [0] * size),
    }
    if datum is not None:
        columns["datum"] = torch.tensor(datum)
    data = {"name": "digits", "part": "test", "num_data": size, "whole": whole}
    return Evaluation({"data": data, "estimates": [row]}, columns)


def test_runs_are_compared_over_common_data() -> None:
    one = _evaluation(5, [-1.0, -2.0, -3.0, -4.0, -100.0])
    other = _evaluation(4, [-1.5, -2.0, -9.0, -3.0], [0, 0, 2, 0])
    (part,) = compare_runs([[one], [other]])
    (row,) = part.rows
    assert (part.num_data, row.num_data) == (4, 3)
    first, second = row.means
    assert first is not None and second is not None
    assert first[:2] == pytest.approx(((-1 - 2 - 4) / 3, 0.2 / 3**0.5))
    assert second[:2] == pytest.approx(((-1.5 - 2 - 3) / 3, 0.2 / 3**0.5))
    assert second.sampling_error == pytest.approx(statistics.stdev([-1.5, -2, -3]) / 3**0.5)
    gaps = [0.5, 0.0, -1.0]  # to the higher one, which is the second
    assert row.best == 1 and row.differences[1] is None
    assert row.differences[0] == pytest.approx((sum(gaps) / 3, statistics.stdev(gaps) / 3**0.5, 3))
    # Other data, though as many and of the same name, are not compared; of one run alone there is no difference.
    parts = compare_runs([[one], [_evaluation(4, [-1.5, -2.0, -9.0, -3.0], whole="other")]])
    assert [part.members for part in parts] == [[0], [1]]
    assert all(gap is None for part in parts for row in part.rows for gap in row.differences)


def test_runs_are_compared_over_the_rows_that_both_have() -> None:
    one = _evaluation(5, [-1.0, -2.0, -3.0, -4.0, -100.0])  # of all
    few = _evaluation(3, [-2.5, -4.5, -1.0], datum=[1, 3, 7])
    other = _evaluation(2, [-9.0, -4.0], datum=[0, 3])
    (part,) = compare_runs([[one], [few]])
    (row,) = part.rows
    assert part.num_data == row.num_data == 2
    assert [mean[0] for mean in row.means if mean is not None] == [-3.0, -3.5]
    (part,) = compare_runs([[one], [few], [other]])
    assert [mean[0] for mean in part.rows[0].means if mean is not None] == [-4.0, -4.5, -4.0]
    (part,) = compare_runs([[few], [_evaluation(1, [-1.0], datum=[5])]])
    assert part.num_data == part.rows[0].num_data == 0 and part.rows[0].best is None


@pytest.mark.usefixtures("unpainted")
def test_the_page_of_several_runs_says_over_how_many_data(run: Run, small: Recipe, tmp_path: Path) -> None:
    other = train(small.replace(seed=1, training={"num_epochs": 1}), tmp_path / "other", progress=False)
    chains = [Method.parse(f"ais:num_chains={c},num_temperatures=5") for c in (2, 3)]
    evaluate(run, chains, num_data=12, progress=False)
    evaluate(other, chains, num_data=9, progress=False)
    page = words_of(write_comparison([run, load_run(other.folder.path)], out=tmp_path / "c.html"))
    assert "9 held-out data of digits" in page and "AIS, num_chains=2" in page and "AIS, num_chains=3" in page
    # A run that was trained on stands apart until it is evaluated again.
    resume(other.folder.path, num_epochs=2, progress=False)
    page = words_of(write_comparison([run, load_run(other.folder.path)], out=tmp_path / "c.html"))
    assert "Left out, as they were evaluated with other parameters than they have now: other" in page
