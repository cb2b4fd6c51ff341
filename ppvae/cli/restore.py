"""``ppvae restore``: held-out data damaged, and restored by the model."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .common import (
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
    require_writable,
    threads,
    verb,
)
from .completion import REGIONS, among

if TYPE_CHECKING:
    from ..report.restored import Restored

Task = Literal["inpaint", "super-resolve", "denoise"]


@verb
def restore(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    task: Annotated[
        Task,
        typer.Option(
            help="inpaint: a part is hidden (--mask); super-resolve: every k-th pixel is seen (--factor); denoise: all "
            "is seen through noise (--noise)."
        ),
    ] = "inpaint",
    mask: Annotated[
        str | None,
        typer.Option(
            help="What is hidden: left, right, top, bottom (halves), box (the middle), random:0.5 (each entry with "
            "that probability), or a .npy file of 1 where seen and 0 where hidden, for one datum or for each.",
            autocompletion=among(*REGIONS, "random:0.5"),
            show_default="left",
        ),
    ] = None,
    factor: Annotated[
        int | None, typer.Option(help="One pixel of every k x k is seen.", min=2, show_default="2", metavar="K")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="Probability that a binary value is flipped, or standard deviation of what is added to a real one.",
            show_default="0.1",
        ),
    ] = None,
    num_data: Annotated[int, typer.Option("--num-data", "-n", help="The first so many data.", min=1)] = 10,
    draws: Annotated[int, typer.Option(help="Draws from the posterior to show or keep.", min=0, max=1000)] = 3,
    steps: Annotated[
        int, typer.Option(help="Of each of the eight chains of a datum; the first half are its burn-in.", min=4)
    ] = 300,
    part: Part = None,
    which: Which = "result",
    pair: Pair = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads_: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="A .png file or an .npz of all arrays; RUN/restored.png, or .npz if the data are no pictures."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Damage held-out data and restore them: the posterior of what is hidden, given what is seen.

    A picture shows of each datum the truth, what is seen, posterior mean, draws and standard deviation.

    A table has the error over what is not seen, beside that of the training mean and the nearest training datum.
    """
    from ..core.errors import RunError, try_one_of
    from ..report.figures.images import shaped
    from ..report.figures.restored import restored_picture
    from ..report.restored import restore as run_restore
    from ..runs import load_run
    from ..runs.storage.atomic import write_bytes

    for name, value, of in (
        ("--mask", mask, "inpaint"),
        ("--factor", factor, "super-resolve"),
        ("--noise", noise, "denoise"),
    ):
        if value is not None and task != of:
            raise typer.BadParameter(f"{name} is for --task {of}, found --task {task}", param_hint=name)
    if out is not None and out.suffix not in (".png", ".npz"):
        raise RunError(f"--out {out}: expected a .png or .npz file" + try_one_of(f"--out {out.with_suffix('.png')}"))
    hidden = _hidden(mask or "left")
    if out is not None:
        require_writable(out)
    with threads(threads_):
        trained_run = load_run(run, pair=pair_of(pair), which=which, force=force)
        first = trained_run.data.take(1)
        drawable = shaped(first.members[first.main], first) is not None
        path = out or run / ("restored.png" if drawable else "restored.npz")
        if path.suffix == ".png" and not drawable:
            raise RunError(
                f"--out {path}: {first.name} has no image_shape, so it is no picture"
                + try_one_of(f"--out {path.with_suffix('.npz')}")
            )
        require_writable(path)
        restored = run_restore(
            trained_run,
            task,
            hidden=hidden,
            factor=2 if factor is None else factor,
            noise=0.1 if noise is None else noise,
            part=part,
            num_data=num_data,
            num_draws=draws,
            num_steps=steps,
            seed=seed,
            device=device,
            progress=not json,
        )
    write_bytes(path, restored_picture(restored) if path.suffix == ".png" else _archive(restored))
    found = restored.restoration
    if json:
        emit(
            {
                "file": str(path),
                "task": task,
                "damage": restored.words,
                "data": {"name": trained_run.data.name, "part": restored.part, "num_data": len(restored.truth)},
                "num_seen": int(restored.seen.sum()),
                "num_entries": restored.seen.numel(),
                "scores": [asdict(score) for score in restored.scores],
                "acceptance": float(found.acceptance.mean()),
                "worst_r_hat": float(found.r_hat.max()),
                "num_trusted": int(found.trusted.sum()),
                "largest_standard_error": float(found.standard_error.max()),
                "seed": seed,
            }
        )
    else:
        show(restored, trained_run.data.name, trained_run.parameters)
        print(path)


def show(restored: Restored, name: str, parameters: str) -> None:
    """The table of scores, on standard output, and what the chains say of themselves."""
    from rich.console import Console
    from rich.table import Table

    seen, found = restored.seen, restored.restoration
    share = "" if bool(seen.all()) else f", {float(seen.double().mean()):.0%} of the entries seen"
    title = f"{name}, {restored.part}, {len(seen)} data; {restored.words}{share}; {parameters}"
    print(title)
    table = Table(box=None, pad_edge=False)
    binary = any(score.log_score is not None for score in restored.scores)
    table.add_column("entries that are not seen" if share else "all entries")
    for name in ("rmse", "± data", *(("log score", "± data") if binary else ())):
        table.add_column(name, justify="right")
    for score in restored.scores:
        values = [score.rmse, score.rmse_error, *((score.log_score, score.log_score_error) if binary else ())]
        table.add_row(score.name, *(_format(value) for value in values))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(table)
    print(
        f"chains agree on {int(found.trusted.sum())} of {len(seen)} data (worst R-hat {float(found.r_hat.max()):.2f}); "
        f"{float(found.acceptance.mean()):.0%} of their moves accepted; Monte Carlo error of a mean at most "
        f"{float(found.standard_error.max()):.2g}"
    )
    if not found.trusted.all():
        print("where they do not agree, more --steps bring them closer")


def _format(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:.3f}"


def _hidden(text: str) -> Any:
    """What --mask says: a region, a share of entries, or a mask, True where seen."""
    import torch

    from ..core.errors import DataError, RunError, change_remedies, did_you_mean, try_one_of
    from ..data.convert import to_tensor
    from ..data.sources import read_path

    if text in REGIONS:
        return text
    kind, _, share = text.partition(":")
    if kind == "random":
        try:
            probability = float(share or "0.5")
        except ValueError:
            probability = -1.0
        if not 0 < probability <= 1:
            raise RunError(
                f"--mask {text}: expected a share of entries to hide, in (0, 1]" + try_one_of("--mask random:0.5")
            )
        return probability
    if not text.endswith(".npy"):
        raise RunError(f"--mask {text}: {did_you_mean(text, [*REGIONS, 'random:0.5', 'FILE.npy'])}")
    try:
        found = read_path(Path(text))
        values = to_tensor(found.x, text, memory_mapped=found.memory_mapped, dtype=torch.float64)
    except DataError as error:
        raise RunError(
            f"--mask {change_remedies(str(error), lambda _: None)}"  # they are for data
            + try_one_of("numpy.save of an array of 1 where seen and 0 where hidden")
        ) from error
    if not bool(((values == 0) | (values == 1)).all()):
        raise RunError(f"--mask {text}: expected 1 where an entry is seen and 0 where it is hidden, found other values")
    return values.bool()


def _archive(restored: Restored) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: value.numpy() for name, value in restored.arrays.items()})  # type: ignore[arg-type]
    return buffer.getvalue()
