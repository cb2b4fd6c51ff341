"""A recipe: everything that determines a run, as a TOML file that a person can read and change."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, field_validator

from .catalogue import SCHEDULES, complete_model, complete_table, complete_values, elbo_entries
from .signatures import Table, validate
from ..storage.atomic import require_short_file
from ...core.errors import RunError, change_remedies, prefix_lines, try_one_of

_DEFAULT_ELBO = {
    "name": "trace-mean-field",
    "num_particles": 1,
    "on_missing_kl": "sample",
    "free_bits_per": "dimension",
}


class DataTable(Table):
    """The data: the arguments of :func:`ppvae.data.load`.

    Attributes:
        source: a name (``ppvae data list``) or a path.
        binarize: "auto" is "static" for grey values under a Bernoulli likelihood, else "none"; a run's own recipe
            says which.
        seed: of a static binarisation and of the split of a file.
        gaps: whether missing values of a file are gaps, which the member "seen" marks.
        num_train: the first so many training rows; all where absent.
        num_labels: how many labels training knows, for a model that takes labels with gaps; all where absent.
    """

    source: str = "digits"
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    seed: int = Field(default=0, ge=0)
    flatten: bool = True
    image_shape: list[int] | None = None
    validation: float | int | None = None
    test: float | int | None = None
    key: str | None = None
    gaps: bool = False
    num_train: int | None = Field(default=None, ge=1)
    num_labels: int | None = Field(default=None, ge=0)


class EarlyStoppingTable(Table):
    """Arguments of :class:`ppvae.inference.EarlyStopping`."""

    patience: int = Field(default=10, ge=1)
    min_gain: float = 0.0
    restore_best: bool = True


class KLWarmupTable(Table):
    """Arguments of :class:`ppvae.inference.KLWarmup`."""

    num_epochs: int = Field(ge=1)
    start: float = Field(default=0.0, ge=0, le=1)


class TrainingTable(Table):
    """The training: the arguments of :func:`ppvae.inference.fit`.

    Attributes:
        elbo: an estimator with its options.
        batch_size: M, or "all".
        labels_apart: minibatches of data whose labels are known, and others of data whose labels are not.
        weight_prior_scale: MAP estimation under N(0, scale^2) for every weight of the model; none where absent.
        schedule: of the learning rate, with its options.
        kl_weight: a number, a schedule (``{name, **options}``), or either by latent site.
        schedules: of buffers of the pair, by name.
    """

    elbo: dict[str, Any] = Field(default_factory=lambda: dict(_DEFAULT_ELBO))
    optimizer: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0)
    num_epochs: int = Field(default=100, ge=1)
    batch_size: int | Literal["all"] = 100
    labels_apart: bool = False
    clip_norm: float | None = Field(default=None, gt=0)
    weight_prior_scale: float | None = Field(default=None, gt=0)
    compile: Literal["auto", "eager", "graph", "compiled"] = "auto"
    schedule: dict[str, Any] | None = None
    early_stopping: EarlyStoppingTable | None = None
    kl_warmup: KLWarmupTable | None = None
    kl_weight: float | dict[str, Any] | None = None
    schedules: dict[str, Any] | None = None

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("at least 1, or 'all'")
        return value

    @field_validator("schedules")
    @classmethod
    def _by_buffer(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and isinstance(value.get("name"), str):
            raise ValueError("schedules by the names of buffers")
        return value


class BayesianTable(Table):
    """Arguments of :func:`ppvae.models.bayesianise`: full variational Bayes over the weights of some modules.

    Attributes:
        modules: names of modules of the pair.
        prior_scale: standard deviation of the normal prior over every weight.
    """

    modules: list[str] = Field(default_factory=lambda: ["likelihood"], min_length=1)
    prior_scale: float = Field(default=1.0, gt=0)
    posterior: Literal["diagonal", "low-rank"] = "diagonal"
    weight_noise: Literal["shared", "per-datum", "local-reparameterization", "flipout"] = "shared"


class Recipe(Table):
    """Model, data, training, seed and device.

    Attributes:
        model: ``{name, **options}`` of a model that ships, whose ``prior`` and ``posterior`` are such tables too, or
            ``{pair, sha256, **options}`` for a class or function in a file of the user's (``my_model.py:MyPair``),
            which is run only where the caller asks for it too.
        bayesian: a posterior over the weights of the model's modules; none where absent.
        ppvae: the version that wrote the recipe.
    """

    model: dict[str, Any]
    data: DataTable = Field(default_factory=DataTable)
    training: TrainingTable = Field(default_factory=TrainingTable)
    bayesian: BayesianTable | None = None
    seed: int = Field(default=0, ge=0)
    device: str = "auto"
    ppvae: str | None = None

    @property
    def model_name(self) -> str:
        """The name of the model, or of the user's class."""
        name = self.model.get("name")
        return str(name) if name is not None else str(self.model["pair"]).rpartition(":")[2]

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Recipe:
        """A checked and complete recipe.

        Raises:
            RunError: names every key that is unknown or of a wrong type, what was expected and what was found.
        """
        values = {"model": {"name": "bernoulli-vae"}, **values}
        training = values.get("training", {})
        if isinstance(training, Mapping):
            training = dict(training)
            for key, entries, what in (
                ("elbo", elbo_entries(), "estimator"),
                ("schedule", SCHEDULES, "schedule"),
            ):
                if key in training:
                    training[key] = complete_table(entries, training[key], f"training.{key}", what)
            for key in ("kl_weight", "schedules"):
                if training.get(key) is not None:
                    training[key] = complete_values(training[key], f"training.{key}")
            values["training"] = training
        values["model"] = _model(values["model"])
        recipe = validate(Recipe, values, "")
        assert isinstance(recipe, Recipe)
        return recipe

    @staticmethod
    def read(path: Path | str) -> Recipe:
        """The recipe in a TOML file, or in the file ``recipe.toml`` of a run folder.

        Raises:
            RunError: no such file, no TOML in it, or as :meth:`from_dict`.
        """
        path = Path(path)
        path = path / "recipe.toml" if path.is_dir() else path
        require_short_file(path)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(
                f"{path}: no such recipe"
                + try_one_of("the path of a .toml file", "ppvae fit --model bernoulli-vae --data digits --out runs/x")
            ) from None
        except OSError as error:
            raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits are ValueErrors
            raise RunError(f"{path}: not valid TOML: {error}") from error
        try:
            return Recipe.from_dict(values)
        except RunError as error:
            raise RunError(change_remedies(prefix_lines(str(error), f"{path}: "), _in_toml)) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, complete: defaults are written out, what is absent is left out."""
        return self.model_dump(exclude_none=True)

    def flat(self) -> dict[str, Any]:
        """The same in one table: ``training.learning_rate`` to its value."""
        return _flat(self.to_dict(), "")

    def to_toml(self) -> str:
        """The text of a TOML file that :meth:`read` reads."""
        return tomli_w.dumps(self.to_dict())

    def replace(self, **changes: Any) -> Recipe:
        """This recipe with other values: ``recipe.replace(seed=1, training={"num_epochs": 6})``."""
        return Recipe.from_dict(merge(self.to_dict(), changes))


def merge(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A dictionary with changes made to it, table by table; None removes a key.

    A table that gets another name is replaced whole: the options of one model mean nothing to another.

    >>> merge({"a": {"name": "x", "k": 1}, "b": {"k": 1}}, {"a": {"name": "y"}, "b": {"l": 2}})
    {'a': {'name': 'y'}, 'b': {'k': 1, 'l': 2}}
    """
    result = dict(values)
    for key, change in changes.items():
        old = result.get(key)
        if change is None:
            result.pop(key, None)
        elif isinstance(change, Mapping) and isinstance(old, Mapping) and not _renames(old, change):
            result[key] = merge(old, change)
        else:
            result[key] = change
    return result


def _flat(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        result |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return result


def _in_toml(remedy: str) -> str:
    """A setting as a person writes it into a file: ``optimizer = "adam" under [training]``."""
    key, equals, value = remedy.partition("=")
    table, _, name = key.rpartition(".")
    if not equals or " " in key:
        return remedy
    return f"{name} = {value}" + (f" under [{table}]" if table else "")


def _renames(old: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    return any(key in change and change[key] != old.get(key) for key in ("name", "pair"))


def _model(table: Any) -> dict[str, Any]:
    if isinstance(table, Mapping) and "pair" in table:
        if "name" in table:
            raise RunError("model: expected either name or pair, found both")
        if not isinstance(table["pair"], str) or ":" not in table["pair"]:
            raise RunError(f"model.pair: expected 'file.py:Name', found {table['pair']!r}")
        if not isinstance(table.get("sha256", ""), str):
            raise RunError(f"model.sha256: expected a string, found {table['sha256']!r}")
        return dict(table)
    return complete_model(table)
