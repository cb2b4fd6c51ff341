"""Recipes: complete, read back as written, and every mistake named."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppvae import models
from ppvae.core import PpvaeError, RunError
from ppvae.core.bounds import MEMORY_VARIABLE
from ppvae.data import as_dataset, load
from ppvae.inference import Cyclic, Exponential, Linear
from ppvae.runs import Recipe
from ppvae.runs.recipe.catalogue import (
    COPIES,
    build_model,
    build_values,
    complete_table,
    count_parameters,
    elbo_entries,
    evidence_entries,
    from_data,
    model_entries,
    parse_table,
    part_entries,
)
from ppvae.runs.recipe.recipe import merge
from ppvae.runs.recipe.signatures import Entry, complete_options, kebab, statable_type
from ppvae.runs.storage.atomic import read_json

FULL: dict[str, Any] = {
    "model": {"name": "gaussian-vae", "latent_dim": 3, "hidden": [7, 5], "scale": 0.5},
    "data": {"source": "frey-faces", "binarize": "none", "num_train": 100, "image_shape": [28, 20]},
    "training": {
        "elbo": {"name": "importance-weighted", "num_particles": 4},
        "optimizer": "adagrad",
        "learning_rate": 0.02,
        "num_epochs": 7,
        "batch_size": "all",
        "clip_norm": 10,
        "weight_prior_scale": 1.0,
        "schedule": {"name": "multi-step", "milestones": [2, 4], "gamma": 0.5},
        "early_stopping": {"patience": 3, "restore_best": False},
        "kl_warmup": {"num_epochs": 2},
        "kl_weight": {"z": {"name": "cyclic", "start": 0.0, "end": 1.0, "period": 4}},
        "schedules": {"posterior.temperature": {"name": "exponential", "start": 1.0, "end": 0.5, "over": 20}},
    },
    "seed": 5,
    "device": "cpu",
}


OF_PARTS: dict[str, Any] = {
    "model": {"name": "gaussian-vae", "prior": {"name": "vamp", "num_components": 7}, "posterior": {"name": "iaf"}}
}


@pytest.mark.parametrize("values", [{}, FULL, OF_PARTS])
def test_what_is_written_is_read_back(values: dict[str, Any], tmp_path: Path) -> None:
    recipe = Recipe.from_dict(values)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe.to_toml())
    assert Recipe.read(path) == recipe
    assert Recipe.read(tmp_path) == recipe  # a run folder
    assert recipe.replace() == recipe


def test_a_recipe_states_its_defaults() -> None:
    written = Recipe.from_dict({}).to_dict()
    assert written["model"] == {
        "name": "bernoulli-vae",
        "latent_dim": 20,
        "hidden": [500],
        "activation": "tanh",
        "allow_grey": False,
    }
    assert written["training"]["elbo"]["name"] == "trace-mean-field"
    assert written["training"]["learning_rate"] == 1e-3
    assert written["seed"] == 0


def test_changes_are_made_table_by_table() -> None:
    recipe = Recipe.from_dict(FULL).replace(seed=9, training={"num_epochs": 1, "schedule": None})
    assert (recipe.seed, recipe.training.num_epochs, recipe.training.schedule) == (9, 1, None)
    assert recipe.training.learning_rate == 0.02
    assert merge({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}}) == {"a": {"c": 2, "d": 3}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, "unknown key 'sed': did you mean 'seed'?"),
        ({"training": {"learnin_rate": 1}}, "'training.learnin_rate': did you mean 'learning_rate'?"),
        ({"training": {"early_stopping": {"patence": 1}}}, "early_stopping.patence': did you mean 'patience'?"),
        ({"training": {"num_epochs": 1.5}}, "training.num_epochs: expected a valid integer, found 1.5 (float)"),
        ({"training": {"num_epochs": "6"}}, "training.num_epochs: expected a valid integer, found '6' (str)"),
        ({"training": {"num_epochs": True}}, "training.num_epochs: expected a valid integer, found True (bool)"),
        ({"training": {"num_epochs": 0}}, "training.num_epochs: expected greater than or equal to 1, found 0"),
        ({"training": {"batch_size": 0}}, "training.batch_size: expected at least 1, or 'all', found 0"),
        ({"training": {"optimizer": "adm"}}, "training.optimizer: expected 'adam', 'adamw', 'adagrad' or 'sgd'"),
        ({"training": {"elbo": "trase"}}, "unknown estimator 'trase': did you mean 'trace'?"),
        ({"training": {"elbo": {"name": "trace", "k": 2}}}, "unknown key 'training.elbo.k'"),
        ({"training": {"elbo": 3}}, "training.elbo: expected a name or a table with a name, found 3 (int)"),
        ({"training": {"schedule": {"name": "step"}}}, "training.schedule.step_size: expected a value, found none"),
        ({"training": 3}, "training: expected a valid dictionary"),
        ({"data": {"binarize": "dyn"}}, "data.binarize: expected 'auto', 'none', 'static' or 'dynamic'"),
        ({"model": {"name": "bernouli-vae"}}, "unknown model 'bernouli-vae': did you mean 'bernoulli-vae'?"),
        ({"model": {"name": "bernoulli-vae", "latent_dm": 2}}, "unknown key 'model.latent_dm': did you mean"),
        ({"model": {"name": "bernoulli-vae", "hidden": [2.5]}}, "model.hidden.0: expected a valid integer"),
        ({"model": {"latent_dim": 2}}, "model.name: expected one of"),
        ({"model": {"name": ["bernoulli-vae"]}}, "model.name: expected one of"),
        ({"model": {"pair": "x.py"}}, "model.pair: expected 'file.py:Name', found 'x.py'"),
        ({"model": {"pair": "x.py:A", "name": "b"}}, "model: expected either name or pair, found both"),
        ({"seed": -1}, "seed: expected greater than or equal to 0, found -1"),
    ],
)
def test_a_mistake_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as error:
        Recipe.from_dict(values)
    assert message in str(error.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(RunError) as error:
        Recipe.from_dict({"seed": "a", "training": {"num_epochs": "b"}})
    head, _, remedies = str(error.value).partition("\nTry one of:\n")
    assert {line.split(":")[0] for line in head.splitlines()} == {"seed", "training.num_epochs"}
    assert set(remedies.splitlines()) == {"  - seed=0", "  - training.num_epochs=100"}


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    with pytest.raises(RunError, match="no such recipe"):
        Recipe.read(path)
    path.write_text("seed = = 1")
    with pytest.raises(RunError, match=r"r\.toml: not valid TOML: .*line 1"):
        Recipe.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RunError, match="not valid TOML"):
        Recipe.read(path)
    path.write_text("sed = 1")
    with pytest.raises(RunError, match=r"r\.toml: unknown key 'sed'"):
        Recipe.read(path)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.text("[]{}=\".\n#modeltraining0123 '", max_size=200).map(str.encode))
)
def test_hostile_text_is_an_error_or_a_recipe(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with contextlib.suppress(RunError):
        Recipe.read(path)


def test_every_model_estimator_and_method_is_known_by_its_name() -> None:
    assert {"bernoulli-vae", "gaussian-vae", "factor-analysis"} <= set(model_entries())
    assert {"trace", "trace-mean-field"} <= set(elbo_entries())
    assert {"exact", "importance-sampling"} <= set(evidence_entries())
    assert model_entries()["factor-analysis"].build is models.FactorAnalysis
    assert all(entry.summary for entry in model_entries().values())


def test_options_come_from_the_signature() -> None:
    def build(a: int, b: float = 2, *, c: list[str] | None = None, d: object = None, given: int = 0) -> None:
        """Build."""

    entry = Entry("x", build, ("given",))
    assert entry.options is not None
    assert list(entry.options.model_fields) == ["a", "b", "c"]
    assert complete_options(entry, {"a": 1}, "k") == {"a": 1, "b": 2.0}
    with pytest.raises(RunError, match=r"k\.a: expected a value, found none"):
        complete_options(entry, {}, "k")
    assert Entry("y", lambda x: x).options is None or "x" not in Entry("y", lambda x: x).options.model_fields  # type: ignore[union-attr]
    assert statable_type(object) is None
    assert statable_type(int | object | None) == int | None
    assert [kebab(name) for name in ("BridgeSampling", "AIS", "TraceMeanFieldELBO", "a_b")] == [
        "bridge-sampling",
        "ais",
        "trace-mean-field-elbo",
        "a-b",
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "hidden-markov-model": {"latent_dim": 3, "num_states": 3},
    "mixture-of-factor-analysers": {"latent_dim": 3, "num_components": 3},
    "gamma-poisson": {},
    "hierarchical-vae": {"latent_dims": [3, 2]},
    "sigmoid-belief-network": {"latent_dims": [3]},
    "topic-model": {"num_topics": 3},
    "deep-exponential-family": {"latent_dims": [3, 2]},
}
SEQUENCES = ("deep-markov-model",)
"""Models that are built for data [N, T, D] alone."""


@pytest.mark.parametrize("name", model_entries())
def test_a_model_is_counted_without_being_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is that of the model; nothing is drawn for it; the limit is met exactly."""
    data = as_dataset(torch.zeros(2, 8, 8)) if name in SEQUENCES else load("digits")
    options = OPTIONS.get(name, {"latent_dim": 3})
    table = complete_table(model_entries(), {"name": name, **options}, "model", "model")
    parameters = inspect.signature(model_entries()[name].build).parameters
    arguments = {key: value for key, value in from_data(data).items() if key in parameters}
    state = torch.get_rng_state()
    count, size = count_parameters(table, arguments)
    assert torch.equal(torch.get_rng_state(), state)
    model = build_model(table, data)
    # What stands in gaps is found by running the programs, which needs values.
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if not n.startswith("filling_"))]
    assert count == sum(x.numel() for x in tensors) > 0
    assert size == sum(x.numel() * x.element_size() for x in tensors)
    monkeypatch.setenv(MEMORY_VARIABLE, str(COPIES * size))
    build_model(table, data)
    monkeypatch.setenv(MEMORY_VARIABLE, str(COPIES * size - 1))
    said = next(f"{key}={value}" for key, value in (options or {"name": name}).items())
    with pytest.raises(RunError, match=rf"model.{re.escape(said)}.*: such a {name} has {count:,} parameters"):
        build_model(table, data)


