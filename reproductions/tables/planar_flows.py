"""Planar flows in the posterior: how much the bound and the evidence rise with their number."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from ppvae.inference import evidence
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe

from ..cells import Bench, Cell, Found, Pictures, Size, samples_axis
from ..evidences import side_by_side
from ..pages import table
from ..training import bound_at_marks, data_of, first_rows, points, train_to, xy

TITLE = "Planar flows on MNIST"
WORDS = """Fixed binarisation, 40 latents, one tanh layer of 400, M = 100, the bound drawn by one sample, weight of the
KL from 0.01 to 1 over the first 10,000 steps; log p(x) of the first 1000 test data by 200 importance weights, as
published by Rezende and Mohamed for all. Theirs is RMSprop with 1e-5 and 5e5 steps, ours Adam with 1e-3, the norm of
the gradient clipped at 200, several times what it is without flows, and flows that start as the identity: compared is
the slope in the number K of flows at as many samples, not the level. Published: a public reproduction of
theirs, the mean of two runs; what has seen far fewer than their 5e7 samples says little of it. The bound is of all test
data, of which the first 1000 are not a typical part. ± is the standard error over data."""
NUMBERS = (0, 10, 20)
COLOURS = (LIGHT.ink, LIGHT.first, LIGHT.second)
PUBLISHED = {0: (-96.845, -91.42), 10: (-92.995, -88.46), 20: (-92.06, -87.85)}
"""By K, the bound and log p(x)."""
SAMPLING: dict[str, evidence.EvidenceMethod] = {"importance sampling": evidence.ImportanceSampling(200)}


def cells(size: Size) -> list[Cell]:
    """A number of flows each."""
    return [Cell(f"K-{number}", partial(work, number)) for number in NUMBERS]


def work(number: int, bench: Bench) -> None:
    """Train; at every mark the bound of test data, at the end the evidence."""
    quick = bench.size.quick
    bench.keep(number=number)
    planar = {"name": "planar", "num_transforms": number}
    recipe = Recipe.from_dict(
        {
            "model": {
                "name": "bernoulli-vae",
                "latent_dim": 5 if quick else 40,
                "hidden": [20 if quick else 400],
                "posterior": planar if number else {"name": "diagonal"},
            },
            "data": {"source": "digits" if quick else "binarized-mnist", "binarize": "static" if quick else "none"},
            "training": {"elbo": {"name": "trace"}, "learning_rate": 1e-3, "clip_norm": 200.0},
        }
    )
    data = data_of(recipe)
    warmup = {"num_epochs": 2 if quick else 10_000 * 100 // len(data), "start": 0.01}
    assert data.test is not None
    test, few = data.test, first_rows(data.test, 50 if quick else 1000)

    at_mark = bound_at_marks(bench, test)
    pair, samples = train_to(bench, recipe.replace(training={"kl_warmup": warmup}), at_mark)
    at_mark(pair, samples)
    bench.keep(samples=samples, estimates=side_by_side(pair, few, SAMPLING, "importance sampling"))


def pictures(found: Found) -> Pictures:
    """The bound by samples seen."""
    return {"bound": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A curve for each number of flows."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for number, colour in zip(NUMBERS, COLOURS, strict=True):
        if rows := points(found.get(f"K-{number}", {}), "test"):
            axes.plot(*xy(rows), "o-", color=colour, label=f"K = {number}")
    axes.set_ylabel("bound of test data, nats")
    samples_axis(axes)
    axes.legend()
    return figure


def page(found: Found) -> str:
    """Bound and evidence by K, and what each gains over K = 0, beside what was published."""
    rows = []
    done = {cell["number"]: cell for cell in found.values() if "estimates" in cell}
    for number, cell in done.items():
        bound, error = points(cell, "test")[-1][1:]
        one = cell["estimates"]["importance sampling"]
        mean, trusted = one["mean"], "{} of {}".format(*one["trusted"])
        gains = ["", ""]
        if number and 0 in done and done[0]["samples"] == cell["samples"]:
            base = (points(done[0], "test")[-1][1], done[0]["estimates"]["importance sampling"]["mean"][0])
            ours = (bound - base[0], mean[0] - base[1])
            theirs = [PUBLISHED[number][i] - PUBLISHED[0][i] for i in (0, 1)]
            gains = [f"{gain:+.2f} ({other:+.2f})" for gain, other in zip(ours, theirs, strict=True)]
        values = (f"{bound:.2f} ± {error:.2f}", f"{mean[0]:.2f} ± {mean[1]:.2f}", trusted)
        rows.append((number, f"{cell['samples']:,}", *values, *gains))
    gained = ("bound over K = 0 (published)", "log p(x) over K = 0 (published)")
    head = ("K", "samples seen", "bound", "log p(x)", "vouched for", *gained)
    return "\n\n".join([WORDS, table(head, rows)])
