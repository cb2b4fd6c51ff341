"""Work through the cells of the paper's figures, draw them, and write the page: ``python -m reproductions --help``."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
import typer

from ppvae.core import PpvaeError

from .cells import Bench, Found, Size, save_figure
from .pages import markdown, write_html

ROOM = Path(__file__).parent
FIGURES = (
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "appendix_f",
    "score_function",
    "prior_or_encoder",
    "divergences",
    "three_routes",
    "decomposition",
    "restoration",
)


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(FIGURES)}; all where absent.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="On the bundled digits, in minutes.")] = False,
    samples: Annotated[float, typer.Option(help="Training data seen by the end of a run.", min=1000)] = 1e7,
    only: Annotated[str, typer.Option(help="Cells whose names begin so.")] = "",
    runs: Annotated[Path | None, typer.Option(help="Folder of the run folders that are gone on from.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.", min=1)] = None,
    draw: Annotated[bool, typer.Option("--draw", help="No experiment: pictures and page of what was found.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="The cells, and how far each is.")] = False,
) -> None:
    """Reproduce Auto-Encoding Variational Bayes. Interrupted, it goes on where it was when it is called again."""
    if threads is not None:
        torch.set_num_threads(threads)
    for name in names or []:
        if name not in FIGURES:
            raise typer.BadParameter(f"{name!r}: expected {', '.join(FIGURES)}")
    folder = runs or Path("runs") / ("paper-quick" if quick else "paper")
    results = folder / "results" if quick else ROOM / "results"
    size = Size(quick, min(samples, 5e4) if quick else samples, folder, results)
    modules = {name: importlib.import_module(f"{__package__}.{name}") for name in FIGURES}
    chosen = {name: modules[name] for name in names or FIGURES}
    if list_:
        for name, module in chosen.items():
            for cell in module.cells(size):
                print(f"{name:<17} {cell.name:<28} {bench_of(name, cell.name, size).found.get('seconds', 0):>10.0f} s")
        return
    failures = 0
    try:
        for name, module in {} if draw else chosen.items():
            failures += work_through(name, module, size, only)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    for name, module in chosen.items():
        for picture, drawn in module.pictures(found_of(name, module, size)).items():
            save_figure(size.results / name / picture, drawn)
    page = size.results / "paper.md" if quick else ROOM.parent / "docs" / "paper.md"
    found = {name: found_of(name, module, size) for name, module in modules.items()}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(markdown(page, modules, found, size), encoding="utf-8")
    print(f"{page} and {write_html(page, folder)}")
    sys.exit(1 if failures else 0)


def bench_of(name: str, cell: str, size: Size) -> Bench:
    """Where a cell is worked through."""
    return Bench(size, size.runs / name / cell, size.results / name / f"{cell}.json")


def found_of(name: str, module: ModuleType, size: Size) -> Found:
    """What the cells of a figure found so far."""
    found = {cell.name: bench_of(name, cell.name, size).found for cell in module.cells(size)}
    return {cell: values for cell, values in found.items() if values}


def work_through(name: str, module: ModuleType, size: Size, only: str) -> int:
    """Work through a figure's cells; the number that failed, of which the message was shown."""
    failures = 0
    for cell in module.cells(size):
        if not cell.name.startswith(only):
            continue
        started = time.perf_counter()
        print(f"{name}: {cell.name}", flush=True)
        try:
            cell.work(bench_of(name, cell.name, size))
        except PpvaeError as error:  # one cell's data may be absent where the others' are there
            failures += 1
            print(f"{name}: {cell.name} failed: {error}", file=sys.stderr)
        else:
            print(f"{name}: {cell.name} took {time.perf_counter() - started:.0f} s", flush=True)
    return failures


if __name__ == "__main__":
    typer.run(main)
