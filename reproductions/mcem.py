"""Monte Carlo EM as the paper runs it, to any number of samples, resumable: it has no run folder of its own."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import Normal

from ppvae.core import ModelGuidePair
from ppvae.data import Dataset
from ppvae.inference import Fit, fit, fit_mcem
from ppvae.models import bernoulli_vae
from ppvae.runs import Recipe

from .cells import Bench
from .training import AtMarks, Saves, Visit, best_step_size, data_of


def pair_of(recipe: Recipe) -> ModelGuidePair:
    """The untrained pair of a recipe; its guide is not used."""
    data = data_of(recipe)
    torch.manual_seed(recipe.seed)
    hidden = tuple(recipe.model["hidden"])
    return bernoulli_vae(data.event_shape, latent_dim=recipe.model["latent_dim"], hidden=hidden, allow_grey=True)


def run(recipe: Recipe, pair: ModelGuidePair, num_epochs: int, **options: Any) -> Fit:
    """Appendix E: 10 leapfrogs at 90 % acceptance, then 5 updates of the weights."""
    table = recipe.training
    return fit_mcem(
        pair,
        data_of(recipe),
        learning_rate=table.learning_rate,
        num_epochs=num_epochs,
        weight_prior=Normal(0.0, 1.0),
        seed=recipe.seed,
        **options,
    )


def choose_mcem_step_size(bench: Bench, recipe: Recipe) -> float:
    """The step size with the highest log p(x, z) of the training data after the first samples."""

    def first_log_joint(part: Recipe) -> float:
        return run(part, pair_of(part), part.training.num_epochs, progress=False).history[-1]["log_joint_train"]

    return best_step_size(bench, recipe, first_log_joint)


def with_encoder(pair: ModelGuidePair, data: Dataset, samples: float) -> ModelGuidePair:
    """A copy whose guide is trained for the model as it stands: where chains start, and what is drawn from."""
    result = copy.deepcopy(pair)
    for parameter in result.get_submodule("likelihood").parameters():
        parameter.requires_grad_(False)
    fit(result, data, num_epochs=math.ceil(samples / len(data)), progress=False)
    return result


def train_mcem(bench: Bench, recipe: Recipe, visit: Visit) -> tuple[ModelGuidePair, int]:
    """Choose the step size, and train, or go on, until so many data were seen, with a visit at every mark."""
    recipe = recipe.replace(training={"learning_rate": choose_mcem_step_size(bench, recipe)})
    data, path = data_of(recipe), Path(bench.folder) / "mcem.pt"
    epochs, pair = math.ceil(bench.size.samples / len(data)), pair_of(recipe)
    callbacks = [AtMarks(len(data), bench.size.samples, visit), Saves(path)]
    state = torch.load(path, weights_only=True) if path.exists() else None
    if state is not None and len(state["history"]) >= epochs:
        pair.load_state_dict(state["pair"])
        return pair, len(state["history"]) * len(data)
    run(recipe, pair, epochs, callbacks=callbacks, resume=state)
    bench.keep(
        recipe=recipe.to_dict() | {"algorithm": "Monte Carlo EM"},
        data={name: part.fingerprint() for name, part in data.parts.items()},
        seed=recipe.seed,
    )
    return pair, epochs * len(data)
