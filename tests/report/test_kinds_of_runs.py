"""Runs that are unlike the demo: no held-out data, a category as latent, a latent without an axis, several runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppvae.cli.evaluate import show
from ppvae.inference import DiscretePosterior
from ppvae.models import LatentModel
from ppvae.report import write_comparison, write_report
from ppvae.report.common_data import on_common_data, tightest
from ppvae.report.figures.discrete import scores
from ppvae.report.findings import ReportData, find
from ppvae.runs import Recipe, Run, member_of, train
from ppvae.runs.evaluation.evaluation import Evaluation, Method, evaluate

PAIRS = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppvae.core import ModelGuidePair
from ppvae.distributions import DiagonalNormal, Normal, StandardNormal
from ppvae.models import Features, Latent, LatentModel, Observed
from ppvae.networks import MLP, JoinedMLP


class Scalar(ModelGuidePair):
    def __init__(self):
        super().__init__()
        self.loading = nn.Parameter(torch.tensor([1.0, -0.5]))
        self.encoder = nn.Linear(2, 2)

    def model(self, x, num_data=None):
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * self.loading, 1.0).to_event(1), obs=x)

    def guide(self, x, num_data=None):
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(x).unbind(-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()))


class Category(Scalar):
    def model(self, x, num_data=None):
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Categorical(logits=x.new_zeros(2)))
            loc = torch.stack((self.loading, -self.loading))[z]
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, num_data=None):
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Categorical(logits=self.encoder(x)))

class Weights(ModelGuidePair):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1))

    def model(self, x, num_data=None):
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with self.data_plate(x, num_data):
            pyro.sample("x", dist.Normal(w[..., None] * x.new_ones(2), 1.0).to_event(1), obs=x)

    def guide(self, x, num_data=None):
        pyro.sample("w", dist.Normal(self.loc, 0.1))


class Prototypes(ModelGuidePair):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Parameter(0.5 * torch.randn(10, 64))

    def model(self, x, num_data=None):
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(10)), infer={"enumerate": "parallel"})
            logits = self.logits[y].reshape(*y.shape, *x.shape[1:])
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(x.dim() - 1), obs=x)

    def guide(self, x, num_data=None):
        pass


class Ladder(LatentModel):
    def __init__(self):
        z1 = DiagonalNormal(JoinedMLP([4, 2], [4]), 3).given("h", "z2")
        super().__init__(
            h=Features(MLP(2, [4])).given("x"),
            z2=Latent(StandardNormal(2), posterior=DiagonalNormal(MLP(4, []), 2).given("h")),
            z1=Latent(DiagonalNormal(MLP(2, [4]), 3).given("z2"), posterior=z1),
            x=Observed(Normal(MLP(3, [4]), 2, scale="shared").given("z1")),
        )
"""


DIGITS: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [6]},
    "data": {"source": "digits", "num_train": 100, "binarize": "static"},
    "training": {"num_epochs": 1, "batch_size": 50, "compile": "eager"},
    "device": "cpu",
}


def run_of(folder: Path, name: str) -> Run:
    folder.mkdir(exist_ok=True)
    file, rows = folder / "pairs.py", folder / "rows.npy"
    file.write_text(PAIRS)
    np.save(rows, torch.randn(80, 2, generator=torch.Generator().manual_seed(1)).numpy())
    training: dict[str, Any] = {"num_epochs": 2, "batch_size": 40, "compile": "eager"}
    if name == "Category":
        training["elbo"] = {"name": "score-function"}
    spec = f"{file}:{name}"
    values = {"model": {"pair": spec}, "data": {"source": str(rows)}, "training": training, "device": "cpu"}
    return train(Recipe.from_dict(values), folder / name, pair=member_of(spec), progress=False)


