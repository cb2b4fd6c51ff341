"""``ppvae sample``: new data from a trained run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Force, Json, Pair, Seed, Threads, emit, pair_of, require_writable, threads, verb


@verb
def sample(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    num: Annotated[int, typer.Option("--num", "-n", help="How many.", min=1)] = 64,
    kind: Annotated[str, typer.Option(help="mean (of p(x | z), z from the prior) or sample.")] = "mean",
    pair: Pair = None,
    force: Force = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads_: Threads = None,
    out: Annotated[Path | None, typer.Option(help="A .npy or .png file; RUN/samples.npy where absent.")] = None,
    json: Json = False,
) -> None:
    """Draw new data from the model: z from the prior, then the mean of p(x | z) or a draw from it."""
    import io
    import math

    import numpy as np

    from ..core.bounds import require_room
    from ..core.errors import RunError, try_one_of
    from ..inference.prediction import generate
    from ..runs import load_run
    from ..runs.storage.atomic import write_bytes

    if kind not in ("mean", "sample"):
        raise typer.BadParameter(f"--kind {kind!r}: expected mean or sample")
    path = out or run / "samples.npy"
    if path.suffix not in (".npy", ".png"):
        raise RunError(f"--out {path}: expected a .npy or .png file" + try_one_of(f"--out {path.with_suffix('.npy')}"))
    with threads(threads_):
        trained_run = load_run(run, pair=pair_of(pair), force=force)
        require_writable(path)
        size = 4 * math.prod(trained_run.data.event_shape)
        require_room(3 * num * size, f"--num {num}: {num} data of {size} bytes, drawn and written", "a smaller --num")
        x = generate(
            trained_run.pair,
            num,
            like=trained_run.data,
            kind="mean" if kind == "mean" else "sample",
            seed=seed,
            device=device,
        )
    if path.suffix == ".png":
        from ..report.figures.images import picture_of

        content = picture_of(x, trained_run.data)
    else:
        buffer = io.BytesIO()
        np.save(buffer, x.numpy(), allow_pickle=False)
        content = buffer.getvalue()
    write_bytes(path, content)
    if json:
        emit({"file": str(path), "shape": list(x.shape), "kind": kind, "seed": seed})
    else:
        print(f"{path}: {num} data of shape {list(x.shape[1:])}")
