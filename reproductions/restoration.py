"""Denoising, inpainting and super-resolution of held-out digits, beside what needs no model."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from ppvae.report.figures.images import as_images
from ppvae.report.restored import Restored, restore
from ppvae.runs import load_run

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table
from .training import paper_recipe, train_as_published

TITLE = "Denoising, inpainting, super-resolution"
TASKS: dict[str, dict[str, Any]] = {
    "inpaint": {"hidden": "left"},
    "super-resolve": {"factor": 2},
    "denoise": {"noise": 0.1},
}
SHOWN = 10
WORDS = """Uses of the model that section 2.1 names. A VAE of 20 latents, trained as in figure 2 on binary pixels, and
held-out digits of which the left half is hidden, of which one pixel in four is seen, or of which every pixel is flipped
with probability 0.1. The restoration is the posterior mean of what is not seen given what is, with all latents
integrated out by Markov chains: the last column says on how many data they agree; on the others their mean is no
posterior mean, but a guess whose error is still measured. Errors are over what is not seen (over all pixels where all
are noisy), with standard errors over data; the log score is the mean log probability of a pixel's true value."""


def cells(size: Size) -> list[Cell]:
    """One net for all tasks."""
    return [Cell("digits" if size.quick else "mnist", partial(measure, "digits" if size.quick else "mnist"))]


def measure(source: str, bench: Bench) -> None:
    """Train; damage and restore the first held-out digits by each task."""
    bench.size = replace(bench.size, samples=min(bench.size.samples, 1e6))
    recipe = paper_recipe(bench.size, source, 20, {"name": "trace-mean-field"}, data={"binarize": "static"})
    recipe = recipe.replace(model={"allow_grey": False})
    train_as_published(bench, recipe, lambda *_: None)
    run = load_run(bench.folder / "run")
    scores, agree = bench.found.get("scores", {}), bench.found.get("agree", {})
    for task, options in TASKS.items():
        if task not in scores:
            found = restore(run, task, num_data=50 if bench.size.quick else 200, progress=False, **options)  # type: ignore[arg-type]
            scores[task] = [asdict(score) for score in found.scores]
            trusted = found.restoration.trusted
            agree[task] = [int(trusted.sum()), len(trusted)]
            bench.keep(scores=scores, agree=agree)
            bench.keep_figure(task, partial(draw, found))


def draw(found: Restored) -> Figure:
    """A column for each of the first digits: truth, what is seen, mean, a draw, standard deviation."""
    restoration = found.restoration
    rows = {
        "truth": found.truth,
        "seen": found.damaged.nan_to_num(0.5),
        "mean": restoration.mean,
        "a draw": restoration.draws[0],
        "st. dev.": restoration.standard_deviation / restoration.standard_deviation.max(),
        "nearest": found.others["nearest training datum"],
    }
    figure = Figure(figsize=(0.8 * SHOWN + 1, 0.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHOWN)
    for (name, values), row in zip(rows.items(), axes, strict=True):
        images = as_images(values[:SHOWN], found.data)
        assert images is not None
        for image, place in zip(images, row, strict=True):
            place.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


def pictures(found: Found) -> Pictures:
    """Drawn when the net is at hand."""
    return {}


def page(found: Found) -> str:
    """Errors of each task."""
    rows = []
    for cell, task in ((one, task) for one in found.values() for task in one.get("scores", {})):
        for score in cell["scores"][task]:
            values = [[score[key], score[f"{key}_error"]] for key in ("rmse", "log_score")]
            shown = ["" if value is None else f"{value:.4f} ± {error:.4f}" for value, error in values]
            agree = "{} of {}".format(*cell["agree"][task]) if score["name"] == "restoration" else ""
            rows.append((task, score["name"], *shown, agree))
    return "\n\n".join(
        [WORDS, table(("task", "by", "root mean squared error", "log score, nats", "chains agree"), rows)]
    )
