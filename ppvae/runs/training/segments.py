"""The segments of a run: parts of its history that were trained under different recipes, by an explicit change.

The recipe that a run goes on with is the one of its last checkpoint. A file ``recipe.toml`` that was edited since is
refused: the run would be said to have been trained under what it was not.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from ..recipe.recipe import Recipe
from ..storage.folder import RunFolder
from ...core.errors import RunError, try_one_of

CHANGEABLE = (
    "training.learning_rate",
    "training.clip_norm",
    "training.elbo",
    "training.kl_warmup",
    "training.kl_weight",
    "training.schedules",
    "training.early_stopping",
    "training.compile",
    "device",
)
"""What may differ between the segments of a run. An estimator with a state of its own does not fit that of
another: that is refused when the state is loaded."""

_NEUTRAL = ("ppvae", "training.num_epochs")

Differences = dict[str, list[Any]]


def differences(before: Recipe, after: Recipe) -> Differences:
    """The keys in which two recipes differ, each with both values; None where it is absent."""
    one, other = before.flat(), after.flat()
    return {
        key: [one.get(key), other.get(key)]
        for key in sorted({*one, *other})
        if key not in _NEUTRAL and one.get(key) != other.get(key)
    }


def refuse_edits(folder: RunFolder, edits: Differences) -> None:
    """Refuse a ``recipe.toml`` that differs from the recipe of the last checkpoint.

    Raises:
        RunError: names every key that differs.
    """
    words = " ".join(f"--set {key}={after}" for key, (_, after) in edits.items())
    raise RunError(
        f"{folder.recipe}: was edited since the last checkpoint: {_words(edits)}"
        + try_one_of(
            "the recipe as it was",
            f"a change on the way, recorded as a new segment: ppvae fit --resume {folder.path} {words}",
            f"a new run: ppvae fit {folder.recipe} --out OTHER",
        )
    )


def refuse_unchangeable(folder: RunFolder, then: Recipe, now: Recipe) -> None:
    """Raise where a change needs a new run.

    Raises:
        RunError: names every such key, and those that may change.
    """
    fixed = [key for key in differences(then, now) if not any(_is_part(key, name) for name in CHANGEABLE)]
    if fixed:
        raise RunError(
            f"{folder.path}: {', '.join(fixed)} cannot change within a run, but only {', '.join(CHANGEABLE)}"
            + try_one_of(f"a new run: ppvae fit {folder.recipe} --set {fixed[0]}=... --out OTHER")
        )
    rates = [recipe.training.learning_rate for recipe in (then, now)]
    if rates[0] != rates[1] and now.training.schedule is not None:
        raise RunError(
            f"{folder.path}: the learning rate follows a schedule, {now.training.schedule['name']}, which goes on from "
            "where it was" + try_one_of(f"a new run: ppvae fit {folder.recipe} --out OTHER")
        )


def apply(state: MutableMapping[str, Any], then: Recipe, now: Recipe) -> None:
    """Bring a state to resume from in line with a recipe: the optimiser keeps its learning rate in its state.

    One that did not change stays as it is there, where a callback may have set it.
    """
    if now.training.learning_rate != then.training.learning_rate:
        for group in state["optimizer"]["param_groups"]:
            group["lr"] = now.training.learning_rate


def extend(segments: Sequence[Mapping[str, Any]], about: Mapping[str, Any], changes: Differences) -> list[Any]:
    """The segments of a run that goes on from a checkpoint with these changes."""
    start = {"epoch": about.get("epoch"), "step": about.get("step")}
    return [*segments, {**start, "changes": changes}] if changes else list(segments)


def describe(segment: Mapping[str, Any]) -> str:
    """A segment in words: ``after epoch 5 (step 65): training.learning_rate was 0.001, now 0.0001``."""
    return f"after epoch {segment['epoch']} (step {segment['step']}): {_words(segment['changes'])}"


def _words(changes: Mapping[str, Sequence[Any]]) -> str:
    return "; ".join(f"{key} was {before}, now {after}" for key, (before, after) in changes.items())


def _is_part(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")