def test_a_model_that_needs_values_to_be_built_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be counted, and is not refused for that."""

    def reads_a_value(event_shape: int) -> torch.nn.Module:
        return torch.nn.Linear(event_shape, int(torch.ones(()).item()))

    monkeypatch.setattr(
        "ppvae.runs.recipe.catalogue.model_entries", lambda: {"x": Entry("x", reads_a_value, ("event_shape",))}
    )
    assert count_parameters({"name": "x"}, {"event_shape": 64}) == (0, 0)
    assert build_model({"name": "x"}, load("digits")).in_features == 64


def test_texts_are_short_files(tmp_path: Path) -> None:
    """A FIFO would be waited for, a device has no end, and a long text takes many times its bytes."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 10**9)  # a hole
    for read in (Recipe.read, read_json):
        for name, message in (
            ("fifo", "a FIFO, not a file"),
            ("device", "a device"),
            ("long", "has 1.0 GB, more than"),
        ):
            with pytest.raises(RunError, match=f"{name}: {message}"):
                read(tmp_path / name)


def test_a_number_of_thousands_of_digits_is_refused_by_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(f"seed = {'9' * 5000}\n")
    with pytest.raises(RunError, match=r"r.toml: not valid TOML"):
        Recipe.read(tmp_path / "r.toml")


