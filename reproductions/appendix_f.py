"""Appendix F: full variational Bayes over the decoder's weights, by both estimators, in the setting of figure 3."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from ppvae.inference import evaluate_bound, evidence, log_evidence
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size, samples_axis
from .evidences import mean_of
from .pages import table
from .training import data_of, first_rows, paper_recipe, points, train_as_published

TITLE = "Appendix F: full variational Bayes"
ESTIMATORS: dict[str, dict[str, Any]] = {
    "all sampled": {"name": "trace"},
    "Gaussian KLs in closed form": {"name": "trace-mean-field"},
    "point estimate (MAP)": {"name": "trace-mean-field"},
}
COLOURS = dict(zip(ESTIMATORS, (LIGHT.second, LIGHT.first, LIGHT.ink), strict=True))
WORDS = """The experiment that the paper announces and does not show: a diagonal normal over every weight of the
decoder, N(0, 1) before data, both the latents' KL and the weights' sampled (the generic estimator) or in closed form;
beside it the point estimate of figure 3 under the same prior. 1000 training images, 100 hidden units, N_z = 3. log
p(x) of 300 held-out images is the density predicted for them: over draws of the weights where they have a
posterior."""


def cells(size: Size) -> list[Cell]:
    """A curve each."""
    return [Cell(name.split()[0].lower(), partial(curve, name)) for name in ESTIMATORS]


def curve(name: str, bench: Bench) -> None:
    """Train; at every mark the bound on training data, and the density of held-out data."""
    bench.keep(name=name)
    quick, over_weights = bench.size.quick, not name.startswith("point")
    recipe = paper_recipe(bench.size, "digits" if quick else "mnist", 3, ESTIMATORS[name])
    recipe = recipe.replace(data={"num_train": 200 if quick else 1000}, model={"hidden": [20 if quick else 100]})
    if over_weights:
        recipe = recipe.replace(bayesian={"modules": ["likelihood"]}, training={"weight_prior_scale": None})
    data = data_of(recipe)
    held_out = first_rows(data.parts["test"], 50 if quick else 300)
    rows: dict[str, Any] = bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        if str(samples)[0] != "1" or str(samples) in rows:
            return
        bound = evaluate_bound(pair, data, num_data=len(data), progress=False)
        density = log_evidence(
            pair,
            held_out,
            method=evidence.ImportanceSampling(1000),
            global_sites=10 if over_weights else None,
            progress=False,
        ).log_evidence
        rows[str(samples)] = {
            "train": [bound.mean, bound.sampling_standard_error],
            "test": mean_of(density),
        }
        bench.keep(curve=rows)

    train_as_published(bench, recipe, at_mark)


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"curves": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """Held-out density by samples seen."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for cell in found.values():
        rows = points(cell, "test")
        values, errors = [row[1] for row in rows], [row[2] for row in rows]
        axes.errorbar(
            [row[0] for row in rows], values, errors, fmt="o-", color=COLOURS[cell["name"]], label=cell["name"]
        )
    axes.set(ylabel="log p(x) of held-out data, nats per datum")
    samples_axis(axes)
    axes.legend()
    return figure


def page(found: Found) -> str:
    """Every mark."""
    rows = [
        (cell["name"], f"{samples:,}", f"{bound:.1f}", f"{value:.1f} ± {error:.1f}")
        for cell in found.values()
        for (samples, bound, _), (_, value, error) in zip(points(cell, "train"), points(cell, "test"), strict=True)
    ]
    return "\n\n".join([WORDS, table(("weights", "samples seen", "training bound", "held-out log p(x)"), rows)])
