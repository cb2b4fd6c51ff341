"""Pictures of each class, and of layers of latents that are held while the lower ones are drawn again."""

from __future__ import annotations

from .images import as_images
from .picture import Picture, tiles
from ..findings import ReportData
from ..layers import REDRAWN


def class_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures of these, by name."""
    pictures = (_by_class(report), *_layers(report))
    return {picture.name: picture for picture in pictures if picture is not None}


def _by_class(report: ReportData) -> Picture | None:
    found = report.classes
    images = None if found is None else as_images(found.samples.flatten(0, 1), report.data)
    if found is None or images is None:
        return None
    rows, columns = found.samples.shape[:2]
    numbered = ", ".join(found.names)
    what = f"one value of {found.name} a row, from above: {numbered}"
    said = (
        "The model has found these classes by itself, and their numbers are names: a row of several kinds is a class "
        "that these share, two rows of one kind are one kind that was parted."
        if found.kind == "found"
        else "A row should be of its class, and vary in what is left, such as style."
    )
    weighted = (
        ""
        if found.effective_sample_size is None
        else f" Draws of the prior, weighted by p({found.name} | z): worth {found.effective_sample_size:.0f} or more "
        "independent ones for each row."
    )
    lost = f" Not shown, too few draws: {', '.join(found.left_out)}." if found.left_out else ""
    return tiles(
        "class_samples",
        "New data of each class",
        f"Grid of {rows} rows of {columns} images that the model makes, one class a row.",
        f"The mean of p(x | z, {found.name}) for z from p(z | {found.name}), {what}. {said}{weighted}{lost}",
        images,
        columns,
        size=36,
    )


def _layers(report: ReportData) -> list[Picture]:
    pictures = []
    for found in report.layers:
        images = as_images(found.means.flatten(0, 1), report.data)
        if images is None:
            continue
        held, drawn = ", ".join(found.sites), ", ".join(found.redrawn)
        decided = f"{found.share:.0%} ± {2 * found.share_error:.0%} (two standard errors)"
        pictures.append(
            tiles(
                f"layers_{len(found.sites)}",
                f"{held} held, {drawn} drawn again",
                f"Grid of {len(found.means)} rows of {REDRAWN} decoded images that share their upper latents.",
                f"In each row {held} is one draw from the prior, and {drawn} is drawn again in each column; the mean "
                f"of p(x | z). What stays the same along a row is what {held} decides: {decided} of the variance of "
                "these means. Rows that are alike say that it decides nothing.",
                images,
                REDRAWN,
                size=36,
            )
        )
    return pictures
