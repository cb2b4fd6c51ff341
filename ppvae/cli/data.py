"""``ppvae data``: the data sets with a name."""

from __future__ import annotations

import typer

from .common import Json, emit, verb

app = typer.Typer(help="Data sets.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Data sets: which there are, and where their files are searched."""


@app.command("list", epilog="Example: ppvae data list --json")
@verb
def list_(json: Json = False) -> None:
    """The data sets that have a name: what each is, its size, and whether it is here."""
    from ..data import available

    entries = available()
    if json:
        emit(
            [
                {**vars(one), "sizes": dict(zip(("train", "validation", "test"), one.sizes, strict=True))}
                for one in entries
            ]
        )
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("name", "train/validation/test", "here", "what, where"):
        table.add_column(name, overflow="fold")
    for one in entries:
        sizes = "/".join(str(size) for size in one.sizes)
        table.add_row(one.name, sizes, "yes" if one.found else "no", f"{one.description}; {one.where}")
    Console().print(table)
