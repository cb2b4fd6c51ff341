"""The report's predictive checks: their numbers, every kind of pair, and a page that no failing check costs."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppvae.inference import AggregatePosterior, aggregate_posterior, posterior_checks
from ppvae.inference.criticism.posterior_checks import PosteriorChecks, PredictiveCheck
from ppvae.report import sites, write_report
from ppvae.report.figures.checks import PANELS, check_pictures, predictive
from ppvae.report.figures.theme import LIGHT, draw
from ppvae.report.findings import find
from ppvae.report.html.build import render
from ppvae.report.html.tables import _row, aggregate_table, check_table
from ppvae.report.sites import NUM_CHECK_DATA
from ppvae.runs import Recipe, Run, train

CATEGORIES = """
import torch
from ppvae.distributions import Categorical, DiagonalNormal, StandardNormal
from ppvae.models import VAE
from ppvae.networks import MLP


class Pair(VAE):
    def __init__(self):
        super().__init__(
            prior=StandardNormal(2),
            likelihood=Categorical(MLP(2, [8]), event_shape=(5,), num_categories=3),
            posterior=DiagonalNormal(MLP(5, [8]), event_shape=(2,)),
        )
"""


def trained(folder: Path, pair: Any = None, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [12]},
        "data": {"source": "digits", "num_train": 200, "binarize": "static"},
        "training": {"num_epochs": 2, "batch_size": 50, "compile": "eager"},
        "device": "cpu",
    }
    recipe = Recipe.from_dict({**values, **changes})
    return train(recipe, folder, pair=pair, progress=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tmp_path_factory.mktemp("checks") / "run")


def test_the_numbers_are_those_of_the_library(run: Run) -> None:
    found = find(run)
    main, (latent,) = found.main, found.latent.values()
    assert main is not None and main.checks is not None and main.latent_checks is not None
    assert latent.aggregate is not None
    few = run.part("test").take(NUM_CHECK_DATA)
    expected = posterior_checks(run.pair, few)
    assert {"share of ones", "change between neighbours"} < set(main.checks) == set(expected)
    text = unescape(check_table(found))
    for name, check in expected.items():
        assert torch.equal(check.replicated, main.checks[name].replicated)
        assert f"{check.p_value:.3f} ± {check.p_value_error:.3f}" in text and name in text
    (name,) = main.latent_checks
    assert f"{name}, given z" in text
    aggregated = aggregate_posterior(run.pair, run.part("test"))
    assert torch.equal(aggregated.distance, latent.aggregate.distance)
    assert f"{float(aggregated.distance[1]):.3f} ± {float(aggregated.distance_error[1]):.3f}" in aggregate_table(found)


def test_the_page_shows_them(run: Run) -> None:
    text = write_report(run.folder.path).read_text()  # which loads the run
    assert "Does the model make data like the data?" in text
    for name in ("predictive_checks", "aggregate_posterior"):
        assert (run.folder.figures / f"{name}.png").exists() and f'id="{name}"' in text


def data_file(folder: Path, values: np.ndarray) -> dict[str, Any]:
    np.save(folder / "x.npy", values)
    return {"source": str(folder / "x.npy"), "validation": 50, "binarize": "none"}


def gaussian(folder: Path) -> Run:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    return trained(
        folder / "run",
        model={"name": "gaussian-vae", "latent_dim": 2, "hidden": [8], "mean": "identity"},
        data=data_file(folder, x),
    )


def factors(folder: Path) -> Run:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    return trained(folder / "run", model={"name": "factor-analysis", "latent_dim": 1}, data=data_file(folder, x))


def bayesian(folder: Path) -> Run:
    return trained(folder / "run", bayesian={"modules": ["likelihood"]})


def categorical(folder: Path) -> Run:
    from ppvae.runs import member_of

    (folder / "pair.py").write_text(CATEGORIES)
    spec = f"{folder / 'pair.py'}:Pair"
    x = np.random.default_rng(0).integers(0, 3, size=(200, 5)).astype("float32")
    return trained(folder / "run", pair=member_of(spec), model={"pair": spec}, data=data_file(folder, x))


def many_dimensions(folder: Path) -> Run:
    return trained(folder / "run", model={"name": "bernoulli-vae", "latent_dim": 9, "hidden": [12]})


@pytest.mark.parametrize("make", [gaussian, factors, bayesian, categorical, many_dimensions])
def test_every_kind_of_pair(make: Any, tmp_path: Path) -> None:
    found = find(make(tmp_path))
    assert not [note for note in found.notes if "check" in note or "aggregate" in note]
    main, (latent,) = found.main, found.latent.values()
    assert main is not None and main.checks is not None and main.latent_checks is not None
    assert latent.aggregate is not None
    pictures = check_pictures(found)
    assert set(pictures) - {"reliability"} == {"predictive_checks", "aggregate_posterior"}
    assert ("reliability" in pictures) == (found.data.batch_space == "binary")
    assert all(len(picture.alt) > 60 for picture in pictures.values())
    text = check_table(found)
    assert text.count("<tr>") == 1 + len(main.checks) + len(main.latent_checks)
    dimensions = len(latent.aggregate.distance)
    assert aggregate_table(found).count("<tr>") == 1 + min(dimensions, PANELS)
    if dimensions > PANELS:
        assert f"{PANELS} of {dimensions} dimensions" in pictures["aggregate_posterior"].caption


def test_a_check_that_fails_is_a_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> PosteriorChecks:
        raise RuntimeError("no draws of this\nlikelihood")

    def other(*args: Any, **options: Any) -> AggregatePosterior:
        raise ZeroDivisionError

    monkeypatch.setattr(sites, "posterior_checks", fail)
    monkeypatch.setattr(sites, "aggregate_posterior", other)
    found = find(run)
    assert {"checks: no draws of this", "latent_checks: no draws of this", "aggregate: ZeroDivisionError"} == set(
        found.notes
    )
    assert set(check_pictures(found)) == {"reliability"} and check_table(found) == aggregate_table(found) == ""
    page = render(found, {})
    assert "None of" not in page and "no draws of this" in page


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [0.0, float("inf"), 1.0], [float("nan")] * 3])
@pytest.mark.parametrize("data", [2.0, float("nan"), -1e9])
def test_odd_values_are_drawn_or_left_out(values: list[float], data: float) -> None:
    replicated = torch.tensor(values, dtype=torch.float64)
    check = PredictiveCheck("T", data, replicated, replicated - data)
    fine = PredictiveCheck("U", 0.0, torch.randn(5).double(), torch.randn(5).double())
    checks = PosteriorChecks({"T": check, "U": fine}, "prior", "x", 3, 3, 0)
    assert draw(predictive, checks, theme=LIGHT)[:4] == b"\x89PNG"
    assert "nan" not in _row(check, "")[-1]
