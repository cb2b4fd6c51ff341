"""The figures of decoded points: traversals, interpolations, samples beside their nearest training data."""

from __future__ import annotations

import torch

from .charts import dimensions_of
from .images import as_images
from .picture import Picture, tiles
from ..findings import NUM_NEIGHBOURS, ReportData

_SHOWN = 24  # samples beside their neighbours


def decoded_pictures(report: ReportData) -> dict[str, Picture]:
    """The pictures that this run has, by name."""
    pictures = (_traversals(report), _interpolations(report), _by_class(report), _neighbours(report))
    return {picture.name: picture for picture in pictures if picture is not None}


def _traversals(report: ReportData) -> Picture | None:
    images = None if report.traversals is None else as_images(report.traversals.flatten(0, 1), report.data)
    if images is None or report.traversals is None:
        return None
    rows, columns = report.traversals.shape[:2]
    (found,) = report.latent.values()
    dimensions = dimensions_of(found.site, found.shape)
    names = ", ".join(dimensions[i] for i in report.traversed)
    return tiles(
        "traversals",
        "One dimension at a time",
        f"Grid of decoded images: {rows} rows, in each of which one latent dimension changes.",
        f"In each row one dimension runs from the 1 % to the 99 % quantile of the prior, the others stay where an "
        f"average datum has them. From above: {names}, the most active first.{report.beside('that datum')}",
        images,
        columns,
        size=32,
    )


def _interpolations(report: ReportData) -> Picture | None:
    if report.interpolations is None or report.interpolated is None:
        return None
    between = as_images(report.interpolations.flatten(0, 1), report.data)
    ends = as_images(report.x[report.interpolated.flatten()], report.data)
    if between is None or ends is None:
        return None
    rows, columns = report.interpolations.shape[:2]
    between, ends = between.unflatten(0, (rows, columns)), ends.unflatten(0, (rows, 2))
    return tiles(
        "interpolations",
        "From one datum to another",
        f"Grid of {rows} rows: a datum, {columns} decoded images that change into another datum, and that datum.",
        f"First and last in each row are {report.kind} data; between them, the mean of p(x | z) on the straight line "
        f"between the means of their q(z | x).{report.beside('the first')}",
        torch.cat((ends[:, :1], between, ends[:, 1:]), 1).flatten(0, 1),
        columns + 2,
        size=32,
    )


def _by_class(report: ReportData) -> Picture | None:
    if report.by_class is None or report.recast is None:
        return None
    rows, columns = report.by_class.shape[:2]
    made = as_images(report.by_class.flatten(0, 1), report.data)
    originals = as_images(report.x[report.recast], report.data)
    if made is None or originals is None:
        return None
    return tiles(
        "by_class",
        "The same in every class",
        f"Grid of {rows} rows: a datum, and {columns} decoded images of its latents, one for each class.",
        f"First in each row is one of the {report.kind} data; beside it, the mean of p(x | z) at the mean of its "
        "q(z | x), given the covariates of each class in turn: what z holds is what stays.",
        torch.cat((originals[:, None], made.unflatten(0, (rows, columns))), 1).flatten(0, 1),
        columns + 1,
        size=32,
    )


def _neighbours(report: ReportData) -> Picture | None:
    if report.neighbours is None or report.main is None or report.main.samples is None:
        return None
    train = report.run.part("train")
    values = train.main_of(train.batch(report.neighbours[:_SHOWN]))
    samples, found = as_images(report.main.samples[:_SHOWN], report.data), as_images(values, report.data)
    if samples is None or found is None or len(samples) < _SHOWN:
        return None
    half = _SHOWN // 2
    return tiles(
        "neighbours",
        "Samples and their nearest training data",
        f"Rows of samples, below each the nearest of the training data; {_SHOWN} in all.",
        "Below each sample, the training datum nearest to it in Euclidean distance"
        + (f", of the first {NUM_NEIGHBOURS}" if len(report.run.part("train")) > NUM_NEIGHBOURS else "")
        + ". A model that has learnt its data by heart makes copies.",
        torch.cat([torch.cat((samples[part], found[part])) for part in (slice(0, half), slice(half, None))]),
        half,
        rows_in_pairs=True,
        size=36,
    )
