"""``ppvae evaluate``: the bound and the log evidence of held-out data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import (
    LARGEST_INTEGER,
    WIDTH,
    Device,
    Force,
    Json,
    Pair,
    Part,
    Seed,
    Threads,
    Which,
    emit,
    pair_of,
    require_run,
    require_writable,
    say,
    threads,
    verb,
)
from .completion import METHODS, among
from .listing import list_entries


@verb
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="The run folder.")] = None,
    num_samples: Annotated[
        list[int] | None,
        typer.Option(
            "-k",
            "--num-samples",
            help="Importance sampling with so many draws: L_K. May be repeated.",
            min=1,
            max=LARGEST_INTEGER,
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="An evidence method with its options, for instance ais:num_chains=16. May be repeated; "
            "--method list shows all; --method elbo is the bound alone.",
            autocompletion=among(*METHODS, "elbo", "list"),
        ),
    ] = None,
    part: Part = None,
    num_data: Annotated[
        int | None, typer.Option(help="So many data only, drawn at random, always the same.", min=1)
    ] = None,
    which: Which = "result",
    pair: Pair = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads_: Threads = None,
    weights: Annotated[
        int | None,
        typer.Option(
            help="Average over so many draws of the weights, where they have a posterior; absent: at its mean.",
            min=1,
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(help="Data worked on at once, at most; what a stop loses. The noise depends on it.", min=1),
    ] = None,
    check_by_simulation: Annotated[
        int | None,
        typer.Option(
            help="Try the methods on so many data that the model itself makes, where bidirectional Monte Carlo "
            "encloses the truth. --method bdmc:num_temperatures=N is the same with its options.",
            metavar="N",
            min=1,
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Compute anew what an earlier evaluation finished.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file too.")] = None,
    json: Json = False,
) -> None:
    """Estimate the bound and the log evidence of held-out data, each with its standard error.

    Without -k or --method: the ELBO and L_1000. The numbers are kept in the run folder, beside all earlier ones. An
    estimate that is there already, of the same seed, data and parameters, is not computed again.

    One that was stopped, by Ctrl-C or otherwise, goes on where it was when the same command is given again, to the
    same numbers.
    """
    from ..runs import load_run
    from ..runs.evaluation.evaluation import Method
    from ..runs.evaluation.evaluation import evaluate as run_evaluation
    from ..runs.recipe.catalogue import evidence_entries
    from ..runs.storage.atomic import write_json

    if method and "list" in method:
        list_entries(evidence_entries(), json)
        return
    run = require_run(run)
    texts = [f"importance-sampling:num_samples={k}" for k in num_samples or []] + list(method or [])
    if all(text.partition(":")[0] == "bdmc" for text in texts):  # which checks the others
        texts.append("importance-sampling:num_samples=1000")
    methods = [Method.parse(text) for text in texts if text != "elbo"]  # which is always computed
    if out is not None:
        require_writable(out)
    with threads(threads_):
        trained_run = load_run(run, pair=pair_of(pair), which=which, force=force)
        result = run_evaluation(
            trained_run,
            methods,
            part=part,
            num_data=num_data,
            seed=seed,
            device=device,
            weights=weights,
            chunk_size=chunk_size,
            simulate=check_by_simulation,
            again=again,
            options=_load_options(which, pair, force),
            say=say if not json else _quiet,
        )
    if out is not None:
        write_json(out, result)
    if json:
        emit(result)
    else:
        show(result)


def show(result: Mapping[str, Any]) -> None:
    """The table of an evaluation, on standard output."""
    from rich.console import Console
    from rich.table import Table

    from ..runs.evaluation.estimates import of_all, of_data, whole_mean
    from ..runs.evaluation.files import how_many

    data = result["data"]
    title = f"{data['name']}, {data['part']}, {how_many(data).rstrip(',')}; nats per datum; {result['parameters']}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, side in (("estimate", "left"), ("side", "left"), ("mean", "right"), ("± noise", "right")):
        table.add_column(name, justify="left" if side == "left" else "right")
    for name in ("± data", "mean of all", "worst k", "trusted", "seconds"):
        table.add_column(name, justify="right")
    for row in result["estimates"]:
        table.add_row(
            row["label"],
            row["side"],
            _format(row["mean"], 3),
            _format(row["monte_carlo_error"], 3),
            _format(row["sampling_error"], 2),
            _format(row["mean_of_all"], 3),
            _format(row["worst_pareto_k"], 2),
            f"{row['num_trusted']} of {row['num_data']}",
            f"{row['seconds']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    for row in result["estimates"]:
        if not row["num_trusted"]:
            print(f"{row['label']}: can be trusted on none of the data; {of_all(row)}")
        elif row["num_trusted"] < data["num_data"]:
            print(
                f"{row['label']}: the mean is over the {of_data(row)} that can be trusted; {of_all(row)}. Neither "
                "compares with means over other data (ppvae report compares over common data)"
            )
        if text := whole_mean(row):
            print(text)
    for check in result["simulation_checks"]:
        show_check(check)


def show_check(check: Mapping[str, Any]) -> None:
    """The check on simulated data, in sentences."""
    from ..runs.evaluation.simulation_check import sentence

    for row in check["rows"]:
        text = sentence(row, check["num_data"])
        print(text[0].upper() + text[1:] + ".")


def _load_options(which: str, pair: str | None, force: bool) -> list[str]:
    """The words of a command that load the same parameters."""
    words = [] if which == "result" else ["--which", which]
    words += [] if pair is None else ["--pair", pair]
    return words + (["--force"] if force else [])


def _format(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _quiet(line: str) -> None:
    return None
