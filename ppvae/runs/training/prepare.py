"""From a recipe to its data and its untrained pair."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from pyro.distributions import Normal

from .roles import in_roles
from ..recipe.catalogue import build_model
from ..recipe.recipe import Recipe
from ..recipe.source import build_pair, digest_of, file_of
from ... import __version__
from ...core import ModelGuidePair, structure
from ...core.errors import RunError, try_one_of
from ...core.modes import evaluation_mode
from ...data import Dataset
from ...data import load as load_data
from ...models import bayesianise

_log = logging.getLogger("ppvae.runs")


def prepare(recipe: Recipe, pair: Any = None, *, force: bool = False) -> tuple[Recipe, Dataset, ModelGuidePair]:
    """The recipe with its open choices made, its data and its untrained pair."""
    data = _data(recipe, "none" if recipe.data.binarize == "auto" else recipe.data.binarize)
    plain = _plain_pair(recipe, data, pair, force)
    in_use = in_roles(data, plain, num_labels=recipe.data.num_labels, seed=recipe.data.seed)
    new_pair = _weights_too(recipe, plain)
    if recipe.data.binarize == "auto":
        choice = "static" if _wants_binary(new_pair, in_use) else "none"
        if choice == "static":
            _log.warning("%s: grey values under a Bernoulli: binarised once (binarize = 'static')", data.name)
            data = _data(recipe, "static")
            in_use = in_roles(data, plain, num_labels=recipe.data.num_labels, seed=recipe.data.seed)
        recipe = recipe.replace(data={"binarize": choice})
    return recipe.replace(ppvae=__version__), in_use, new_pair


def model_for_data(recipe: Recipe) -> dict[str, Any]:
    """The preset for the data of a recipe: "bernoulli-vae" for values in [0, 1], "gaussian-vae" for others."""
    if _data(recipe, "none").batch_space in ("binary", "unit"):
        return {"name": "bernoulli-vae"}
    return {"name": "gaussian-vae", "mean": "identity"}


def _data(recipe: Recipe, binarize: Any) -> Dataset:
    table = recipe.data
    data = load_data(
        table.source,
        binarize=binarize,
        seed=table.seed,
        flatten=table.flatten,
        image_shape=None if table.image_shape is None else tuple(table.image_shape),
        validation=table.validation,
        test=table.test,
        key=table.key,
        gaps=table.gaps,
    )
    return data if table.num_train is None else data.take(table.num_train)


def _weights_too(recipe: Recipe, plain: ModelGuidePair) -> ModelGuidePair:
    """The pair with a posterior over its weights, where the recipe asks for one."""
    table = recipe.bayesian
    if table is None:
        return plain
    return bayesianise(
        plain,
        modules=table.modules,
        prior=Normal(0.0, table.prior_scale),
        posterior=table.posterior,
        weight_noise=table.weight_noise,
    )


def _plain_pair(recipe: Recipe, data: Dataset, member: Any, force: bool) -> ModelGuidePair:
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        if "pair" not in recipe.model:
            if member is not None:
                raise RunError(f"the recipe names the model {recipe.model['name']!r}, so a pair has no place here")
            pair = build_model(recipe.model, data)
            assert isinstance(pair, ModelGuidePair)
            return pair
        spec = recipe.model["pair"]
        if member is None:
            raise RunError(
                f"the recipe's pair stands in a file of yours: {spec}"
                + try_one_of(f"--pair {spec}, which runs that file", "load_run(folder, pair=MyPair)")
            )
        path = file_of(member, spec)
        digest = recipe.model.get("sha256")
        if digest and path is not None and digest != digest_of(path) and not force:
            same = path.resolve() == Path(spec.rpartition(":")[0]).expanduser().resolve()
            raise RunError(
                f"{path} {'has changed since the run' if same else f'is not the file of the run, {spec}'}: "
                f"SHA-256 {digest_of(path)[:12]}, then {digest[:12]}"
                + try_one_of("the copy that the run folder keeps, pair.py", "force=True")
            )
        options = {key: value for key, value in recipe.model.items() if key not in ("pair", "sha256")}
        return build_pair(member, options, data)


def _wants_binary(pair: ModelGuidePair, data: Dataset) -> bool:
    if data.batch_space != "unit":
        return False
    try:
        with evaluation_mode(pair):
            shape = structure(pair, data.batch(torch.arange(min(2, len(data)))))
    except Exception:
        return False  # training reports the error, with a better message
    return any(info.is_a(torch.distributions.Bernoulli) and not info.allows_grey for info in shape.observed)
