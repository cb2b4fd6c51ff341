"""Appendix F: full variational Bayes over the decoder's weights, by both estimators, in the setting of figure 3."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ppvae.inference import evaluate_bound
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size, samples_axis
from .evidences import METHODS, ranking, side_by_side
from .pages import table
from .training import data_of, first_rows, paper_recipe, points, train_as_published, xy

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
p(x) of the first 100 held-out images, over 5 draws of the weights where they have a posterior, is by annealed
importance sampling from the prior; beside it importance sampling from the encoder, which has not seen them: "vouched
for" says of how many data each judges itself fit."""


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
    rows: dict[str, Any] = bench.found.get("curve", {})

    def at_mark(pair: Any, samples: int) -> None:
        bound = evaluate_bound(pair, data, num_data=len(data), progress=False)
        rows[str(samples)] = {"train": [bound.mean, bound.sampling_standard_error]}
        bench.keep(curve=rows)

    pair, samples = train_as_published(bench, recipe, at_mark)
    if bench.found.get("samples") != samples:
        held_out = first_rows(data.parts["test"], 10 if quick else 100)
        methods = {name: METHODS[name](quick) for name in ("AIS", "importance sampling")}
        num_weights = (2 if quick else 5) if over_weights else None
        sides = side_by_side(pair, held_out, methods, "AIS", num_weights)
        bench.keep(held_out=sides, samples=samples)


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"curves": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """The training bound by samples seen."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for cell in found.values():
        axes.plot(*xy(points(cell, "train")), "o-", color=COLOURS[cell["name"]], label=cell["name"])
    axes.set(ylabel="training bound, nats per datum")
    samples_axis(axes, shown=[row[1] for cell in found.values() for row in points(cell, "train") if row[0] >= 1e5])
    axes.legend()
    return figure


def page(found: Found) -> str:
    """The last training bound, held-out data by two methods, and which weights are best on the same data."""
    cells = [cell for cell in found.values() if "held_out" in cell]
    rows = []
    for cell in cells:
        for name, side in cell["held_out"].items():
            value, error = side["mean"]
            bound, trusted = points(cell, "train")[-1][1], "{} of {}".format(*side["trusted"])
            what = (cell["name"], f"{cell['samples']:,}", f"{bound:.1f}")
            rows.append((*what, name, f"{value:.1f} ± {error:.1f}", trusted))
    values = {cell["name"]: Tensor(cell["held_out"]["AIS"]["values"]) for cell in cells}
    best = f"By AIS, on the same held-out data: {ranking(values)}." if len(values) > 1 else ""
    head = ("weights", "samples seen", "training bound", "held-out by", "log p(x)", "vouched for")
    return "\n\n".join([WORDS, table(head, rows), best])
