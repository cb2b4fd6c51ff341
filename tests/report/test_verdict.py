"""The first lines of a page: they say what is there, and nothing where nothing is amiss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppvae.report.findings import ReportData
from ppvae.report.html.verdict import verdict, warnings
from ppvae.report.sites import LatentFindings
from ppvae.runs.evaluation.evaluation import Evaluation


def evaluation(part: str = "test", **estimates: tuple[str, float, float, int]) -> Evaluation:
    """Of four data: name to side, mean, Monte Carlo error, how many can be trusted."""
    rows: list[dict[str, Any]] = []
    columns = {}
    for key, (side, mean, error, trusted) in estimates.items():
        row = {
            "key": key,
            "label": key,
            "method": key,
            "side": side,
            "mean": mean,
            "monte_carlo_error": error,
            "num_data": 4,
        }
        rows.append({**row, "num_trusted": trusted, "num_estimated": 4})
        columns[f"{key}/log_evidence"] = torch.full((4,), mean)
        columns[f"{key}/standard_error"] = torch.full((4,), 2 * error)
        columns[f"{key}/outcome"] = torch.tensor([0] * trusted + [2] * (4 - trusted))
    return Evaluation({"estimates": rows, "data": {"part": part, "num_data": 4}}, columns)


def page(history: list[float] | None = None, shown: str = "epoch 2, the last", **values: Any) -> ReportData:
    rows = [{"epoch": i + 1, "elbo_train": v, "elbo_validation": v} for i, v in enumerate(history or [-3.0, -2.0])]
    run: Any = SimpleNamespace(history=rows, parameters=shown, info={"outcome": "completed"})
    nothing: Any = None
    return ReportData(run, "test", nothing, torch.zeros(4, 1), **values)


def test_the_best_estimate_that_stands() -> None:
    found = evaluation(elbo=("lower", -3.0, 0.1, 4), L_5=("lower", -2.5, 0.1, 4), RIS=("upper", -2.0, 0.1, 4))
    assert verdict(page(evaluation=found)) == (
        "Log evidence of 4 held-out data: at least −2.50 ± 0.100 nats per datum, by L₅."
    )
    assert warnings(page(evaluation=found)) == []
    exact = evaluation(elbo=("lower", -3.0, 0.1, 4), Exact=("exact", -2.0, 0.0, 4))
    assert verdict(page(evaluation=exact)) == "Log evidence of 4 held-out data: −2.00 nats per datum, by Exact."
    assert verdict(page()).startswith("Its log evidence is not known")


def test_what_cannot_be_trusted_and_what_is_stale() -> None:
    found = evaluation(elbo=("lower", -3.0, 0.1, 4), L_5=("lower", -2.5, 0.1, 3), AIS=("lower", -2.5, 0.1, 0))
    told = "Not every estimate can be trusted: L₅ on 3 of 4, AIS on none of 4 data."
    assert warnings(page(evaluation=found)) == [told]
    # The one that can be trusted on most data, and not the highest: a mean over fewer data is another number.
    fewer = evaluation(elbo=("lower", -3.0, 0.1, 4), L_5=("lower", -1.5, 0.1, 2), AIS=("lower", -2.5, 0.1, 3))
    assert verdict(page(evaluation=fewer)) == (
        "Log evidence of 3 of 4 held-out data: at least −2.50 ± 0.115 nats per datum, by AIS."
    )
    (line,) = warnings(page(stale_evaluations=(found,)))
    assert "are of other parameters than those shown here" in line
    assert "training data" in warnings(page(evaluation=evaluation("train", elbo=("lower", -3.0, 0.1, 4))))[0]


@pytest.mark.parametrize(("upper", "wrong"), [(-2.7, False), (-3.5, True)])
def test_bounds_on_the_wrong_sides_are_a_finding(upper: float, wrong: bool) -> None:
    found = evaluation(elbo=("lower", -2.5, 0.1, 4), RIS=("upper", upper, 0.1, 4))
    told = warnings(page(evaluation=found))
    assert told == (
        ["elbo (lower) lies 1.000 ± 0.141 nats above RIS (upper), where it should lie below: one of them is wrong."]
        if wrong
        else []
    )


def test_a_lower_bound_above_the_truth_is_a_finding() -> None:
    found = evaluation(IS=("lower", -2.0, 0.01, 4), Exact=("exact", -2.5, 0.0, 4))
    assert "IS (lower) lies 0.500 ± 0.010 nats above Exact (exact)" in warnings(page(evaluation=found))[0]


def test_overfitting_idle_latents_and_an_end_that_was_not_reached() -> None:
    (line,) = warnings(page([-3.0, -2.0, -2.5], "epoch 3, the last"))
    assert line == "It has overfitted: the validation bound fell by 0.50 nats since epoch 2."
    assert warnings(page([-3.0, -2.0, -2.5], "epoch 2, the best on validation data")) == []
    assert warnings(page(latent={"z": LatentFindings("z", active=torch.tensor([0.5, 0.001, 0.002]))})) == [
        "2 of 3 latent dimensions carry nothing of the data."
    ]
    stopped = page()
    stopped.run.info["outcome"] = "interrupted"  # type: ignore[index]
    assert "Training has not come to its end" in warnings(stopped)[0]
