"""``ppvae compare-elbos``: estimators of the bound side by side on a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    Device,
    Force,
    Json,
    Pair,
    Part,
    Seed,
    Threads,
    emit,
    pair_of,
    require_run,
    require_writable,
    say,
    threads,
    verb,
)
from .completion import ELBOS, among
from .listing import list_entries

DEFAULT = (
    "trace",
    "trace-mean-field",
    "score-function",
    "importance-weighted:num_particles=5",
    "sticking-the-landing",
    "doubly-reparameterized:num_particles=5",
)


@verb
def compare_elbos(
    run: Annotated[Path | None, typer.Argument(help="The run folder.")] = None,
    estimator: Annotated[
        list[str] | None,
        typer.Option(
            help="An estimator with its options, for instance importance-weighted:num_particles=50. May be repeated; "
            "--estimator list shows all.",
            autocompletion=among(*ELBOS, "list"),
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Estimates of each.", min=4)] = 100,
    num_data: Annotated[int, typer.Option(help="Data in the batch, drawn at random.", min=1)] = 100,
    part: Part = None,
    pair: Pair = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads_: Threads = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables and figures; RUN/comparison if absent.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare estimators of the bound: bias, variance, gradient noise and cost, at the parameters of a run.

    Writes comparison.json, comparison.csv and figures, and prints the tables.
    """
    from ..runs import load_run
    from ..runs.recipe.catalogue import build, elbo_entries, parse_table
    from ..runs.storage.atomic import make_folder, write_json, write_text

    entries = elbo_entries()
    if estimator and "list" in estimator:
        list_entries(entries, json)
        return
    run = require_run(run)
    folder = out or run / "comparison"
    estimators: dict[str, Any] = {}
    for text in estimator or DEFAULT:
        table = parse_table(entries, text, "--estimator", "estimator")
        estimators[text] = build(entries, table)
    with threads(threads_):
        trained_run = load_run(run, pair=pair_of(pair), force=force)
        require_writable(folder, folder=True)
        held_out = trained_run.part(part or trained_run.held_out)
        comparison = _compare(trained_run, held_out, estimators, repeats, num_data, seed, device, json)
    make_folder(folder)
    write_json(folder / "comparison.json", comparison.to_dict())
    write_text(folder / "comparison.csv", comparison.tidy().to_csv(index=False))
    from ..report.figures.estimators import save_figures

    figures = save_figures(comparison, folder)
    if json:
        emit({**comparison.to_dict(), "folder": str(folder)})
    else:
        print(comparison.table())
        say(f"\ntables and {len(figures)} figures: {folder}")


def _compare(
    trained_run: Any, data: Any, estimators: Any, repeats: int, num_data: int, seed: int, device: str, quiet: bool
) -> Any:
    from ..data import random_rows
    from ..inference.comparison.compare import compare_elbos
    from ..inference.execution.placement import choose_device

    trained_run.pair.to(choose_device(device))
    batch = data.take(random_rows(len(data), num_data))
    size = len(trained_run.data)
    return compare_elbos(
        trained_run.pair, batch, estimators, num_repeats=repeats, num_data=size, seed=seed, progress=not quiet
    )
