"""Pairs in a file of the user's through the verbs: wrapped Pyro programs, other folders, and what can be wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from ppvae.cli.main import app
from ppvae.runs import load_run, member_of

PROGRAMS = """
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from ppvae.core import ModelGuidePair

net = nn.Linear(2, 3)


def model(x):
    weights = pyro.param("weights", torch.ones(3) / 3, constraint=dist.constraints.simplex)
    loc = pyro.param("loc", torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 2.0]]))
    with pyro.plate("data", len(x), dim=-1):
        kind = pyro.sample("kind", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[kind], 1.0).to_event(1), obs=x)


def guide(x):
    pyro.module("net", net)
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("kind", dist.Categorical(logits=net(x)))


def mixture():
    return ModelGuidePair.from_callables(model, guide)


def weights(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def automatic():
    return ModelGuidePair.from_callables(weights, AutoNormal(weights))


class Dosed(ModelGuidePair):
    def __init__(self):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(2, 3), nn.Linear(4, 2)

    def model(self, x, num_data=None):
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            both = torch.cat([z, x["dose"].expand(*z.shape[:-1], 1)], -1)
            pyro.sample("counts", dist.Poisson(self.decoder(both).exp()).to_event(1), obs=x["counts"])

    def guide(self, x, num_data=None):
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(torch.cat([x["counts"], x["dose"]], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Unfinished(ModelGuidePair):
    pass


class NoSuper(ModelGuidePair):
    def __init__(self):
        pass

    def model(self, x, num_data=None):
        pass

    def guide(self, x, num_data=None):
        pass


class Fails(NoSuper):
    def __init__(self):
        raise ValueError("no width given")
"""


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def good(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 1, result.output
    assert "please report it" not in result.stderr
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a file of programs, and a run of two of them, made from inside it by relative paths."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "programs.py").write_text(PROGRAMS)
    rows = torch.randn(120, 2, generator=torch.Generator().manual_seed(0)) + 1.0
    np.save(folder / "rows.npy", rows.numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, estimator in (("mixture", "score-function"), ("automatic", "trace")):
            words = ["--pair", f"programs.py:{name}", "--data", "rows.npy", "--elbo", estimator, "--epochs", 2]
            good("fit", *words, "--set", "training.compile=eager", "--out", name)
    return folder


@pytest.mark.parametrize("name", ["mixture", "automatic"])
def test_parameters_that_exist_after_a_first_run_are_loaded(name: str, place: Path) -> None:
    spec = f"{place / 'programs.py'}:{name}"
    loaded = load_run(place / name, pair=member_of(spec))
    fresh = member_of(spec)()
    missing = set(loaded.pair.state_dict()) - set(fresh.state_dict())
    assert missing, "this test is about parameters that a fresh pair lacks"
    kept = loaded.pair.state_dict()
    # Training moved them, so what the first run initialised would be something else.
    from ppvae.core import check_pair

    check_pair(fresh, loaded.data.x)
    started = fresh.state_dict()
    assert any(not torch.equal(kept[key], started[key]) for key in missing)


def test_a_run_of_a_wrapped_program_goes_on_through_the_verbs(place: Path) -> None:
    pair = ["--pair", f"{place / 'programs.py'}:mixture"]
    found = json.loads(good("evaluate", place / "mixture", *pair, "-k", 50, "--json"))
    bound, importance = (row["mean"] for row in found["estimates"])
    assert bound <= importance + 0.1
    good("sample", place / "mixture", *pair, "-n", 3, "--out", place / "x.npy")
    words = ["--estimator", "score-function", "--estimator", "vimco:num_particles=3", "--repeats", 4, "--num-data", 10]
    good("compare-elbos", place / "mixture", *pair, *words, "--device", "cpu", "--out", place / "comparison")


def test_covariates_from_an_archive(place: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    dose = random.normal(size=(90, 1))
    np.savez(tmp_path / "dosed.npz", counts=random.poisson(np.exp(0.3 * dose + np.zeros((90, 3)))), dose=dose)
    pair = ["--pair", place / "programs.py:Dosed"]
    words = ["--data", tmp_path / "dosed.npz", "--set", "data.validation=20", "--set", "data.test=20", "--epochs", 2]
    good("fit", *pair, *words, "--set", "training.batch_size=25", "--out", tmp_path / "run")
    rows = json.loads(good("evaluate", tmp_path / "run", *pair, "-k", 20, "--json"))["estimates"]
    assert [row["num_data"] for row in rows] == [20, 20]
    good("report", tmp_path / "run", *pair)
    assert "Does the model make data like the data?" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_is_found_from_another_folder(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("programs.py", "mixture/pair.py"):
        good("sample", place / "mixture", "--pair", f"{place / file}:mixture", "-n", 2, "--out", "x.npy")


def test_the_file_that_is_run_is_the_one_that_is_compared(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "programs.py"
    other.write_text(PROGRAMS + "# other\n")
    message = refused("sample", place / "mixture", "--pair", f"{other}:mixture", "--out", tmp_path / "x.npy")
    assert f"{other} is not the file of the run" in message
    good("sample", place / "mixture", "--pair", f"{other}:mixture", "--force", "--out", tmp_path / "x.npy")


def test_another_pair_of_the_same_file_is_told_in_few_words(place: Path, tmp_path: Path) -> None:
    spec = f"{place / 'programs.py'}:automatic"
    message = refused("sample", place / "mixture", "--pair", spec, "--out", tmp_path / "x.npy")
    assert "its checkpoint does not fit its recipe, which gives a CallablePair: it lacks" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Fails", "--pair: Fails cannot be made: ValueError: no width given"),
        ("Unfinished", "--pair: Unfinished cannot be made: TypeError: Can't instantiate abstract class"),
        ("NoSuper", "--pair: NoSuper.__init__ does not call super().__init__()"),
    ],
)
def test_pairs_that_cannot_be_made(name: str, message: str, place: Path, tmp_path: Path) -> None:
    spec = f"{place / 'programs.py'}:{name}"
    assert message in refused("fit", "--pair", spec, "--data", place / "rows.npy", "--out", tmp_path / "run")


def test_a_file_that_exits_is_a_failure(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "exits.py"
    file.write_text("import sys\nsys.exit(7)\n")
    message = refused("fit", "--pair", f"{file}:Pair", "--data", place / "rows.npy", "--out", tmp_path / "run")
    assert "exits.py fails: SystemExit: 7" in message
    assert not (tmp_path / "run").exists()  # nothing is left of what was refused


def test_a_file_may_import_what_stands_beside_it_and_the_next_commands_name_it(place: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text((place / "programs.py").read_text())
    file = tmp_path / "mine.py"
    file.write_text("from beside import mixture\n")
    spec = f"{file}:mixture"
    words = ["--data", place / "rows.npy", "--epochs", 1, "--elbo", "vimco", "--out", tmp_path / "run"]
    result = call("fit", "--pair", spec, *words)
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert f"ppvae evaluate {tmp_path / 'run'} --pair {spec}; ppvae report {tmp_path / 'run'} --pair {spec}" in said
    assert str(tmp_path) not in sys.path


def test_runs_of_several_pairs_stand_side_by_side(place: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    words = ["--model", "factor-analysis", "--set", "model.latent_dim=1", "--data", place / "rows.npy"]
    good("fit", *words, "--epochs", 1, "--set", "training.compile=eager", "--out", named)
    runs = [place / "mixture", named, place / "automatic"]
    file = place / "programs.py"
    page = tmp_path / "page.html"
    good("report", *runs, "--pair", f"{file}:mixture", "--pair", f"{file}:automatic", "--out", page)
    assert all(name in page.read_text() for name in ("mixture", "named", "automatic"))
    message = refused("report", named, runs[0], *["--pair", f"{file}:mixture"] * 3)
    assert "--pair: expected one, or one for each run of a pair of your own" in message
    assert "stands in a file of yours" in refused("report", *runs)
    assert "so a pair has no place here" in refused("report", named, named, "--pair", f"{file}:mixture")


def test_options_of_an_estimator_and_lists(place: Path, tmp_path: Path) -> None:
    words = ["--model", "factor-analysis", "--set", "model.latent_dim=1", "--data", place / "rows.npy", "--epochs", 1]
    out = tmp_path / "run"
    good(
        "fit", *words, "--elbo", "importance-weighted:num_particles=3", "--set", "training.compile=eager", "--out", out
    )
    assert load_run(out).recipe.training.elbo == {"name": "importance-weighted", "num_particles": 3}
    assert "unknown key '--elbo.particles'" in refused("fit", *words, "--elbo", "importance-weighted:particles=3")
    assert "importance-weighted" in good("fit", "--elbo", "list") and "alpha (required)" in good(
        "fit", "--elbo", "list"
    )
    assert set(json.loads(good("fit", "--model", "list", "--json"))) >= {"bernoulli-vae", "factor-analysis"}
    for key, *given in (
        ("seed", "--seed", 3),
        ("training.batch_size", "--batch-size", 5),
        ("data.source", "--data", "x"),
    ):
        assert f"{key} cannot change within a run" in refused("fit", "--resume", out, "--epochs", 2, *given)


@pytest.mark.parametrize(("verb", "option"), [("evaluate", "--method"), ("compare-elbos", "--estimator")])
def test_lists_need_no_run_and_all_else_does(verb: str, option: str) -> None:
    assert "num_samples" in good(verb, option, "list") or "vimco" in good(verb, option, "list")
    result = call(verb)
    assert result.exit_code == 2
    assert "give a RUN" in result.stderr


def test_help_shows_brackets() -> None:
    assert "ppvae[track]" in "".join(good("fit", "--help").replace("│", "").split())


def test_data_as_the_first_argument(tmp_path: Path) -> None:
    """A file of data, or a data set by name, is enough: the model is the preset for its values."""
    rng = np.random.default_rng(0)
    options = ["--epochs", 1, "--set", "training.compile=eager", "--set", "model.hidden=[4]"]
    tables = {"real.csv": rng.normal(size=(120, 3)), "binary.csv": rng.integers(0, 2, (120, 3))}
    for name, model in (("real.csv", "gaussian-vae"), ("binary.csv", "bernoulli-vae"), ("digits", "bernoulli-vae")):
        if name in tables:
            np.savetxt(tmp_path / name, tables[name], delimiter=",", fmt="%.4g")
        out = tmp_path / f"run of {name}"
        result = call("fit", tmp_path / name if name in tables else name, *options, "--out", out)
        assert result.exit_code == 0, result.output
        assert f"model: {model}, by the values of the data" in result.stderr
        run = load_run(out)
        assert run.recipe.model_name == model and run.recipe.model["hidden"] == [4]
    # What is said is not guessed; a file that is not there is no recipe either.
    good("fit", tmp_path / "binary.csv", "--model", "gaussian-vae", *options, "--out", tmp_path / "said")
    assert load_run(tmp_path / "said").recipe.model_name == "gaussian-vae"
    assert "no such file" in refused("fit", tmp_path / "none.csv", "--out", tmp_path / "none")
    assert "no such recipe" in refused("fit", tmp_path / "none.toml", "--out", tmp_path / "none")
