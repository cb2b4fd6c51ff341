"""A small recipe for every model that has a name: a minute of training on two cores, on data that come in packages."""

from __future__ import annotations

import copy
from typing import Any

from .catalogue import model_entries
from .recipe import merge
from ...core.errors import RunError, did_you_mean

_SMALL = {"hidden": [100], "latent_dim": 10}
_VOWELS = {"source": "japanese-vowels"}
_WORDS = {"source": "reuters"}
_TRAINING: dict[str, Any] = {"num_epochs": 40, "batch_size": 50, "learning_rate": 3e-3, "compile": "graph"}
"""Recorded, not compiled: so small a network gains less from a compiler than the compiler takes."""

QUICK: dict[str, dict[str, Any]] = {
    "bernoulli-vae": {"model": _SMALL},
    "conditional-vae": {"model": _SMALL},
    "convolutional-vae": {
        "model": {"latent_dim": 10, "channels": [4, 8], "hidden": 64},
        "data": {"source": "mnist-5000", "num_train": 2000},
        "training": {"num_epochs": 10},
    },
    "count-vae": {"model": _SMALL, "data": _WORDS},
    "deep-exponential-family": {
        "model": {"latent_dims": [20, 10, 5], "hidden": [100]},
        "data": _WORDS,
        "training": {"learning_rate": 1e-2},
    },
    "deep-markov-model": {
        "model": {
            "latent_dim": 8,
            "hidden": [32],
            "transition_hidden": 32,
            "recurrent_hidden": 32,
            "likelihood": {"name": "gaussian"},
        },
        "data": _VOWELS,
    },
    "discretised-logistic-vae": {"model": {**_SMALL, "num_levels": 17}},
    "factor-analysis": {"model": {"latent_dim": 10}},
    "gamma-poisson": {"data": _WORDS},
    "gaussian-vae": {"model": _SMALL},
    "hidden-markov-model": {"model": {"num_states": 5}, "data": _VOWELS, "training": {"num_epochs": 15}},
    "hierarchical-vae": {"model": {"latent_dims": [10, 5], "hidden": [100, 100]}},
    "linear-gaussian-state-space": {"model": {"latent_dim": 4}, "data": _VOWELS, "training": {"num_epochs": 15}},
    "missing-data-vae": {
        "model": {"latent_dim": 2, "hidden": [32]},
        "data": {"source": "penguins"},
        "training": {"num_epochs": 200},
    },
    "mixture-of-factor-analysers": {"model": {"num_components": 10, "latent_dim": 3}},
    "mixture-vae": {"model": {**_SMALL, "given_class": "both"}},
    "multimodal-vae": {"model": _SMALL},
    "multinomial-vae": {"model": _SMALL, "data": _WORDS},
    "negative-binomial-vae": {"model": _SMALL, "data": _WORDS},
    "poisson-vae": {"model": _SMALL, "data": _WORDS},
    "semi-supervised-vae": {"model": _SMALL, "data": {"num_labels": 100}},
    "sigmoid-belief-network": {"model": {"latent_dims": [50]}, "training": {"elbo": {"name": "vimco"}}},
    "student-t-vae": {"model": _SMALL},
    "topic-model": {"model": {"num_topics": 10, "hidden": [100]}, "data": _WORDS},
}
"""Of each model what differs from a recipe's defaults and from :data:`_TRAINING`; digits where no data are named."""


def quick_recipe(name: str, *, own_data: bool = False) -> dict[str, Any]:
    """The tables of a recipe that trains a model within a minute, for changes to be made to.

    Args:
        name: of the model.
        own_data: whether data will be named, so that nothing is said of them.

    Raises:
        RunError: an unknown name.
    """
    if name not in QUICK:
        raise RunError(f"unknown model {name!r}: {did_you_mean(name, list(model_entries()))}")
    own = copy.deepcopy(QUICK[name])
    data = {} if own_data else {"source": "digits", **own.get("data", {})}
    return {
        "model": {"name": name, **own.get("model", {})},
        "data": data,
        "training": merge(_TRAINING, own.get("training", {})),
    }
