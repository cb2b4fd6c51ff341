"""A small recipe for every model that has a name: a minute of training on two cores, on data that come in packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .catalogue import model_entries
from .recipe import merge
from ...core.errors import RunError, did_you_mean


@dataclass(frozen=True)
class Quick:
    """What a quick run of a model has.

    Attributes:
        source: data that suit the model.
        model: options of the model, of its size above all.
        training: what differs from :data:`TRAINING`.
        of_data: tables of a recipe that hold for the data of ``source`` alone, such as their likelihood.
    """

    source: str = "digits"
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    of_data: Mapping[str, Any] = field(default_factory=dict)


TRAINING: dict[str, Any] = {"num_epochs": 40, "batch_size": 50, "learning_rate": 3e-3, "compile": "graph"}
"""Recorded, not compiled: so small a network gains less from a compiler than the compiler takes."""

_SMALL = {"hidden": [100], "latent_dim": 10}
_ONE_SCALE = {"scale": "shared"}
"""Three pixels of the digits are always 0: with a scale of its own the density of each grows without bound."""

QUICK: dict[str, Quick] = {
    "bernoulli-vae": Quick(model=_SMALL),
    "conditional-vae": Quick(model=_SMALL),
    "convolutional-vae": Quick(
        "mnist-5000",
        {"latent_dim": 10, "channels": [4, 8], "hidden": 64},
        {"num_epochs": 10},
        {"data": {"num_train": 2000}},
    ),
    "count-vae": Quick("reuters", _SMALL),
    "deep-exponential-family": Quick("reuters", {"latent_dims": [20, 10, 5], "hidden": [100]}, {"learning_rate": 1e-2}),
    "deep-markov-model": Quick(
        "japanese-vowels",
        {"latent_dim": 8, "hidden": [32], "transition_hidden": 32, "recurrent_hidden": 32},
        of_data={"model": {"likelihood": {"name": "gaussian"}}},
    ),
    "discretised-logistic-vae": Quick(model=_SMALL, of_data={"model": {"num_levels": 17}}),
    "factor-analysis": Quick(model={"latent_dim": 10}, of_data={"model": {"isotropic": True}}),
    "gamma-poisson": Quick("reuters"),
    "gaussian-vae": Quick(model=_SMALL, of_data={"model": _ONE_SCALE}),
    "hidden-markov-model": Quick("japanese-vowels", {"num_states": 5}, {"num_epochs": 20, "learning_rate": 5e-2}),
    "hierarchical-vae": Quick(model={"latent_dims": [10, 5], "hidden": [100, 100]}),
    "linear-gaussian-state-space": Quick(
        "japanese-vowels", {"latent_dim": 4}, {"num_epochs": 20, "learning_rate": 2e-2}
    ),
    "missing-data-vae": Quick("penguins", {"latent_dim": 2, "hidden": [32]}, {"num_epochs": 200}),
    "mixture-of-factor-analysers": Quick(
        model={"num_components": 10, "latent_dim": 3}, training={"elbo": {"name": "score-function"}}
    ),
    "mixture-vae": Quick(model={**_SMALL, "given_class": "both"}, training={"learning_rate": 1e-2}),
    "multimodal-vae": Quick(model=_SMALL),
    "multinomial-vae": Quick("reuters", _SMALL),
    "negative-binomial-vae": Quick("reuters", _SMALL),
    "poisson-vae": Quick("reuters", _SMALL),
    "semi-supervised-vae": Quick(model=_SMALL, training={"learning_rate": 1e-2}, of_data={"data": {"num_labels": 100}}),
    "sigmoid-belief-network": Quick(model={"latent_dims": [50]}, training={"elbo": {"name": "vimco"}}),
    "student-t-vae": Quick(model=_SMALL, of_data={"model": _ONE_SCALE}),
    "topic-model": Quick("reuters", {"num_topics": 10, "hidden": [100]}, {"learning_rate": 1e-2}),
}
"""By the model's name."""


def quick_recipe(name: str, *, source: str | None = None) -> dict[str, Any]:
    """The tables of a recipe that trains a model within a minute, for changes to be made to.

    Args:
        name: of the model.
        source: data that were asked for; None for those that suit the model.

    Raises:
        RunError: an unknown name.
    """
    if name not in QUICK:
        raise RunError(f"unknown model {name!r}: {did_you_mean(name, list(model_entries()))}")
    quick = QUICK[name]
    values: dict[str, Any] = {
        "model": {"name": name, **quick.model},
        "data": {"source": source or quick.source},
        "training": merge(TRAINING, quick.training),
    }
    return merge(values, quick.of_data) if source in (None, quick.source) else values
