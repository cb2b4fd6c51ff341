"""The reparameterisation trick by its three routes: draws and gradients of a family each, against the truth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from ppvae.distributions.reparameterization import FAMILIES
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table

TITLE = "The three routes of the reparameterisation trick"
# Route to family, parameters of which the first is differentiated, scipy's distribution, and d E[z^2] / d parameter.
ROUTES: dict[str, tuple[str, dict[str, float], Callable[..., object], Callable[..., float]]] = {
    "inverse CDF": ("exponential", {"rate": 1.5}, lambda rate: stats.expon(scale=1 / rate), lambda rate: -4 / rate**3),
    "location-scale": (
        "laplace",
        {"loc": 0.5, "scale": 2.0},
        lambda loc, scale: stats.laplace(loc, scale),
        lambda loc, scale: 2 * loc,
    ),
    "composition": (
        "log_normal",
        {"loc": 0.2, "scale": 0.5},
        lambda loc, scale: stats.lognorm(scale, scale=float(torch.tensor(loc).exp())),
        lambda loc, scale: 2 * float(torch.tensor(2 * loc + 2 * scale**2).exp()),
    ),
}
WORDS = """Section 2.4: z = g(ε) by (1) a tractable inverse CDF, (2) a location and a scale, (3) a composition of
others. For a family of each: do draws follow the distribution (the distance of Kolmogorov and Smirnov to scipy's
CDF), and is the average of ∇ g(ε)² the derivative of E[z²], which is known?"""


def cells(size: Size) -> list[Cell]:
    """A route each."""
    return [Cell(route.replace(" ", "-"), partial(measure, route)) for route in ROUTES]


def measure(route: str, bench: Bench) -> None:
    """Draws with gradients, against scipy and a closed form."""
    name, values, of_scipy, derivative = ROUTES[route]
    family = FAMILIES[name]
    assert family.route == route
    count = 100_000 if bench.size.quick else 1_000_000
    torch.manual_seed(0)
    first, *rest = values
    leaf = torch.full((count,), values[first], dtype=torch.float64, requires_grad=True)
    others = {other: torch.full((count,), values[other], dtype=torch.float64) for other in rest}
    draws: Tensor = family.make(**{first: leaf, **others}).rsample()
    (gradient,) = torch.autograd.grad(draws.square().sum(), leaf)
    distance = stats.kstest(draws.detach().numpy(), of_scipy(**values).cdf)  # type: ignore[attr-defined]
    histogram = torch.histc(draws.detach(), 80, *RANGES[route])
    bench.keep(
        route=route, family=name, parameter=first, formula=family.formula, seed=0, draws=count,
        distance=float(distance.statistic), p_value=float(distance.pvalue), truth=derivative(**values),
        gradient=[float(gradient.mean()), float(gradient.std()) / count**0.5],
        density=(histogram / count * 80 / (RANGES[route][1] - RANGES[route][0])).tolist(),
    )  # fmt: skip


RANGES = {"inverse CDF": (0.0, 4.0), "location-scale": (-9.0, 10.0), "composition": (0.0, 5.0)}


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"draws": partial(draw, found)} if len(found) == len(ROUTES) else {}


def draw(found: Found) -> Figure:
    """Histograms of draws and the densities."""
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    for axes, cell in zip(figure.subplots(1, len(found)), found.values(), strict=True):
        low, high = RANGES[cell["route"]]
        edges = torch.linspace(low, high, 81)
        axes.stairs(cell["density"], edges, fill=True, color=LIGHT.rule, label="draws")
        _, values, of_scipy, _ = ROUTES[cell["route"]]
        z = torch.linspace(low, high, 300)[1:]
        axes.plot(z, of_scipy(**values).pdf(z), color=LIGHT.first, label="density")  # type: ignore[attr-defined]
        axes.set(title=f"{cell['route']}: {cell['family']}", xlabel="z")
    figure.axes[0].legend()
    return figure


def page(found: Found) -> str:
    """Distances and gradients."""
    rows = [
        (c["route"], c["family"], f"`{c['formula']}`", f"{c['distance']:.5f} (p = {c['p_value']:.2f})",
         f"{c['gradient'][0]:.4f} ± {c['gradient'][1]:.4f}", f"{c['truth']:.4f}")
        for c in found.values()
    ]  # fmt: skip
    head = ("route", "family", "a draw", "distance to its CDF", "mean gradient", "derivative of E[z²]")
    return "\n\n".join([WORDS, table(head, rows)])
