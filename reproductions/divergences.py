"""Forward and reverse KL on a density with two modes."""

from __future__ import annotations

import math
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from ppvae.inference.comparison.divergences import Divergence, fit_normal
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table

TITLE = "Forward and reverse KL"
INTERVAL = (-12.0, 12.0)
DIVERGENCES: tuple[Divergence, ...] = ("reverse", "forward")
WORDS = """One normal q fitted to p = 0.6 N(−3, 0.7²) + 0.4 N(3, 1). KL(q ‖ p), which the bound of AEVB descends, is
infinite where q has mass and p has none: q settles in one mode, where the divergence is little less than −log of its
weight, 0.511 or 0.916 nats, and either mode is a local optimum. KL(p ‖ q), which the sleep phase of wake-sleep
descends, is infinite the other way round: q covers both modes, with p's mean and standard deviation."""


def target() -> MixtureSameFamily:
    """The density with two modes."""
    weights, locs, scales = (torch.tensor(v, dtype=torch.float64) for v in ([0.6, 0.4], [-3.0, 3.0], [0.7, 1.0]))
    return MixtureSameFamily(Categorical(weights), Normal(locs, scales))


def log_density(z: Tensor) -> Tensor:
    """Of the target."""
    log_p: Tensor = target().log_prob(z)
    return log_p


def cells(size: Size) -> list[Cell]:
    """A divergence each."""
    return [Cell(divergence, partial(measure, divergence)) for divergence in DIVERGENCES]


def measure(divergence: Divergence, bench: Bench) -> None:
    """The best normal, and the local optima."""
    found = fit_normal(log_density, divergence=divergence, interval=INTERVAL)
    bench.keep(
        loc=found.loc,
        scale=found.scale,
        reverse=found.reverse,
        forward=found.forward,
        optima=[list(optimum) for optimum in found.optima],
    )


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"normals": partial(draw, found)} if found else {}


def draw(found: Found) -> Figure:
    """The target and the normals."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    z = torch.linspace(-8, 8, 600, dtype=torch.float64)
    axes.fill_between(z, log_density(z).exp(), color=LIGHT.rule, label="p")
    for divergence, colour in zip(DIVERGENCES, (LIGHT.first, LIGHT.second), strict=True):
        if divergence not in found:
            continue
        for number, (loc, scale, _) in enumerate(found[divergence]["optima"]):
            style = "-" if number == 0 else ":"
            label = f"q by {divergence} KL" + ("" if number == 0 else ", local optimum")
            axes.plot(z, Normal(loc, scale).log_prob(z).exp(), style, color=colour, label=label)
    axes.set(xlabel="z", ylabel="density")
    axes.legend()
    return figure


def page(found: Found) -> str:
    """The fits, and what the forward one must equal."""
    rows = [
        (name, f"{cell['loc']:.4f}", f"{cell['scale']:.4f}", f"{cell['reverse']:.4f}", f"{cell['forward']:.4f}")
        for name, cell in found.items()
    ]
    p = target()
    truth = f"p has mean {float(p.mean):.4f} and standard deviation {math.sqrt(float(p.variance)):.4f}."
    return "\n\n".join(
        [WORDS, table(("fitted by", "mean", "standard deviation", "KL(q ‖ p)", "KL(p ‖ q)"), rows), truth]
    )
