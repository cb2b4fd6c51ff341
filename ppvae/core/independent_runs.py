"""A run of a program owes nothing to the one before: neither its random numbers nor what another run left behind."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .density import draw, log_guide, log_joint
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair, batch_size, rows_of
from .structure import Structure
from .terms import Draw
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


def require_separate_programs(pair: ModelGuidePair, few: Data, draws: Draw) -> None:
    """A density of one program is the same whatever data the other one ran on before.

    A guide that keeps what it computed, ``self.features = net(x)``, for a model that reads it, hands over those of the
    data of its last run, which need be neither these data nor as many.

    Args:
        pair: the pair.
        few: some data.
        draws: of its guide, at these data.

    Raises:
        PairError: names the program.
    """
    others = rows_of(few, torch.arange(batch_size(few)).roll(1))

    def model_after(x: Data) -> Tensor:
        draw(pair, x, 1)
        return log_joint(pair, few, draws.latents, num_draws=len(draws.log_q)).local

    def guide_after(x: Data) -> Tensor:
        log_joint(pair, x, draws.latents, num_draws=len(draws.log_q))
        return log_guide(pair, few, draws.latents, auxiliary=draws.auxiliary, num_draws=len(draws.log_q))[0]

    for reader, other, density in (("model", "guide", model_after), ("guide", "model", guide_after)):
        if not torch.allclose(density(few), density(others), rtol=1e-3, atol=1e-3, equal_nan=True):
            raise PairError(
                f"the {reader} reads what a run of the {other} left behind: at the same data and latents its density "
                f"is another once the {other} has run on other data"
                + try_one_of(
                    f"compute it in the {reader} too",
                    "a latent, or an auxiliary site, for what both programs share",
                    "no connection from the encoder to the decoder: x is what the model explains",
                )
            )


def _varies(value: Tensor) -> bool:
    """Whether two particles differ, and in other numbers than whole ones, of which few may agree by chance."""
    return not torch.equal(value[0], value[1]) and not torch.equal(value, value.round())
