"""Programs that set the seed of random numbers: their draws are the same at every run."""

from __future__ import annotations

from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .structure import Structure
from .tracing import run_program


def require_fresh_draws(pair: ModelGuidePair, few: Data, shape: Structure) -> None:
    """The continuous draws of one run of a program are others than those of the next.

    Args:
        pair: the pair.
        few: some data.
        shape: of the pair at these data.

    Raises:
        PairError: names the program and the site.
    """
    drawn = [info for info in (*shape.model_latents, *shape.guide_latents) if not info.is_discrete]
    names = {info.name for info in drawn if not info.is_a(dist.Delta)}
    roles: tuple[Literal["guide", "model"], ...] = ("guide", "model")
    for role in roles:
        try:
            first, again = (_values(pair, role, few) for _ in range(2))
        except NotImplementedError:  # a prior that cannot be drawn from, which only verbs that draw from it need
            continue
        for name in sorted(names & first.keys()):
            if torch.equal(first[name], again[name]):
                raise PairError(
                    f"site {name!r}: the {role} draws the same values in every run, so that it sets the seed of random "
                    "numbers, and an estimate would not vary where its error says that it does"
                    + try_one_of(
                        "no poutine.seed, pyro.set_rng_seed or torch.manual_seed inside", "seed=... of the verb"
                    )
                )


def _values(pair: ModelGuidePair, role: Literal["guide", "model"], few: Data) -> dict[str, Tensor]:
    return {name: site["value"] for name, site in run_program(pair, role, few, None).items()}
