"""The origin of a number that is not finite: a small dump of the step, and its replay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro.distributions import Normal

from ..recipe.catalogue import build, elbo_entries
from ..recipe.recipe import Recipe
from ..storage import checkpoint
from ..storage.folder import RunFolder
from ...core import FitError, ModelGuidePair, PpvaeError, RunError, structure
from ...core.errors import try_one_of
from ...inference.training.objective import Diagnosis, Objective, diagnose
from ...inference.training.scheduled import as_tensors

KIND = "dump"


class Replay(NamedTuple):
    """A repeated step.

    Attributes:
        step: its number in the run.
        indices: rows of the training data in its batch.
        reproduced: whether a number was again not finite.
        diagnosis: the first such number.
        elbo: the bound of the batch, nats per datum.
        gradient_norm: Euclidean norm of the gradient per datum.
    """

    step: int
    indices: tuple[int, ...]
    reproduced: bool
    diagnosis: Diagnosis
    elbo: float
    gradient_norm: float


def save_dump(folder: RunFolder, recipe: Recipe, error: FitError) -> Path | None:
    """Save the step of an error in ``RUN/dumps``: parameters, batch, random state, recipe.

    Returns:
        the record that :func:`replay` takes; None where the error is not about a step.
    """
    if not error.snapshot or error.step is None:
        return None
    state = {**error.snapshot, "indices": list(error.indices), "step": error.step}
    where = folder.path / "dumps"
    checkpoint.save(where, KIND, error.step, state, {"recipe": recipe.to_dict(), "message": str(error).splitlines()[0]})
    return checkpoint.find_records(where, KIND)[0]


def replay(record: Path | str, pair: ModelGuidePair) -> Replay:
    """Repeat the step of a dump, eagerly, on the pair of its recipe.

    Args:
        record: the ``.sha256`` file of a dump (or its folder, for the newest).
        pair: a pair of the recipe's model; its parameters are set from the dump.

    Raises:
        RunError: no dump, a damaged one, or one that does not fit the pair.
    """
    state, about = read_dump(record)
    recipe = Recipe.from_dict(about["recipe"])
    try:
        return _replay(state, recipe, pair)
    except PpvaeError:
        raise
    except Exception as error:  # its sums are right, but any error is possible
        raise RunError(f"{record}: does not fit the pair of its recipe: {type(error).__name__}: {error}") from error


def _replay(state: Mapping[str, Any], recipe: Recipe, pair: ModelGuidePair) -> Replay:
    batch: Any = dict(state["batch"])
    if not state["mapping"]:  # a tensor, or a tuple of such
        batch = batch["x"] if "x" in batch else tuple(batch[key] for key in sorted(batch, key=int))
    table = recipe.training
    estimator = build(elbo_entries(), table.elbo)
    # Before the parameters are set, at which Pyro's validation may refuse (a scale of zero). A wrapped program has some
    # of its parameters, and an estimator some of its state, only after a first run. The structure comes last: the check
    # runs in evaluation mode, and what is found there is not what training reads.
    estimator.check(pair, batch)
    structure(pair, batch)
    pair.load_state_dict(state["pair"])
    if estimator.module is not None:
        estimator.module.load_state_dict(state["estimator"])
    objective = Objective(
        pair,
        estimator,
        num_data=int(state["num_data"]),
        weight_prior=None if table.weight_prior_scale is None else Normal(0.0, table.weight_prior_scale),
        prior_names=frozenset(state["prior_names"]),
        clip_norm=table.clip_norm,
        mode="eager",
    )
    weight = as_tensors(state["kl_weight"], next(pair.parameters()))
    with torch.random.fork_rng():
        torch.set_rng_state(state["random_state"])
        step = objective(batch, weight)
    diagnosis = diagnose(pair, batch, step.gradients, state["random_state"])
    bad = not math.isfinite(float(step.check))
    return Replay(
        int(state["step"]),
        tuple(state["indices"]),
        bad,
        diagnosis if bad else Diagnosis("all numbers are finite", None, None),
        float(step.metrics[0]),
        float(step.gradient_norm),
    )


def read_dump(record: Path | str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """The state of a dump and its facts, verified.

    Raises:
        RunError: no dump there, or a damaged one.
    """
    path = Path(record)
    if path.is_dir():
        records = checkpoint.find_records(path, KIND) or checkpoint.find_records(path / "dumps", KIND)
        if not records:
            raise RunError(f"{path}: no dump of a step" + try_one_of("RUN/dumps, which a run that met NaN writes"))
        path = records[0]
    elif not path.with_suffix(".sha256").exists():
        raise RunError(f"{path}: no run and no dump of a step" + try_one_of("RUN, or RUN/dumps/dump-NUMBER.sha256"))
    state, about = checkpoint.read(path.with_suffix(".sha256"))
    keys = {"pair", "batch", "mapping", "random_state", "kl_weight", "num_data", "estimator", "prior_names"}
    missing = {*keys, "indices", "step"} - set(state)
    if missing or not isinstance(about.get("recipe"), Mapping):
        raise RunError(f"{path}: not a dump of a step: it lacks {', '.join(sorted(missing)) or 'a recipe'}")
    return state, about