def test_without_held_out_data_nothing_is_called_so(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Scalar")
    evaluate(run, [Method.parse("importance-sampling:num_samples=50")], num_data=45, say=lambda line: None)
    found = find(run)
    latents, prior = found.latent["z"].latents, found.latent["z"].prior
    assert latents is not None and latents.shape == (80, 1)
    assert prior is not None and prior.shape[1] == 1
    text = write_report(run).read_text(encoding="utf-8")
    assert "45 training data" in text
    assert "held-out" not in text.lower()
    assert 'class="card described"' not in text  # two programs, and no description


def test_a_described_model_is_shown_as_its_graph_beside_its_formulas(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Ladder")
    text = write_report(run).read_text(encoding="utf-8")
    card = text[text.index('class="card described"') : text.index('<table class="facts">')]
    assert isinstance(run.pair, LatentModel)
    assert run.pair.graph(len(run.data)).to_svg(standalone=False) in card
    assert "data, N = 80" in card
    for formula in str(run.pair).splitlines()[:2]:
        assert f"<code>{formula}</code>" in card


def test_what_covariates_a_picture_has_is_told(tmp_path: Path) -> None:
    table = {"name": "conditional-vae", "latent_dim": 3, "hidden": [6]}
    run = train(Recipe.from_dict({**DIGITS, "model": table}), tmp_path, progress=False)
    found = find(run)
    assert found.recast is not None and found.by_class is not None and found.by_class.shape == (8, 10, 64)
    z = found.latent["z"].latents
    assert z is not None
    expected = run.pair.likelihood_x(z[found.recast[2]].expand(10, 3), torch.eye(10)).mean
    torch.testing.assert_close(found.by_class[2], expected.detach())
    text = write_report(run).read_text(encoding="utf-8")
    assert "The same in every class" in text and "Given beside z: label of held-out data." in text
    assert "Labels were never shown" not in text


def test_a_category_has_a_report_and_no_mean(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Category")
    found = find(run)
    assert not found.latent
    assert "latents: site 'z' is a category, which has no place in a plane" in found.notes
    assert found.main is not None and found.main.checks is not None
    write_report(run)


def test_discrete_latents_have_a_section(tmp_path: Path) -> None:
    """Ten prototypes of digits, all latents summed out: labels are matched, which the page says."""
    file = tmp_path / "pairs.py"
    file.write_text(PAIRS)
    spec = f"{file}:Prototypes"
    training = {"num_epochs": 15, "batch_size": 50, "learning_rate": 0.1, "compile": "eager"}
    data = {"source": "digits", "num_train": 500, "binarize": "static"}
    values = {"model": {"pair": spec}, "data": data, "training": training, "device": "cpu"}
    run = train(Recipe.from_dict(values), tmp_path / "run", pair=member_of(spec), progress=False)
    found = find(run)
    assert found.discrete is not None and found.labels is not None
    score = scores(found.discrete, found.labels)
    assert score is not None and score.matched
    assert 0.5 < score.accuracy <= 1
    assert found.discrete.accuracy(found.labels) < score.accuracy  # before its values have their names
    text = write_report(run).read_text(encoding="utf-8")
    assert "Discrete latents" in text and "matched with them one to one" in text
    assert f"is the label for {score.accuracy:.1%}" in text


def test_labels_that_the_model_has_seen_are_not_matched() -> None:
    p = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [torch.nan, torch.nan]])
    labels, zeros = torch.tensor([0, 1, 0, 1]), torch.zeros(4)

    def of(name: str) -> DiscretePosterior:
        return DiscretePosterior({name: p}, {name: 0 * p}, {name: torch.eye(2)}, "guide", zeros, zeros.long())

    seen, unseen = scores(of("y_unobserved"), labels), scores(of("y"), labels)
    assert seen is not None and unseen is not None
    assert (seen.accuracy, seen.matched, seen.num_labels) == (0, False, 3)
    assert (unseen.accuracy, unseen.matched, unseen.num_labels) == (1, True, 3)
    assert scores(of("y"), torch.tensor([0, 1, 2, 1])) is None
    assert scores(of("y"), None) is None


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("modules", [pytest.param(["likelihood"], marks=pytest.mark.slow), None])
def test_weights_that_are_held_are_told(modules: list[str] | None, tmp_path: Path) -> None:
    values = dict(DIGITS)
    values |= {} if modules is None else {"bayesian": {"modules": modules}}
    run = train(Recipe.from_dict(values), tmp_path / "run", progress=False)
    evaluate(run, [Method.parse("importance-sampling:num_samples=5")], num_data=20, say=lambda line: None)
    text = write_report(run).read_text(encoding="utf-8")
    assert ("log p(x | w) with the weights w held at their posterior mean" in text) == (modules is not None)


def test_estimates_that_can_be_trusted_on_no_datum_have_a_report(tmp_path: Path) -> None:
    run = train(Recipe.from_dict(DIGITS), tmp_path / "run", progress=False)
    methods = [Method.parse(f"{name}-sampling:num_samples=5") for name in ("prior", "importance")]
    rows = evaluate(run, methods, num_data=20, progress=False)["estimates"]
    assert [row["num_trusted"] for row in rows] == [20, 0, 0]
    assert 'id="sandwich"' not in write_report(run).read_text(encoding="utf-8")


def test_a_pair_of_global_latents_alone_has_a_report(tmp_path: Path) -> None:
    run = run_of(tmp_path, "Weights")
    found = find(run)
    assert found.main is not None and found.main.samples is not None and not found.latent
    again = found.main.reconstructed
    assert again is not None and torch.allclose(again, again[:1].expand(80, 2))  # the mean of w, for every datum
    assert "Reconstructions" in write_report(run).read_text(encoding="utf-8")


def _evaluated(values: dict[str, tuple[str, list[float], list[int]]]) -> ReportData:
    """An evaluation of four data: key to side, estimates and outcomes."""
    rows, columns = [], {}
    for key, (side, numbers, outcome) in values.items():
        good = [value for value, bad in zip(numbers, outcome, strict=True) if not bad]
        mean = sum(good) / len(good) if good else None
        row = {"key": key, "label": key, "side": side, "mean": mean, "monte_carlo_error": 0.1, "num_data": 4}
        rows.append({**row, "method": key, "num_trusted": len(good), "num_estimated": 4})
        columns[f"{key}/log_evidence"] = torch.tensor(numbers)
        columns[f"{key}/standard_error"] = torch.full((4,), 0.3)
        columns[f"{key}/outcome"] = torch.tensor(outcome)
    evaluation = Evaluation({"estimates": rows, "data": {"part": "test", "num_data": 4}}, columns)
    nothing: Any = None
    return ReportData(nothing, "test", nothing, torch.zeros(3, 1), evaluation=evaluation)


def test_means_are_over_the_same_data() -> None:
    """Those on which most methods can be trusted; of the others only what is a lower bound still, without an error."""
    found = _evaluated(
        {
            "elbo": ("lower", [-3.0, -4.0, -5.0, -5.0], [0, 0, 0, 0]),
            "fine": ("lower", [-2.0, -3.0, -4.0, -9.0], [0, 0, 0, 1]),
            "loose": ("lower", [-2.5, -3.5, -4.5, -4.0], [0, 0, 9, 9]),
            "unsettled": ("lower", [-2.5, -3.5, 50.0, -4.0], [0, 0, 7, 0]),  # its mean of all is absurd
            "lost": ("consistent", [1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1]),
        }
    )
    rows, count = on_common_data(found.evaluation)
    means = {row["key"]: row["mean"] for row in rows}
    assert means == {"elbo": -4.0, "fine": -3.0, "loose": -3.5, "unsettled": None, "lost": None} and count == 3
    assert {row["key"] for row in rows if row["vouched"]} == {"elbo", "fine"}
    assert rows[1]["monte_carlo_error"] == pytest.approx(0.3 * 3**0.5 / 3)
    assert rows[1]["sampling_error"] == pytest.approx(3**-0.5)
    assert all(row["monte_carlo_error"] is row["sampling_error"] is None for row in rows[2:])
    best = tightest(rows)
    assert best is not None and best["key"] == "fine"


def test_methods_with_few_data_in_common_are_not_compared_over_these() -> None:
    apart = _evaluated(
        {"a": ("lower", [-1.0, -2.0, -3.0, -4.0], [0, 0, 0, 1]), "b": ("upper", [-1.0, -2.0, -3.0, -4.0], [4, 4, 0, 0])}
    )
    rows, count = on_common_data(apart.evaluation)
    assert count == 3 and [row["vouched"] for row in rows] == [True, False]
    nothing = _evaluated({"a": ("upper", [-1.0, -2.0, -3.0, -4.0], [1, 1, 1, 1])})
    rows, count = on_common_data(nothing.evaluation)
    assert count == 0 and rows[0]["mean"] is None and not rows[0]["vouched"] and tightest(rows) is None


def test_a_comparison_says_on_which_data(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, "Scalar"), run_of(tmp_path, "Category")]
    text = write_comparison(runs).read_text(encoding="utf-8")
    assert "The bound on training data: there are no validation data." in text
    assert "The bound on validation data" not in text
    # No pictures: a scatter plot of each that can reconstruct, which with a category as latent cannot be.
    assert "Reconstructions by Scalar" in text and "Category: no reconstructions: " in text
    values = {**runs[0].recipe.to_dict(), "data": {"source": str(tmp_path / "rows.npy"), "validation": 20}}
    other = train(Recipe.from_dict(values), tmp_path / "third", pair=member_of(values["model"]["pair"]), progress=False)
    text = write_comparison([*runs, other]).read_text(encoding="utf-8")
    # Other data, another chart.
    assert "By data seen: Scalar, Category" in text and "By data seen: third" in text
    assert text.count("The bound on validation data (solid) and on training data (dashed).") == 2


@pytest.mark.parametrize("estimated", [100, 87])
def test_means_over_fewer_data_are_told(estimated: int, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"label": "HMC density", "side": "upper", "mean": -23.2, "monte_carlo_error": 0.01, "sampling_error": 0.4}
    data = {"name": "digits", "part": "test", "num_data": 100}
    row |= {"worst_pareto_k": None, "num_trusted": estimated, "num_estimated": 100, "num_data": 100, "seconds": 1.0}
    row |= {"mean_of_all": -25.0, "mean_of_all_standard_error": 0.25}
    show({"data": data, "parameters": "epoch 1, the last", "estimates": [row], "simulation_checks": []})
    told = "HMC density: the mean is over the 87 of 100 data that can be trusted; -25.000 ± 0.250 over all 100"
    assert (told in capsys.readouterr().out) == (estimated == 87)
