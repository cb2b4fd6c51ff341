"""The check on simulated data: where the truth is known in closed form, it says of a setting what is so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from contracts.runs import newest
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.inference.evidence import ImportanceSampling, log_evidence, simulate_data
from ppvae.inference.execution.seeds import seed_of
from ppvae.report.html.tables import evaluation_table
from ppvae.runs import Recipe, Run, member_of, train
from ppvae.runs.evaluation.evaluation import Evaluation, Method, evaluate
from ppvae.runs.evaluation.simulation_check import sentence

BDMC = "bdmc:num_temperatures=8,num_chains=4,num_leapfrog=2"


@pytest.fixture(scope="module")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Factor analysis, whose guide is the posterior: every bound is the evidence."""
    recipe = Recipe.from_dict(
        {
            "model": {"name": "factor-analysis", "latent_dim": 2},
            "data": {"num_train": 100},
            "training": {"num_epochs": 1, "compile": "eager"},
            "device": "cpu",
        }
    )
    return train(recipe, tmp_path_factory.mktemp("check") / "run", progress=False)


def test_it_says_how_far_from_the_truth_each_setting_is(factors: Run) -> None:
    methods = [
        Method.parse(text) for text in (BDMC, "importance-sampling:num_samples=200", "prior-sampling:num_samples=100")
    ]
    found = evaluate(factors, methods, num_data=10, simulate=20, progress=False, write=False)
    assert [row["method"] for row in found["estimates"]] == ["elbo", "prior-sampling", "importance-sampling"]
    check = found["simulation_checks"][0]
    sandwich, exact, crude = check["rows"]
    assert sandwich["is_sandwich"] and sandwich["num_trusted"] == exact["num_trusted"] == 20
    # The guide is exact here: so are its importance weights, and the sandwich is as good as closed.
    assert abs(exact["gap"][-1]) < 0.05
    assert all(abs(mean) < 1e-3 for mean, _ in exact["below"])
    assert "was at most" in sentence(exact, 20) and "for 95% of the 20 that it can be trusted on" in sentence(exact, 20)
    # The same numbers by hand, against the closed form.
    made = simulate_data(factors.pair, factors.part("test").take(10), 20, seed=seed_of(0, "simulated"))
    truth = factors.pair.log_evidence(made.x).detach().double()
    alone = log_evidence(
        factors.pair, made.x, method=ImportanceSampling(200), seed=seed_of(0, "estimated"), progress=False
    )
    by_hand = (truth - alone.log_evidence.double()).quantile(torch.tensor([0.5, 0.95], dtype=torch.float64))
    assert exact["gap"][0] == pytest.approx(float(by_hand[0]), abs=0.05)
    # From the prior, 64 dimensions are far away: few data can be trusted, or the gap is large.
    assert crude["num_trusted"] < 20 or crude["gap"][-1] > 1


def test_it_is_kept_told_and_shown(factors: Run) -> None:
    told: list[str] = []
    methods = [Method.parse(BDMC), Method.parse("importance-sampling:num_samples=20")]
    first = evaluate(factors, methods, num_data=5, simulate=6, progress=False, say=told.append)
    assert sum("data that the model made" in line for line in told) == 2
    told.clear()
    again = evaluate(factors, methods, num_data=5, simulate=6, progress=False, say=told.append)
    assert again == first and all("kept from an earlier evaluation" in line for line in told)
    # An evaluation without the check leaves it where it is.
    evaluate(factors, methods[1:], num_data=5, progress=False)
    assert newest(factors.folder).values["simulation_checks"] == first["simulation_checks"]
    # One of other methods stands beside it.
    other = evaluate(factors, methods[:1], num_data=5, simulate=6, progress=False)
    assert other["simulation_checks"][:1] == first["simulation_checks"] and len(other["simulation_checks"]) == 2
    html = evaluation_table(Evaluation(first))
    assert "Would they have found the truth on data like these?" in html and "BDMC, its lower bound" in html
    assert html.count("6 of 6") == 2


def test_the_command_line_serves_bdmc(factors: Run) -> None:
    words = ["evaluate", str(factors.folder.path), "--num-data", "5", "-k", "5", "--method", BDMC]
    done = CliRunner().invoke(app, [*words, "--check-by-simulation", "6"])
    assert done.exit_code == 0, done.stderr
    assert "On 6 data that the model made, BDMC has its two bounds at most" in " ".join(done.stdout.split())
    assert "On 6 data that the model made, L_5 was at most" in " ".join(done.stdout.split())


def test_a_pair_that_it_cannot_serve_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text(
        "import pyro, torch\nimport pyro.distributions as dist\nfrom ppvae.core import ModelGuidePair\n\n\n"
        "class Coin(ModelGuidePair):\n"
        "    def __init__(self):\n        super().__init__()\n        self.p = torch.nn.Parameter(torch.zeros(64))\n\n"
        "    def model(self, x, num_data=None):\n        with self.data_plate(x, num_data):\n"
        "            k = pyro.sample('k', dist.Bernoulli(0.5))\n"
        "            pyro.sample('x', dist.Bernoulli(logits=self.p + k[..., None]).to_event(1), obs=x)\n\n"
        "    def guide(self, x, num_data=None):\n        with self.data_plate(x, num_data):\n"
        "            pyro.sample('k', dist.Bernoulli(logits=self.p.sum() * x[:, 0]))\n"
    )
    recipe = {
        "model": {"pair": f"{tmp_path / 'pair.py'}:Coin"},
        "data": {"num_train": 100, "binarize": "static"},
        "training": {"num_epochs": 1, "compile": "eager", "elbo": "score-function"},
        "device": "cpu",
    }

    run = train(
        Recipe.from_dict(recipe), tmp_path / "run", pair=member_of(f"{tmp_path / 'pair.py'}:Coin"), progress=False
    )
    with pytest.raises(ValueError, match="'k'"):
        evaluate(run, [], num_data=10, simulate=5, progress=False, write=False)