# --- priors and posteriors of a model ---


@pytest.mark.parametrize("model", ["bernoulli-vae", "gaussian-vae"])
@pytest.mark.parametrize("part", ["prior", "posterior", "init"])
def test_every_prior_and_posterior_is_built_from_a_recipe(model: str, part: str) -> None:
    data = load("digits", binarize="static")
    small = {"num_components": 3, "num_transforms": 2, "hidden": [4], "rank": 1}
    for name, entry in part_entries()[part].items():
        assert entry.options is not None
        options = {key: value for key, value in small.items() if key in entry.options.model_fields}
        table = {"name": model, "latent_dim": 3, "hidden": [5], part: {"name": name, **options}}
        recipe = Recipe.from_dict({"model": table})
        assert recipe.model[part] == {**entry.options().model_dump(exclude_none=True), "name": name, **options}
        pair = build_model(recipe.model, data)
        sizes = [*pair.parameters(), *pair.buffers()]
        counted, _ = count_parameters(recipe.model, {"event_shape": 64})
        flow = name in ("flow", "iaf", "coupling", "spline")  # which zuko cannot build without values
        assert counted == (0 if flow else sum(value.numel() for value in sizes)), name


def test_a_recipe_says_how_the_weights_start() -> None:
    data = load("digits", binarize="static")
    scales = {}
    for init in ({"name": "paper", "scale": 0.01}, "paper", "he"):
        recipe = Recipe.from_dict({"model": {"name": "bernoulli-vae", "hidden": [500], "init": init}})
        torch.manual_seed(0)
        scales[str(init)] = float(build_model(recipe.model, data).posterior.head.trunk.layers[0].weight.detach().std())
    assert list(scales.values()) == pytest.approx([0.01, 0.1, (2 / 64) ** 0.5], rel=0.02)
    with pytest.raises(RunError, match="unknown init 'het': did you mean 'he'"):
        Recipe.from_dict({"model": {"name": "bernoulli-vae", "init": "het"}})


