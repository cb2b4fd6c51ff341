"""Sigmoid belief networks: coins trained by VIMCO beside the Concrete relaxation of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from ppvae.core import ModelGuidePair
from ppvae.inference import evidence, log_evidence
from ppvae.models import sigmoid_belief_network
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe

from ..cells import Bench, Cell, Found, Pictures, Size, samples_axis
from ..evidences import over_all
from ..pages import table
from ..training import data_of, points, random_part, train_to, xy

TITLE = "Binary latents: VIMCO and Concrete"
WORDS = """Fixed binarisation, 200 units of -1 and 1, maps that are linear (200H-784V) or have two layers of 200 tanh
(200H~784V), 5 particles, M = 64, Adam 1e-3. Concrete is trained as the relaxed model, with the bound of 5 particles,
and evaluated as the network of coins with the same weights; VIMCO trains the coins themselves. log p(x) of all
test data is the bound of all and what importance sampling with 5000 draws adds to it on 500 of them, drawn at random
(published: all of them with 50,000, after 1e7 steps). ± is the standard error of this choice; "trusted" counts the data
whose weights pass the check of their tail."""
SHAPES: dict[str, list[int]] = {"200H-784V": [], "200H~784V": [200, 200]}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "VIMCO": {"name": "vimco", "num_particles": 5},
    "Concrete": {"name": "importance-weighted", "num_particles": 5},
}
PUBLISHED = {
    ("200H-784V", "Concrete"): -104.9,
    ("200H-784V", "VIMCO"): -101.9,
    ("200H~784V", "Concrete"): -89.5,
    ("200H~784V", "VIMCO"): -91.4,
}
TEMPERATURE = 2 / 3


def cells(size: Size) -> list[Cell]:
    """A network and an estimator each."""
    return [Cell(f"{shape}-{name}", partial(work, shape, name)) for shape in SHAPES for name in ESTIMATORS]


def work(shape: str, name: str, bench: Bench) -> None:
    """Train; at every power of ten and at the end the evidence of the network of coins."""
    quick, rows = bench.size.quick, bench.found.get("curve", {})
    hidden = [10] * len(SHAPES[shape]) if quick else SHAPES[shape]
    model: dict[str, Any] = {"latent_dims": [20 if quick else 200], "hidden": hidden, "signs": True}
    relaxed = {} if name == "VIMCO" else {"temperature": TEMPERATURE}
    recipe = Recipe.from_dict(
        {
            "model": {"name": "sigmoid-belief-network", **model, **relaxed},
            "data": {"source": "digits" if quick else "binarized-mnist", "binarize": "static" if quick else "none"},
            "training": {"elbo": ESTIMATORS[name], "batch_size": 64, "learning_rate": 1e-3},
        }
    )
    test = data_of(recipe).test
    assert test is not None
    few, index = random_part(test, 50 if quick else 500)

    def measure(pair: ModelGuidePair, samples: int, draws: int) -> None:
        coins = sigmoid_belief_network(test.event_shape, **model)
        coins.load_state_dict({k: v for k, v in pair.state_dict().items() if k in coins.state_dict()})
        found = log_evidence(coins, few, method=evidence.ImportanceSampling(draws), progress=False)
        rows[str(samples)] = {
            "test": over_all(coins, test, index, found),
            "trusted": int(found.trusted.sum()),
        }
        bench.keep(curve=rows, shape=shape, estimator=name)

    pair, samples = train_to(bench, recipe, lambda pair, at: measure(pair, at, 500))
    measure(pair, samples, 500 if quick else 5000)


def pictures(found: Found) -> Pictures:
    """The evidence by samples seen."""
    return {"evidence": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A panel for each network."""
    figure = Figure(figsize=(8.8, 3.8), layout="constrained")
    for axes, shape in zip(figure.subplots(1, 2), SHAPES, strict=True):
        for name, colour in zip(ESTIMATORS, (LIGHT.first, LIGHT.second), strict=True):
            rows = points(found.get(f"{shape}-{name}", {}), "test")
            axes.plot(*xy(rows), "o-", color=colour, label=name)
            axes.axhline(PUBLISHED[shape, name], color=colour, linestyle=":", label=f"{name}, published")
        samples_axis(axes, shape)
    figure.axes[0].set_ylabel("log p(x) of test data, nats")
    figure.axes[0].legend(fontsize=8)
    return figure


def page(found: Found) -> str:
    """The last measurement of each."""
    rows = []
    for cell in (cell for cell in found.values() if "curve" in cell):
        (samples, value, error), key = points(cell, "test")[-1], (cell["shape"], cell["estimator"])
        trusted, published = cell["curve"][str(samples)]["trusted"], PUBLISHED[key]
        ours = f"{value:.1f} ± {error:.1f}"
        rows.append((*key, f"{samples // 64:,}", ours, trusted, f"{published:.1f}", f"{value - published:+.1f}"))
    head = ("network", "trained by", "steps", "log p(x)", "trusted", "published", "difference")
    return "\n\n".join([WORDS, table(head, rows)])
