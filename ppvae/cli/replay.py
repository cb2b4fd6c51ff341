"""``ppvae replay``: the step that was not finite, done again."""

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
    """Do again the step at which training met a number that was not finite, and say what it was."""
    from ..runs.recipe.recipe import Recipe
    from ..runs.training.forensics import read_dump
    from ..runs.training.forensics import replay as replay_dump
    from ..runs.training.run import prepare

    _, about = read_dump(dump)
    _, data, built = prepare(Recipe.from_dict(about["recipe"]), pair_of(pair))
    found = replay_dump(dump, built)
    if json:
        emit(
            {
                "step": found.step,
                "reproduced": found.reproduced,
                "site": found.diagnosis.site,
                "parameter": found.diagnosis.parameter,
                "message": found.diagnosis.message,
                "indices": list(found.indices),
            }
        )
        return
    print(f"step {found.step}, {len(found.indices)} rows of {data.name}: {found.diagnosis.message}")
    print(f"bound {found.elbo:.4g} nats per datum, norm of the gradient {found.gradient_norm:.4g}")
