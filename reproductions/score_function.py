"""The variance of the score-function gradient beside the pathwise one's, by the dimension of the latent space."""

from __future__ import annotations

import math
from functools import partial

import torch
from matplotlib.figure import Figure

from ppvae.inference import compare_elbos, elbo
from ppvae.models import FactorAnalysis
from ppvae.report.figures.theme import LIGHT, plain_numbers

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table

TITLE = "Why the score-function gradient is of little use"
DIMENSIONS = (1, 2, 5, 10, 20, 50)
ESTIMATORS = {
    "pathwise": elbo.TraceMeanFieldELBO(),
    "score function": elbo.ScoreFunctionELBO(),
    "score function, baseline": elbo.ScoreFunctionELBO(num_particles=5, baseline="leave-one-out"),
}
BLOCK = {"means": ["encoder.head.layers.0.bias"]}  # one parameter for each dimension of z
WORDS = """Section 2.2 of the paper rejects ∇ E_q[f(z)] = E_q[f(z) ∇ log q(z)] for its variance. Here all estimators
are unbiased for the same gradient, that of the bound of factor analysis in the guide's means (its biases), at a guide
whose means are a posterior standard deviation off along every axis. The score of one dimension is multiplied by log w
of *all* dimensions; the pathwise derivative of one dimension sees that dimension alone. The baseline is the mean of
four other draws."""


def cells(size: Size) -> list[Cell]:
    """A dimension each."""
    return [Cell(f"{dim}", partial(measure, dim)) for dim in (DIMENSIONS[:4] if size.quick else DIMENSIONS)]


def pair_and_data(latent_dim: int) -> tuple[FactorAnalysis, torch.Tensor]:
    """Twice as many dimensions as factors, all equally informative; the guide's means are off."""
    torch.manual_seed(latent_dim)
    loading = 2.0 * torch.linalg.qr(torch.randn(2 * latent_dim, latent_dim)).Q
    model = FactorAnalysis.from_parameters(torch.zeros(2 * latent_dim), loading, torch.ones(2 * latent_dim))
    pair = model.with_posterior(model.exact_encoder())
    with torch.no_grad():  # a standard deviation of the posterior is 1 / sqrt(1 + 2^2)
        dict(pair.named_parameters())[BLOCK["means"][0]].add_(1 / math.sqrt(5.0))
    return pair, model.marginal().sample((100,)).detach()


def measure(latent_dim: int, bench: Bench) -> None:
    """Variance of the gradient in one dimension's mean, averaged over dimensions, and the signal."""
    if "variance" in bench.found:
        return
    quick, (pair, x) = bench.size.quick, pair_and_data(latent_dim)
    found = compare_elbos(pair, x, ESTIMATORS, num_repeats=200 if quick else 1000, blocks=BLOCK, progress=False)
    rows = {name: found.block(name, "means") for name in ESTIMATORS}
    bench.keep(
        latent_dim=latent_dim,
        variance={n: [row.variance / latent_dim, row.variance_error / latent_dim] for n, row in rows.items()},
        signal={name: row.signal for name, row in rows.items()},
        seed=found.seed,
    )


def by_dimension(found: Found) -> list[tuple[int, dict[str, list[float]]]]:
    """Dimension and variances, in order."""
    return sorted((cell["latent_dim"], cell["variance"]) for cell in found.values())


def slope(found: Found, name: str) -> float:
    """Of the logarithm of the variance over that of the dimension, by least squares."""
    rows = by_dimension(found)
    x = torch.tensor([math.log(dim) for dim, _ in rows])
    y = torch.tensor([math.log(variance[name][0]) for _, variance in rows])
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"variance": partial(draw, found)} if found else {}


def draw(found: Found) -> Figure:
    """Variance by dimension."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(ESTIMATORS, (LIGHT.first, LIGHT.second, LIGHT.muted), strict=True):
        rows = by_dimension(found)
        values, errors = zip(*(variance[name] for _, variance in rows), strict=True)
        axes.errorbar([dim for dim, _ in rows], values, [2 * e for e in errors], fmt="o-", color=colour, label=name)
    axes.set(xscale="log", yscale="log", xlabel="dimensions of z", ylabel="variance for one parameter, (nats/datum)²")
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.legend()
    return figure


def page(found: Found) -> str:
    """The ratio of variances by dimension, and how each grows."""
    first, *others = ESTIMATORS
    rows = [
        (dim, f"{variance[first][0]:.3g}", *(f"{variance[name][0] / variance[first][0]:.1f}" for name in others))
        for dim, variance in by_dimension(found)
    ]
    head = ("dimensions of z", f"variance for one parameter, {first}", *(f"{name}: times that" for name in others))
    grow = "; ".join(f"{name} {slope(found, name):.2f}" for name in ESTIMATORS) if len(found) > 1 else ""
    return "\n\n".join([WORDS, table(head, rows), f"Power of the dimension with which the variance grows: {grow}."])
