"""Write the report of a run: its figures as files, and one page that shows them with every number."""

from __future__ import annotations

import base64
import shlex
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup

from .page import fill
from .tables import (
    aggregate_table,
    check_table,
    evaluation_table,
    filled_table,
    layers_table,
    site_table,
    time_table,
    topics_table,
)
from .verdict import over, verdict, warnings
from ..common_data import on_common_data, tightest
from ..described import described
from ..figures.checks import CHECK_NAMES, check_pictures
from ..figures.classes import class_pictures
from ..figures.comparison import COMPARISON_NAMES, comparison_pictures
from ..figures.counts import COUNT_NAMES, count_pictures
from ..figures.decoded import decoded_pictures
from ..figures.discrete import DISCRETE_NAMES, discrete_pictures
from ..figures.filled import FILLED_NAMES, filled_pictures
from ..figures.images import as_images
from ..figures.picture import Picture, of_names
from ..figures.pictures import pictures_of
from ..figures.sequences import SEQUENCE_NAMES, sequence_pictures
from ..figures.theme import LABELS
from ..findings import FINE, ReportData, find
from ... import __version__
from ...runs import Run, load_run
from ...runs.storage.atomic import make_folder, write_bytes, write_text
from ...runs.storage.folder import REPORT_LOCK, hold_lock
from ...runs.training.provenance import command
from ...runs.training.segments import describe

_LEARNT = (
    *("reconstructions", "samples", "manifold", "traversals", "latents", "interpolations", "class_samples", "by_class"),
    *("layers", "neighbours", "kl_per_dimension"),
)
_LARGEST_DATA = 600_000  # bytes of the data's own pictures in the page


def write_report(
    run: Run | Path | str, *, out: Path | None = None, seed: int = 0, device: str = "auto", chains_for: int = 0
) -> Path:
    """Write ``figures/*.png`` and ``report.html`` into the run folder, or the page alone to another place.

    Args:
        run: the run, or its folder, which :func:`ppvae.runs.load_run` reads.
        out: the path of the page, if not that; then nothing is written into the run folder.
        seed: of samples.
        device: "auto", "cpu", "cuda".
        chains_for: the number of data to run HMC chains for, whose trace and ranks are shown; it takes some seconds.

    Returns:
        the path of the page.

    Raises:
        RunError: the folder cannot be written, or another process writes the report of this run.
    """
    run = run if isinstance(run, Run) else load_run(run)
    with nullcontext() if out is not None else hold_lock(run.folder, REPORT_LOCK):
        if out is None:
            run.folder.sweep_report()
        report = find(run, seed=seed, device=device, chains_for=chains_for)
        pictures = {
            **pictures_of(report),
            **decoded_pictures(report),
            **discrete_pictures(report),
            **class_pictures(report),
            **sequence_pictures(report),
            **count_pictures(report),
            **filled_pictures(report),
            **check_pictures(report),
            **comparison_pictures(report),
        }
        if out is None:
            _write_figures(run.folder.figures, pictures)
        path = run.folder.report if out is None else out
        write_text(path, render(report, pictures, out))
        return path


def _write_figures(folder: Path, pictures: Mapping[str, Picture]) -> None:
    make_folder(folder)
    for picture in pictures.values():
        if picture.name not in COMPARISON_NAMES:  # their files are in the folder of the comparison
            write_bytes(folder / f"{picture.name}.png", picture.png())


def render(report: ReportData, pictures: Mapping[str, Picture], out: Path | None = None) -> str:
    """The page of one run."""
    run = report.run
    return fill(
        "run.html",
        title=f"{run.recipe.model_name} on {run.data.name}",
        run=run,
        recipe=run.recipe,
        info=run.info,
        folder=repr(str(run.folder.path)),
        verdict=verdict(report),
        warnings=warnings(report),
        tiles=_headline(report),
        evaluation=evaluation_table(report.evaluation),
        more_evaluations=[evaluation_table(one) for one in report.more_evaluations],
        stale_evaluations=report.stale_evaluations,
        pictures=pictures,
        walk=_walk(report),
        kind=report.kind,
        described=_described(run),
        sites=site_table(report),
        topics=topics_table(report),
        layers=layers_table(report),
        filled=filled_table(report),
        checks=check_table(report),
        aggregate=aggregate_table(report),
        times=time_table(report),
        segments=[describe(segment) for segment in run.info.get("segments", [])],
        commands=_commands(report, out),
        notes=report.notes,
        version=__version__,
        date=time.strftime("%Y-%m-%d"),
        LEARNT=of_names(pictures, _LEARNT),
        CHECKED=of_names(pictures, CHECK_NAMES),
        COMPARED=COMPARISON_NAMES,
        DISCRETE=DISCRETE_NAMES,
        SEQUENCES=SEQUENCE_NAMES,
        COUNTS=COUNT_NAMES,
        FILLED=FILLED_NAMES,
    )


