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
from ..figures.checks import CHECK_NAMES, check_pictures
from ..figures.comparison import COMPARISON_NAMES, comparison_pictures
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
        out: the path of the page, if not that.
        seed: of samples.
        device: "auto", "cpu", "cuda".
        chains_for: the number of data to run HMC chains for, whose trace and ranks are shown; it takes some seconds.

    Returns:
        the path of the page.

    Raises:
        RunError: the folder cannot be written, or another process writes the report of this run.
    """
    with hold_lock(run.folder, REPORT_LOCK):
        run.folder.sweep_report()
        return _write(run, find(run, seed=seed, device=device, chains_for=chains_for), out)


def _write(run: Run, report: ReportData, out: Path | None) -> Path:
    pictures = {**pictures_of(report), **check_pictures(report), **comparison_pictures(report)}
    folder = run.folder.figures
    make_folder(folder)
    for picture in pictures.values():
        if picture.name in COMPARISON_NAMES:
            continue  # their files are in the folder of the comparison
        write_bytes(folder / f"{picture.name}.png", picture.light)
    path = run.folder.report if out is None else out
    write_text(path, render(report, pictures))
    return path


def render(report: ReportData, pictures: Mapping[str, Picture]) -> str:
    """The page of one run."""
    run = report.run
    return fill(
        "run.html",
        title=f"{run.recipe.model_name} on {run.data.name}",
        run=run,
        recipe=run.recipe,
        info=run.info,
        folder=repr(str(run.folder.path)),
        tiles=_headline(report),
        evaluation=evaluation_table(report.evaluation),
        simulation=simulation_table(report.evaluation),
        pictures=pictures,
        walk=_walk(report),
        kind=report.kind,
        checks=check_table(report),
        aggregate=aggregate_table(report),
        commands=_commands(report),
        notes=report.notes,
        version=__version__,
        date=time.strftime("%Y-%m-%d"),
        CHECKED=CHECK_NAMES,
        COMPARED=COMPARISON_NAMES,
    )


def _headline(report: ReportData) -> list[dict[str, Any]]:
    """The headline numbers: each with its name, its error where it has one, and a note."""
    tiles: list[dict[str, Any]] = []
    rows, count = on_common_data(report)
    part = ""
    if report.evaluation is not None:
        data = report.evaluation["data"]
        part = f"{data['num_data']} {kind_of(data['part'])} data"
        if count < data["num_data"]:
            part = f"{count} of {part} that every method can be trusted on"
    best_bound = tightest(rows)
    # Beside the bound, the tightest lower one and the one that is on no side, if there are such.
    headline_rows = [row for row in rows if row["key"] == "elbo" or row is best_bound]
    headline_rows += [row for row in rows if row["side"] in ("exact", "consistent")][-1:]
    for row in headline_rows:
        side = f"{row['side']} bound" if row["side"] in ("lower", "upper") else row["side"]
        note = f"{'tightest ' if row is best_bound else ''}{side}, {part}"
        tiles.append({"name": row["label"], "value": row["mean"], "error": row["monte_carlo_error"], "note": note})
    history = report.run.history
    best = report.run.info.get("best_epoch")
    if history:
        row = history[best - 1] if best else history[-1]
        key = "validation" if "elbo_validation" in row else "train"
        note = f"epoch {int(row['epoch'])} of {len(history)}"
        tiles.append({"name": f"ELBO, {key}", "value": row[f"elbo_{key}"], "note": note})
    return tiles


def _commands(report: ReportData) -> list[tuple[str, str]]:
    """Each result of the page and the command that repeats it."""
    run = report.run
    pair = f" --pair {run.recipe.model['pair']}" if "pair" in run.recipe.model else ""
    threads = f" --threads {run.info['threads']}" if "threads" in run.info else ""
    return [
        ("the trained model", f"ppvae fit {run.folder.recipe} --out NEW_FOLDER{threads}{pair}"),
        *(
            (f"{row['label']} = {number(row['mean_of_all'], 3)}, of all data", row["command"] + pair)
            for row in ([] if report.evaluation is None else report.evaluation["estimates"])
        ),
        ("this page", f"ppvae report {run.folder.path}{pair}"),
    ]


def _walk(report: ReportData) -> dict[str, Any] | None:
    """The interactive manifold, where there are two latent dimensions and pictures."""
    if report.fine is None or report.latents is None or report.fine_range is None:
        return None
    images = as_images(report.fine.flatten(0, 1), report.data)
    if images is None:
        return None
    ink = images.dim() == 3
    if not ink and bool((images[..., :1] == images).all()):
        images = images[..., 0]
    if images.numel() > 3_000_000:
        return None
    labels = report.labels
    place = {} if labels is None else {value: i for i, value in enumerate(labels.unique().tolist())}
    points = [
        [round(float(a), 3), round(float(b), 3), 0 if labels is None else place[labels[i].item()]]
        for i, (a, b) in enumerate(report.latents[:1000].tolist())
    ]
    content: bytes = (images * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    return {
        "size": FINE,
        "height": images.shape[1],
        "width": images.shape[2],
        "channels": 1 if images.dim() == 3 else 3,
        "ink": ink,
        "range": report.fine_range,
        "images": base64.b64encode(content).decode("ascii"),
        "points": points,
        "colours": LABELS,
    }
