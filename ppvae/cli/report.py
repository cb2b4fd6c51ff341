"""``ppvae report``: figures and one page of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import Device, Force, Json, Seed, Threads, emit, pair_of, require_writable, threads, verb


@verb
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, or the folder of several runs; several are compared side by side.", metavar="RUN..."
        ),
    ],
    pair: Annotated[
        list[str] | None,
        typer.Option(
            "--pair",
            help="FILE.py:Name of a pair of your own. That file is run. Once for every run of such a pair, in their "
            "order; one alone serves all of them.",
            metavar="FILE:NAME",
        ),
    ] = None,
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

    With --out the page alone, to that place: nothing is written into the run folder.

    Run ppvae evaluate before, for the table of estimates.
    """
    from ..report import write_comparison, write_report
    from ..runs import is_several, load_run

    if chains and (len(runs) > 1 or is_several(runs[0])):
        raise typer.BadParameter("--chains is for the page of one run", param_hint="--chains")
    if out is not None:
        require_writable(out)
    own_page = runs[0] / "report.html" if len(runs) == 1 and is_several(runs[0]) else None
    runs = [member for run in runs for member in _members(run)]
    with threads(threads_):
        members = _pairs_of(runs, pair or [])
        trained_runs = [load_run(run, pair=one, force=force) for run, one in zip(runs, members, strict=True)]
        if len(trained_runs) == 1:
            path = write_report(trained_runs[0], out=out, seed=seed, device=device, chains_for=chains)
        else:
            path = write_comparison(trained_runs, out=out or own_page, seed=seed, device=device)
    if json:
        emit({"report": str(path), "runs": [str(run) for run in runs], "bytes": path.stat().st_size})
    else:
        print(path)


def _members(path: Path) -> list[Path]:
    """A run folder; of a folder of several runs those that are trained."""
    from ..core.errors import RunError, try_one_of
    from ..runs import is_several, read_several

    if not is_several(path):
        return [path]
    several = read_several(path)
    trained = [folder.path for member in several.members if (folder := several.folder(member)).checkpoints.is_dir()]
    if not trained:
        raise RunError(f"{path}: none of its runs is trained" + try_one_of(f"ppvae fit --resume {path}"))
    return trained


def _pairs_of(runs: list[Path], specs: list[str]) -> list[Any]:
    """The --pair of each run; None for runs of named models."""
    from ..core.errors import RunError
    from ..runs.recipe.recipe import Recipe
    from ..runs.storage.folder import find_run

    own = [run for run in runs if "pair" in Recipe.read(find_run(run).recipe).model]
    if len(specs) > 1 and len(specs) != len(own):
        names = ", ".join(map(str, own)) or "none"
        raise RunError(f"--pair: expected one, or one for each run of a pair of your own ({names}), found {len(specs)}")
    if len(runs) == 1 or (specs and not own):
        return [pair_of(specs[0] if specs else None)] * len(runs)
    members = [pair_of(spec) for spec in specs]
    members = members * len(own) if len(members) == 1 else members or [None] * len(own)
    queue = iter(members)
    return [next(queue) if run in own else None for run in runs]
