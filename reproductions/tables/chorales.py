"""A deep Markov model of the JSB chorales: the bound of a time slice, and the evidence by importance sampling."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ppvae.inference import elbo, evaluate_bound, evidence, log_evidence
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe

from ..cells import Bench, Cell, Found, Pictures, Size, samples_axis
from ..pages import table
from ..training import data_of, first_rows, points, train_to, xy

TITLE = "Deep Markov model on JSB chorales"
WORDS = """Pyro's settings: 100 latents a step, emission 100, transition 200, a backward GRU of 600 where Pyro has a
plain network, M = 20, Adam 3e-4 with PyTorch's own betas, the norm of a batch's gradient clipped at 10, weight of the
KL from 0.2 to 1 over the first fifth of the epochs, no dropout. Nats per time slice: sums over the 77 test sequences
over their 4,725 slices, smaller is better; Pyro's after 5,000 epochs. ± is the standard error over sequences. The bound
is of ten draws a sequence. Importance sampling by the guide is a lower bound too where its weights are too heavy, which
the number of sequences whose weights pass the check of their tail says; nobody has published it."""
PUBLISHED = {"Krishnan et al. 2017, DKS": 7.033, "the same, DMM with annealing": 6.926, "Pyro, no flow": 6.87}


def cells(size: Size) -> list[Cell]:
    """One."""
    return [Cell("japanese-vowels" if size.quick else "jsb-chorales", work)]


def work(bench: Bench) -> None:
    """Train; at every mark the bound of test data, at the end the evidence by importance sampling."""
    quick = bench.size.quick
    small = {"latent_dim": 4, "hidden": [8], "transition_hidden": 8, "recurrent_hidden": 8, "likelihood": "gaussian"}
    recipe = Recipe.from_dict(
        {
            "model": {"name": "deep-markov-model", **(small if quick else {})},
            "data": {"source": "japanese-vowels" if quick else "jsb-chorales", "binarize": "none", "validation": 0},
            "training": {"elbo": {"name": "trace"}, "learning_rate": 3e-4, "batch_size": 20, "clip_norm": 0.5},
        }
    )
    data = data_of(recipe)
    assert data.test is not None
    epochs, test = math.ceil(bench.size.samples / len(data)), first_rows(data.test, 20 if quick else 10**6)
    recipe = recipe.replace(training={"kl_warmup": {"num_epochs": math.ceil(epochs / 5), "start": 0.2}})
    slices, rows = test.members["lengths"].double(), bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        repeats = 2 if quick else 10
        bound = evaluate_bound(pair, test, elbo=elbo.TraceELBO(), num_repeats=repeats, progress=False).elbo
        bench.keep(curve=rows | {str(samples): {"test": per_slice(bound, slices)}}, epochs=samples // len(data))
        rows.update(bench.found["curve"])

    pair, samples = train_to(bench, recipe, at_mark)
    at_mark(pair, samples)
    for draws in (10, 100) if quick else (100, 1000):
        found = log_evidence(pair, test, method=evidence.ImportanceSampling(draws), progress=False)
        row = [*per_slice(found.log_evidence, slices), int(found.trusted.sum()), len(test)]
        bench.keep(evidence=bench.found.get("evidence", {}) | {str(draws): row})


def per_slice(values: Tensor, slices: Tensor) -> list[float]:
    """Minus the sum of nats over all slices, and the standard error of this ratio over sequences."""
    ratio = float(values.double().sum() / slices.sum())
    spread = (values.double() - ratio * slices).std() * len(slices) ** 0.5
    return [-ratio, float(spread / slices.sum())]


def pictures(found: Found) -> Pictures:
    """The bound by sequences seen."""
    return {"bound": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """One curve, and what was published as lines."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for cell in found.values():
        axes.plot(*xy(points(cell, "test")), "o-", color=LIGHT.first, label="ours")
    for (name, value), style in zip(PUBLISHED.items(), (":", "--", "-."), strict=True):
        axes.axhline(value, color=LIGHT.ink, linestyle=style, label=name)
    axes.set(ylabel="-ELBO per slice, nats")
    samples_axis(axes)
    axes.set_xlabel("training sequences seen")
    axes.legend(fontsize=8)
    return figure


def page(found: Found) -> str:
    """The last bound, the evidence by draws, and what was published."""
    rows: list[tuple[object, ...]] = [(name, "", f"{value:.3f}", "") for name, value in PUBLISHED.items()]
    for cell in (cell for cell in found.values() if "curve" in cell):
        _, value, error = points(cell, "test")[-1]
        rows.append(("ours, bound", cell["epochs"], f"{value:.3f} ± {error:.3f}", ""))
        for draws, (value, error, trusted, total) in cell.get("evidence", {}).items():
            name = f"ours, importance sampling, {int(draws):,} draws"
            rows.append((name, cell["epochs"], f"{value:.3f} ± {error:.3f}", f"{trusted} of {total}"))
    head = ("", "epochs", "nats per slice", "weights that pass")
    return "\n\n".join([WORDS, table(head, rows)])
