"""Write the report of a run: its figures as files, and one page that shows them with every number."""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .page import fill, number
from .tables import aggregate_table, check_table, evaluation_table, simulation_table
from ..figures.checks import CHECKED, checked
from ..figures.compared import COMPARED, compared
from ..figures.images import as_images
from ..figures.pictures import Picture, pictures_of
from ..figures.theme import LABELS
from ..findings import FINE, ReportData, find, kind_of, on_common_data, tightest
from ... import __version__
from ...runs import Run
from ...runs.storage.atomic import make_folder, write_bytes, write_text
from ...runs.storage.folder import REPORT_LOCK, hold_lock


def write_report(
    run: Run, *, out: Path | None = None, seed: int = 0, device: str = "auto", chains_for: int = 0
) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into the run folder.

    Args:
        run: the run.
        out: where the page goes instead.
        seed: of samples.
        device: "auto", "cpu", "cuda".
        chains_for: for so many data HMC chains are run and their trace and ranks shown; it takes some seconds.

    Returns:
        the path of the page.

    Raises:
        RunError: the folder cannot be written, or another process writes the report of this run.
    """
    with hold_lock(run.folder, REPORT_LOCK):
        run.folder.sweep_report()
        return _write(run, find(run, seed=seed, device=device, chains_for=chains_for), out)


def _write(run: Run, found: ReportData, out: Path | None) -> Path:
    pictures = {**pictures_of(found), **checked(found), **compared(found)}
    folder = run.folder.figures
    make_folder(folder)
    for picture in pictures.values():
        if picture.name in COMPARED:
            continue  # their files stand in the folder of the comparison
        write_bytes(folder / f"{picture.name}.png", picture.light)
    path = run.folder.report if out is None else out
    write_text(path, render(found, pictures))
    return path


def render(found: ReportData, pictures: Mapping[str, Picture]) -> str:
    """The page of one run."""
    run = found.run
    return fill(
        "run.html",
        title=f"{run.recipe.model_name} on {run.data.name}",
        run=run,
        recipe=run.recipe,
        info=run.info,
        folder=repr(str(run.folder.path)),
        tiles=_headline(found),
        evaluation=evaluation_table(found.evaluation),
        simulation=simulation_table(found.evaluation),
        pictures=pictures,
        walk=_walk(found),
        kind=found.kind,
        checks=check_table(found),
        aggregate=aggregate_table(found),
        commands=_commands(found),
        notes=found.notes,
        version=__version__,
        date=time.strftime("%Y-%m-%d"),
        CHECKED=CHECKED,
        COMPARED=COMPARED,
    )


def _headline(found: ReportData) -> list[dict[str, Any]]:
    """The large numbers: each with its name, its error where it has one, and a note."""
    tiles: list[dict[str, Any]] = []
    rows, count = on_common_data(found)
    part = ""
    if found.evaluation is not None:
        data = found.evaluation["data"]
        part = f"{data['num_data']} {kind_of(data['part'])} data"
        if count < data["num_data"]:
            part = f"{count} of {part} that every method can be trusted on"
    best_bound = tightest(rows)
    # Beside the bound, the tightest lower one and the one that is on no side, if there are such.
    chosen = [row for row in rows if row["key"] == "elbo" or row is best_bound]
    chosen += [row for row in rows if row["side"] in ("exact", "consistent")][-1:]
    for row in chosen:
        side = f"{row['side']} bound" if row["side"] in ("lower", "upper") else row["side"]
        note = f"{'tightest ' if row is best_bound else ''}{side}, {part}"
        tiles.append({"name": row["label"], "value": row["mean"], "error": row["monte_carlo_error"], "note": note})
    history = found.run.history
    best = found.run.info.get("best_epoch")
    if history:
        row = history[best - 1] if best else history[-1]
        key = "validation" if "elbo_validation" in row else "train"
        note = f"epoch {int(row['epoch'])} of {len(history)}"
        tiles.append({"name": f"ELBO, {key}", "value": row[f"elbo_{key}"], "note": note})
    return tiles


def _commands(found: ReportData) -> list[tuple[str, str]]:
    """What is to be called to have the numbers again, and what it gives."""
    run = found.run
    pair = f" --pair {run.recipe.model['pair']}" if "pair" in run.recipe.model else ""
    threads = f" --threads {run.info['threads']}" if "threads" in run.info else ""
    return [
        ("the trained model", f"ppvae fit {run.folder.recipe} --out NEW_FOLDER{threads}{pair}"),
        *(
            (f"{row['label']} = {number(row['mean_of_all'], 3)}, of all data", row["command"] + pair)
            for row in ([] if found.evaluation is None else found.evaluation["estimates"])
        ),
        ("this page", f"ppvae report {run.folder.path}{pair}"),
    ]


def _walk(found: ReportData) -> dict[str, Any] | None:
    """The interactive manifold, where there are two latent dimensions and pictures."""
    if found.fine is None or found.latents is None or found.fine_range is None:
        return None
    images = as_images(found.fine.flatten(0, 1), found.data)
    if images is None:
        return None
    ink = images.dim() == 3
    if not ink and bool((images[..., :1] == images).all()):
        images = images[..., 0]
    if images.numel() > 3_000_000:
        return None
    labels = found.labels
    place = {} if labels is None else {value: i for i, value in enumerate(labels.unique().tolist())}
    points = [
        [round(float(a), 3), round(float(b), 3), 0 if labels is None else place[labels[i].item()]]
        for i, (a, b) in enumerate(found.latents[:1000].tolist())
    ]
    content: bytes = (images * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    return {
        "size": FINE,
        "height": images.shape[1],
        "width": images.shape[2],
        "channels": 1 if images.dim() == 3 else 3,
        "ink": ink,
        "range": found.fine_range,
        "images": base64.b64encode(content).decode("ascii"),
        "points": points,
        "colours": LABELS,
    }
