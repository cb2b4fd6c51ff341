"""``ppvae data``: the data sets with a name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .commands import Command, Group
from .common import Json, emit, say, verb
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


@app.command("convert", cls=Command, epilog="Example: ppvae data convert part1.parquet part2.parquet rows.npy")
@verb
def convert(
    sources: Annotated[list[Path], typer.Argument(help="Parquet files of one schema, in their order.")],
    target: Annotated[Path, typer.Argument(help="The .npy file to write.")],
    json: Json = False,
) -> None:
    """Write tables larger than memory to a .npy file, which is mapped and read as training needs its rows."""
    import numpy as np

    from ..data import write_npy

    path = write_npy(sources, target)
    shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    say(f"wrote {path}, {' x '.join(map(str, shape))}")
    if json:
        emit({"path": path, "shape": shape})


def _sizes(sizes: tuple[int, int, int]) -> str:
    return ", ".join(
        f"{size} {part}" for part, size in zip(("train", "validation", "test"), sizes, strict=True) if size
    )