def test_a_vamp_prior_of_a_recipe_has_the_range_of_the_data() -> None:
    data, table = load("digits", binarize="static"), {"latent_dim": 3, "prior": {"name": "vamp", "num_components": 4}}
    for options, bounds in (
        ({"name": "bernoulli-vae"}, (0.0, 1.0)),
        ({"name": "gaussian-vae"}, (0.0, 1.0)),
        ({"name": "gaussian-vae", "mean": "identity"}, None),
        ({"name": "negative-binomial-vae"}, (0.0, math.inf)),
        ({"name": "discretised-logistic-vae", "num_levels": 17}, (0.0, 1.0)),
    ):
        assert build_model(Recipe.from_dict({"model": {**table, **options}}).model, data).prior.bounds == bounds


def test_mistakes_in_a_prior_are_named() -> None:
    with pytest.raises(RunError, match="unknown prior 'vam': did you mean 'vamp'"):
        Recipe.from_dict({"model": {"name": "bernoulli-vae", "prior": "vam"}})
    with pytest.raises(RunError, match=r"unknown key 'model\.prior\.components': did you mean 'num_components'"):
        Recipe.from_dict({"model": {"name": "bernoulli-vae", "prior": {"name": "vamp", "components": 3}}})
    with pytest.raises(RunError, match=r"unknown key 'model\.prior'"):
        Recipe.from_dict({"model": {"name": "factor-analysis", "prior": "vamp"}})
    with pytest.raises(RunError, match=r"--prior\.num_components: expected a valid integer"):
        parse_table(part_entries()["prior"], "vamp:num_components=x", "--prior", "prior")
    refused = Recipe.from_dict({"model": {"name": "bernoulli-vae", "prior": "vamp", "posterior": "full"}})
    with pytest.raises(PpvaeError, match="VampPrior: expected a diagonal normal, found FullCovarianceNormal"):
        build_model(refused.model, load("digits", binarize="static"))


# --- schedules ---


def test_schedules_are_texts_or_tables_by_dotted_names() -> None:
    def training(**table: Any) -> Any:
        return Recipe.from_dict({"training": table}).training

    text = "exponential:start=1,end=0.5,over=20"
    options = {"start": 1.0, "end": 0.5, "over": 20.0, "unit": "epochs"}
    for table in (
        {"posterior.temperature": text},
        {"posterior": {"temperature": text}},
        {"posterior": {"temperature": {"name": "exponential", **options}}},
    ):
        assert training(schedules=table).schedules == {"posterior.temperature": {"name": "exponential", **options}}
    assert build_values(training(schedules={"a.b": text}).schedules) == {"a.b": Exponential(1.0, 0.5, over=20.0)}
    assert build_values(training(kl_weight="linear:start=0,end=1,over=3").kl_weight) == Linear(0.0, 1.0, over=3.0)
    by_site = {"z1": 0.5, "z2": "cyclic:start=0,end=1,period=5,unit=steps"}
    assert build_values(training(kl_weight=by_site).kl_weight) == {"z1": 0.5, "z2": Cyclic(0, 1, 5, unit="steps")}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kl_weight": "cylic"}, "unknown schedule 'cylic': did you mean 'cyclic'"),
        ({"kl_weight": True}, "training.kl_weight: expected a name or a table with a name, found True"),
        (
            {"schedules": {"a": {"b": "linear:start=0,over=2"}}},
            "training.schedules.a.b.end: expected a value, found none",
        ),
        (
            {"schedules": "linear:start=0,end=1,over=2"},
            "training.schedules: expected schedules by the names of buffers",
        ),
        ({"schedules": 3}, "training.schedules: expected a valid dictionary, found 3"),
    ],
)
def test_schedules_that_cannot_be_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        Recipe.from_dict({"training": table})
