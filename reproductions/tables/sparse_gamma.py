"""A sparse gamma deep exponential family of Olivetti faces, a pair of one's own with priors over its weights."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from ppvae.data import load
from ppvae.inference import TrainingState, fit
from ppvae.report.figures.theme import LIGHT

from .sparse_gamma_pair import SparseGamma
from ..cells import Bench, Cell, Found, Pictures, Size
from ..pages import table
from ..training import Saves

TITLE = "Sparse gamma deep exponential family on Olivetti faces"
WORDS = """Three layers of 100, 40 and 15 gamma latents of concentration 0.1, gamma(0.1, 0.3) priors over all weights,
Poisson grey levels of 0 to 255; 320 faces, all at every iteration. The guide is a product of gammas, of every weight
and of every datum's latents, and the bound pays for both; it is of all training data, averaged over the last tenth of
the iterations. Adam with three step sizes; the published optimiser is another, and starts elsewhere."""
PUBLISHED = {1: -8.10e7, 10: -1.352e7, 100: -1.0297e7, 1000: -7.313e6}  # the first before any step
AT = tuple(PUBLISHED)
RATES = (0.1, 0.3, 0.5)
WIDTHS = {"top": 15, "middle": 40, "bottom": 100}


def cells(size: Size) -> list[Cell]:
    """A step size each."""
    source = "digits" if size.quick else "olivetti-faces"
    return [Cell(f"{source}-{rate}", partial(work, source, rate)) for rate in RATES]


def work(source: str, rate: float, bench: Bench) -> None:
    """All data at every iteration; the bound at those that have a published one."""
    data, path = load(source, binarize="none"), Path(bench.folder) / "state.pt"
    data = data.take(50) if bench.size.quick else data
    torch.manual_seed(0)
    widths = {name: width // 5 for name, width in WIDTHS.items()} if bench.size.quick else WIDTHS
    pair = SparseGamma(len(data), data.members["x"].shape[1], widths)

    def keep(state: TrainingState) -> None:
        if state.epoch in AT:
            last = [row["elbo_train"] * len(data) for row in state.history[-math.ceil(state.epoch / 10) :]]
            bench.keep(bounds=bench.found.get("bounds", {}) | {str(state.epoch): sum(last) / len(last)})

    fit(
        pair,
        (data.members["x"] * (16 if bench.size.quick else 255)).round(),
        learning_rate=rate,
        num_epochs=100 if bench.size.quick else 1000,
        batch_size=None,
        callbacks=[keep, Saves(path)],
        resume=torch.load(path, weights_only=True) if path.exists() else None,
    )
    bench.keep(rate=rate, seed=0, data=data.fingerprint())


def pictures(found: Found) -> Pictures:
    """The bound by iteration."""
    return {"bound": partial(draw, found)} if any("bounds" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A curve for each step size, and the published points."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for cell, colour in zip(found.values(), (LIGHT.first, LIGHT.second, LIGHT.ink), strict=False):
        axes.plot(
            AT,
            [-cell["bounds"].get(str(at), math.nan) for at in AT],
            "-o",
            color=colour,
            label=f"step size {cell['rate']}",
        )
    axes.plot(AT, [-PUBLISHED[at] for at in AT], "x", color=LIGHT.ink, label="published")
    axes.set(xscale="log", yscale="log", xlabel="iteration", ylabel="-ELBO of all data, nats")
    axes.set_xticks(AT, [f"{at:,}" for at in AT])
    axes.set_yticks(levels := (6e6, 1e7, 2e7, 4e7, 8e7), [f"{level / 1e6:.0f} million" for level in levels])
    axes.minorticks_off()
    axes.legend()
    return figure


def page(found: Found) -> str:
    """A row for each step size."""
    rows = [("published", *(f"{PUBLISHED[at]:.4g}" for at in AT))]
    for cell in found.values():
        rows.append((cell["rate"], *(f"{cell['bounds'].get(str(at), math.nan):.4g}" for at in AT)))
    return "\n\n".join([WORDS, table(("step size", *(f"iteration {at}" for at in AT)), rows)])
