"""``ppvae data``: the data sets with a name."""

from __future__ import annotations

import typer

from .commands import Command, Group
from .common import Json, emit, verb
from .listing import print_list

app = typer.Typer(help="Data sets.", no_args_is_help=True, cls=Group)


@app.callback()
def root() -> None:
    """Data sets: which there are, and where their files are searched."""


@app.command("list", cls=Command, epilog="Example: ppvae data list --json")
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
    print_list((one.name, one.description, f"{_sizes(one.sizes)}; {one.where}") for one in entries)


def _sizes(sizes: tuple[int, int, int]) -> str:
    return ", ".join(
        f"{size} {part}" for part, size in zip(("train", "validation", "test"), sizes, strict=True) if size
    )
