"""Dynamically binarised MNIST: one layer of latents and two, under a standard normal prior and a VampPrior."""

from __future__ import annotations

from functools import partial
from typing import Any

from matplotlib.figure import Figure

from ppvae.inference import evidence, log_evidence
from ppvae.report.figures.theme import LIGHT
from ppvae.runs import Recipe

from ..cells import Bench, Cell, Found, Pictures, Size, samples_axis
from ..evidences import over_all, side_by_side
from ..pages import table, verdict
from ..training import bound_at_marks, data_of, points, random_part, train_to, xy

TITLE = "Dynamic MNIST: layers and priors"
WORDS = """Protocol of the VampPrior's and the Exemplar VAE's programs: two gated layers of 300, latents of 40 (two
layers: 40 and 40), log-variances cut off at -6 and 2, He's initialisation, learning rate 5e-4, M = 100, 500 pseudo-
inputs, KL warm-up over 100 epochs, the parameters of the best validation bound, stopped 50 epochs after it. Training
images are drawn anew for every minibatch, those of validation and test once. Adam has the place of their AdamNormGrad.
log p(x) of all test images is the bound of all and what importance sampling with 5000 draws adds to it on 1000 of
them, drawn at random; annealed importance sampling stands beside it for 100. ± is the standard error of this choice;
published: mean and standard deviation over seeds. What has seen fewer samples than an early stop needs is no
reproduction: the column "ended" says how it ended."""
LAYERS = {"one layer": [40], "two layers": [40, 40]}
PRIORS: dict[str, dict[str, Any]] = {
    "normal": {"name": "standard"},
    "VampPrior": {"name": "vamp", "num_components": 500},
}
PUBLISHED = {
    ("one layer", "normal"): (-84.45, 0.12),
    ("one layer", "VampPrior"): (-82.43, 0.06),
    ("two layers", "normal"): (-82.39, 0.11),
    ("two layers", "VampPrior"): (-81.56, 0.09),
}
COLOURS = {"normal": LIGHT.first, "VampPrior": LIGHT.second}
BASE = "importance sampling"
METHODS: dict[str, evidence.EvidenceMethod] = {
    BASE: evidence.ImportanceSampling(5000),
    "AIS": evidence.AIS(num_temperatures=100),
}


def cells(size: Size) -> list[Cell]:
    """A number of layers and a prior each."""
    return [Cell(f"{lay}-{prior}".replace(" ", "-"), partial(work, lay, prior)) for lay in LAYERS for prior in PRIORS]


def work(layers: str, prior: str, bench: Bench) -> None:
    """Train; at every mark the bound of test data, at the end the evidence by two methods."""
    quick = bench.size.quick
    bench.keep(layers=layers, prior=prior)
    small: dict[str, Any] = {"hidden": [20, 20], "latent_dims": [5] * len(LAYERS[layers])}
    few = {"num_components": 10} if quick and prior == "VampPrior" else {}
    recipe = Recipe.from_dict(
        {
            "model": {
                "name": "hierarchical-vae",
                **(small if quick else {"latent_dims": LAYERS[layers]}),
                "prior": PRIORS[prior] | few,
            },
            "data": {"source": "digits" if quick else "mnist", "binarize": "dynamic"},
            "training": {
                "learning_rate": 5e-4,
                "kl_warmup": {"num_epochs": 2 if quick else 100},
                "early_stopping": {"patience": 50},
            },
        }
    )
    test = data_of(recipe).parts["test"].binarize(0)  # once: the part has the same zeros and ones

    at_mark = bound_at_marks(bench, test)
    pair, samples = train_to(bench, recipe, at_mark)
    at_mark(pair, samples)
    part, index = random_part(test, 20 if quick else 1000)
    found = log_evidence(pair, part, method=METHODS[BASE], progress=False)
    sides = side_by_side(pair, random_part(test, 5 if quick else 100)[0], METHODS, BASE)
    bench.keep(samples=samples, of_all=over_all(pair, test, index, found), few=sides)


def pictures(found: Found) -> Pictures:
    """The bound by samples seen."""
    return {"bound": partial(draw, found)} if any("curve" in cell for cell in found.values()) else {}


def draw(found: Found) -> Figure:
    """A panel for each number of layers."""
    present = [layers for layers in LAYERS if any(cell["layers"] == layers for cell in found.values())]
    figure = Figure(figsize=(2 + 3.4 * len(present), 3.8), layout="constrained")
    for axes, layers in zip(figure.subplots(1, len(present), sharey=True, squeeze=False)[0], present, strict=True):
        for cell in (cell for cell in found.values() if cell["layers"] == layers):
            axes.plot(*xy(points(cell, "test")), "o-", color=COLOURS[cell["prior"]], label=cell["prior"])
        samples_axis(axes, layers)
        axes.legend(fontsize=8)
    figure.axes[0].set_ylabel("bound of test data, nats")
    return figure


def page(found: Found) -> str:
    """The evidence beside what was published, and by two methods of the same few data."""
    rows, sides = [], []
    for cell in (cell for cell in found.values() if "of_all" in cell):
        (mean, error), (value, spread) = cell["of_all"], PUBLISHED[cell["layers"], cell["prior"]]
        bound = points(cell, "test")[-1][1]
        said = verdict(mean - value, 0.0, spread) if cell["ended"] == "early stopping" else ""
        ours = (f"{cell['samples']:,}", cell["ended"], f"{bound:.2f}", f"{mean:.2f} ± {error:.2f}")
        rows.append((cell["layers"], cell["prior"], *ours, f"{value} ± {spread}", f"{mean - value:+.2f}", said))
        for name, side in cell["few"].items():
            trusted, less = "{} of {}".format(*side["trusted"]), "{:+.2f} ± {:.2f}".format(*side["less"])
            sides.append((cell["layers"], cell["prior"], name, f"{side['mean'][0]:.2f}", less, trusted))
    head = ("latents", "prior", "samples seen", "ended", "bound", "log p(x)", "published", "difference", "")
    side_head = ("latents", "prior", "estimate", "log p(x)", "less importance sampling", "vouched for")
    return "\n\n".join([WORDS, table(head, rows), "**The same data by both.**", table(side_head, sides)])
