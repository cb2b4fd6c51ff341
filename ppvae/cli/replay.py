"""``ppvae replay``: repeat the step that was not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Pair, emit, pair_of, verb


@verb
def replay(
    dump: Annotated[Path, typer.Argument(help="The run folder, its folder dumps, or one dump in it.")],
    pair: Pair = None,
    json: Json = False,
) -> None:
    """Repeat the step at which training met a number that was not finite, and name that number."""
    from ..runs.recipe.recipe import Recipe
    from ..runs.training.forensics import read_dump
    from ..runs.training.forensics import replay as replay_dump
    from ..runs.training.prepare import prepare

    _, about = read_dump(dump)
    _, data, new_pair = prepare(Recipe.from_dict(about["recipe"]), pair_of(pair))
    outcome = replay_dump(dump, new_pair)
    if json:
        emit(
            {
                "step": outcome.step,
                "reproduced": outcome.reproduced,
                "site": outcome.diagnosis.site,
                "parameter": outcome.diagnosis.parameter,
                "message": outcome.diagnosis.message,
                "indices": list(outcome.indices),
            }
        )
        return
    print(f"step {outcome.step}, {len(outcome.indices)} rows of {data.name}: {outcome.diagnosis.message}")
    print(f"bound {outcome.elbo:.4g} nats per datum, norm of the gradient {outcome.gradient_norm:.4g}")
