"""Quick runs: every model by name has one, on data that need no download, and options that are given win."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core.errors import RunError
from ppvae.data.registry import REGISTRY
from ppvae.runs import Recipe
from ppvae.runs.recipe.catalogue import model_entries
from ppvae.runs.recipe.quick import QUICK, quick_recipe


def test_every_model_by_name_has_a_quick_recipe_on_data_in_a_package() -> None:
    assert set(QUICK) == set(model_entries())
    for name in QUICK:
        recipe = Recipe.from_dict(quick_recipe(name))  # refuses unknown options and wrong types
        data = REGISTRY[recipe.data.source]
        assert data.package is not None or not data.files, name
        assert recipe.model_name == name and recipe.training.num_epochs <= 200
        assert {key: recipe.model[key] for key in QUICK[name].model} == dict(QUICK[name].model)


def test_what_holds_for_the_data_of_the_table_is_not_said_of_others() -> None:
    own, other = quick_recipe("semi-supervised-vae"), quick_recipe("semi-supervised-vae", source="mnist-5000")
    assert own["data"] == {"source": "digits", "num_labels": 100} and other["data"] == {"source": "mnist-5000"}
    assert own["model"] == other["model"]
    with pytest.raises(RunError, match="unknown model 'semi-vae'"):
        quick_recipe("semi-vae")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing-data-vae", ["--set", "model.latent_dim=3"]),
        ("deep-markov-model", ["--set", "data.num_train=20", "--batch-size", "20"]),
        ("topic-model", ["--set", "data.num_train=60", "--learning-rate", "0.1"]),
    ],
)
def test_a_quick_run_trains_and_options_win(name: str, words: list[str], tmp_path: Path) -> None:
    command = ["fit", "--model", name, "--quick", "--epochs", "1", *words, "--out", str(tmp_path / "run"), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["metrics"]["epoch"] == 1
    recipe = Recipe.read(tmp_path / "run")
    assert recipe.data.source == QUICK[name].source
    if name == "missing-data-vae":
        assert (recipe.model["latent_dim"], recipe.model["hidden"]) == (3, [32])
    if name == "topic-model":
        assert (recipe.training.learning_rate, recipe.training.batch_size) == (0.1, 50)


def test_quick_goes_with_a_model_by_name(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(Recipe.from_dict({}).to_toml())
    done = CliRunner().invoke(app, ["fit", str(recipe), "--quick"])
    assert done.exit_code == 2 and "goes with a model by name" in " ".join(done.output.split())
