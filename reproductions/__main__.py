"""Work through the cells of the paper's figures, draw them, and write the page: ``python -m reproductions --help``."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
import typer

from ppvae.core import PpvaeError

from .cells import Bench, Found, Size, save_figure
from .pages import Page, markdown, write_html

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
TABLES = (
    "dynamic_mnist",
    "semi_supervised",
    "planar_flows",
    "nvdm",
    "sparse_gamma",
    "chorales",
    "binary_latents",
)
PAGES = {
    "paper": Page("The paper, figure by figure", "paper", FIGURES),
    "tables": Page("Published tables", "tables", TABLES),
}


def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(help=f"paper, tables, or of {', '.join((*FIGURES, *TABLES))}; the paper where absent."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="On the bundled digits, in minutes.")] = False,
    samples: Annotated[float, typer.Option(help="Training data seen by the end of a run.", min=1000)] = 1e7,
    only: Annotated[str, typer.Option(help="Cells whose names begin so.")] = "",
    runs: Annotated[Path | None, typer.Option(help="Folder of the run folders that are gone on from.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of PyTorch.", min=1)] = None,
    draw: Annotated[bool, typer.Option("--draw", help="No experiment: pictures and page of what was found.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="The cells, and how far each is.")] = False,
) -> None:
    """Reproduce the paper, or published tables. Interrupted, it goes on where it was when it is called again."""
    if threads is not None:
        torch.set_num_threads(threads)
    chosen: dict[str, ModuleType] = {}
    for name in names or ["paper"]:
        if name not in (*PAGES, *FIGURES, *TABLES):
            raise typer.BadParameter(f"{name!r}: expected {', '.join((*PAGES, *FIGURES, *TABLES))}")
        chosen |= modules_of(PAGES[name].names if name in PAGES else (name,))
    folder = runs or Path("runs") / ("paper-quick" if quick else "paper")
    results = folder / "results" if quick else ROOM / "results"
    size = Size(quick, min(samples, 5e4) if quick else samples, folder, results)
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
    for page in PAGES.values():
        if not set(page.names) & set(chosen):
            continue
        path = size.results / f"{page.stem}.md" if quick else ROOM.parent / "docs" / f"{page.stem}.md"
        modules = modules_of(page.names)
        found = {name: found_of(name, module, size) for name, module in modules.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(markdown(page, path, modules, found, size), encoding="utf-8")
        print(f"{path} and {write_html(path, folder)}")
    sys.exit(1 if failures else 0)


def modules_of(names: Iterable[str]) -> dict[str, ModuleType]:
    """The files of figures and tables by name."""
    return {n: importlib.import_module(f"{__package__}.{'tables.' if n in TABLES else ''}{n}") for n in names}


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