def _headline(report: ReportData) -> list[dict[str, Any]]:
    """The headline numbers: each with its name, its error where it has one, and a note."""
    tiles: list[dict[str, Any]] = []
    rows, count = on_common_data(report.evaluation)
    part = "" if report.evaluation is None else f"{over(report.evaluation, count)} data"
    best_bound = tightest(rows)
    # Beside the bound, the tightest lower one and the one that is on no side, if there are such.
    headline_rows = [row for row in rows if row["method"] == "elbo" or row is best_bound]
    headline_rows += [row for row in rows if row["side"] in ("exact", "consistent") and row["vouched"]][-1:]
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


def _described(run: Run) -> dict[str, Any] | None:
    """Graph and formulas of a model that is a description; None of another."""
    pair = described(run.pair)
    if pair is None:
        return None
    drawing = pair.graph(len(run.data)).to_svg(standalone=False)
    return {"drawing": Markup(drawing), "formulas": list(pair.description.formulas().values())}


def _commands(report: ReportData, out: Path | None) -> list[tuple[str, str]]:
    """Each result of the page and the command that repeats it."""
    run = report.run
    pair = ["--pair", str(run.recipe.model["pair"])] if "pair" in run.recipe.model else []
    threads = ["--threads", str(run.info["threads"])] if "threads" in run.info else []
    page = ["--seed", str(report.seed), "--device", report.device, "--threads", str(torch.get_num_threads())]
    page += ["--chains", str(report.chains_for)] if report.chains_for else []
    page += [] if out is None else ["--out", str(out)]
    rows = [
        (
            f"{row['label']} of {one.data['num_data']} {one.data['part']} data",
            row,
        )
        for one in (report.evaluation, *report.more_evaluations)
        if one is not None
        for row in one.rows
    ]
    fit = [
        *command(int(run.info.get("processes", 1))),
        "fit",
        str(run.folder.recipe),
        "--out",
        "NEW_FOLDER",
        *threads,
        *pair,
    ]
    # One command has one recipe.
    changed = bool(run.info.get("segments"))
    model = (
        "a model of the last recipe alone, not this one, which was changed on the way"
        if changed
        else "the trained model"
    )
    return [
        (model, shlex.join(fit)),
        *((name, _with_pair(str(row["command"]), pair)) for name, row in rows),
        ("this page", shlex.join(["ppvae", "report", str(run.folder.path), *page, *pair])),
    ]


def _with_pair(command: str, pair: list[str]) -> str:
    """A command of an evaluation, which names the file of a pair of one's own where it was given one."""
    return command if " --pair " in command or not pair else f"{command} {shlex.join(pair)}"


def _walk(report: ReportData) -> dict[str, Any] | None:
    """The interactive manifold, where there are two latent dimensions and pictures."""
    latents = next((found.latents for found in report.latent.values()), None)
    if report.fine is None or latents is None or report.fine_range is None:
        return None
    shown = latents[:1000]
    images = as_images(report.fine.flatten(0, 1), report.data)
    data = as_images(report.x[: len(shown)], report.data)
    if images is None or data is None:
        return None
    ink = images.dim() == 3
    if not ink and bool((images[..., :1] == images).all()) and bool((data[..., :1] == data).all()):
        images, data = images[..., 0], data[..., 0]
    if images.numel() > 3_000_000:
        return None
    labels = report.labels if report.labels is not None and report.labels.dim() == 1 else None
    kinds = [] if labels is None else labels.unique().tolist()
    place = {value: i for i, value in enumerate(kinds)}
    points = [
        [round(float(a), 3), round(float(b), 3), 0 if labels is None else place[labels[i].item()]]
        for i, (a, b) in enumerate(shown.tolist())
    ]
    return {
        "size": FINE,
        "height": images.shape[1],
        "width": images.shape[2],
        "channels": 1 if images.dim() == 3 else 3,
        "ink": ink,
        "range": report.fine_range,
        "images": _bytes(images),
        "data": _bytes(data[: max(1, _LARGEST_DATA // data[0].numel())]),
        "points": points,
        "labels": [f"{kind:g}" for kind in kinds] if 1 < len(kinds) <= 30 else [],
        "colours": LABELS,
    }


def _bytes(images: torch.Tensor) -> str:
    content: bytes = (images * 255).round().to(torch.uint8).contiguous().numpy().tobytes()
    return base64.b64encode(content).decode("ascii")
