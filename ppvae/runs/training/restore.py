"""Set the parameters of a new pair from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core import ModelGuidePair, check_pair
from ...core.errors import RunError, try_one_of
from ...data import Dataset

_NUM_NAMES = 3
"""How many names of parameters a message lists."""
_REMEDY = try_one_of("the pair that was trained, where --pair names another", "the recipe.toml of that checkpoint")


def restore(pair: ModelGuidePair, state: Any, data: Dataset, batch_size: int | str, where: str) -> None:
    """Set a pair's parameters from a checkpoint.

    A wrapped Pyro program has its bare ``pyro.param`` statements, and an automatic guide its parameters, only after
    a first run. So a pair that lacks some of the checkpoint's is run once, on a batch as in training.

    Args:
        pair: untrained, as its recipe builds it.
        state: the pair's entry of a checkpoint.
        data: the training data.
        batch_size: that of training, or "all".
        where: the run, for messages.

    Raises:
        RunError: the checkpoint is another pair's, or holds what no training leaves there.
        PairError: the pair has to be run and fails.
    """
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"{where}: its checkpoint holds other things than tensors as parameters" + _REMEDY)
    if set(state) - set(pair.state_dict()):
        size = len(data) if isinstance(batch_size, str) else min(batch_size, len(data))
        with torch.random.fork_rng(devices=[]):
            check_pair(pair, data.batch(torch.arange(size)))
    own = pair.state_dict()
    problems = [
        f"{what} {_names(names)}"
        for what, names in (
            ("it lacks", set(own) - set(state)),
            ("it has besides", set(state) - set(own)),
            (
                "of another shape are",
                [key for key in own if key in state and own[key].shape != state[key].shape],
            ),
            (
                "not finite are",
                [key for key, _ in pair.named_parameters() if key in state and not _is_finite(state[key])],
            ),
        )
        if names
    ]
    if not problems:
        try:
            pair.load_state_dict(dict(state))
        except (RuntimeError, KeyError) as error:
            problems = [str(error)]
    if problems:
        raise RunError(
            f"{where}: its checkpoint does not fit its recipe, which gives a {type(pair).__name__}: "
            + "; ".join(problems)
            + _REMEDY
        )


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _names(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _NUM_NAMES} more" if len(names) > _NUM_NAMES else ""
    return ", ".join(names[:_NUM_NAMES]) + more
