"""``ppvae report``: figures and one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Force, Json, Pair, Seed, Threads, emit, pair_of, threads, verb


@verb
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders; several are compared side by side.", metavar="RUN...")
    ],
    pair: Pair = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads_: Threads = None,
    chains: Annotated[
        int, typer.Option(help="Data for which HMC chains are run and shown: trace, ranks, R-hat.", min=0)
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="The HTML file; RUN/report.html where absent.")] = None,
    json: Json = False,
) -> None:
    """Write figures into the run folder, and one self-contained page that shows them with all numbers.

    Run ppvae evaluate before, for the table of estimates.
    """
    from ..report import write_comparison, write_report
    from ..runs import load_run

    with threads(threads_):
        loaded = [load_run(run, pair=pair_of(pair), force=force) for run in runs]
        if len(loaded) == 1:
            path = write_report(loaded[0], out=out, seed=seed, device=device, chains_for=chains)
        else:
            path = write_comparison(loaded, out=out)
    if json:
        emit({"report": str(path), "runs": [str(run) for run in runs], "bytes": path.stat().st_size})
    else:
        print(path)
