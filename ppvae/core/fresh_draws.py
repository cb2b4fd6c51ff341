"""Programs that set the seed of random numbers: their draws are the same at every run."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .structure import Structure
from .tracing import run_program


def require_fresh_draws(pair: ModelGuidePair, few: Data, shape: Structure) -> None:
    """Continuous values that differ within one run of a program are others in the next run.

    Args:
        pair: the pair, whose programs broadcast over particles.
        few: some data.
        shape: of the pair at these data.

    Raises:
        PairError: names the program and the site.
    """
    names = {info.name for info in (*shape.model_latents, *shape.guide_latents) if not info.is_discrete}
    roles: tuple[Literal["guide", "model"], ...] = ("guide", "model")
    for role in roles:
        try:
            first, again = (run_program(pair, role, few, None, 2, shape.nesting) for _ in range(2))
        except NotImplementedError:  # a prior that cannot be drawn from, which only verbs that draw from it need
            continue
        for name in sorted(names & first.keys()):
            value = first[name]["value"]
            if torch.equal(value, again[name]["value"]) and _varies(value):
                raise PairError(
                    f"site {name!r}: the {role} draws the same values in every run, so that it sets the seed of random "
                    "numbers, and an estimate would not vary where its error says that it does"
                    + try_one_of(
                        "no poutine.seed, pyro.set_rng_seed or torch.manual_seed inside", "seed=... of the verb"
                    )
                )


def _varies(value: Tensor) -> bool:
    """Whether two particles differ, and in other numbers than whole ones, of which few may agree by chance."""
    return not torch.equal(value[0], value[1]) and not torch.equal(value, value.round())
