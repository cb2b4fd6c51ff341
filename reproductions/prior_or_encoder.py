"""Sampling from the prior against sampling from the encoder, by the dimension of the latent space."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from ppvae.inference import evidence, log_evidence
from ppvae.models import FactorAnalysis
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table

TITLE = "Sampling from the prior, or from the encoder"
DIMENSIONS = (1, 2, 3, 5, 10, 20, 30, 50)
SAMPLES = 1000
METHODS = {"prior": evidence.PriorSampling(SAMPLES), "encoder": evidence.ImportanceSampling(SAMPLES)}
WORDS = f"""log p(x) by {SAMPLES} draws for every datum, once from the prior, where p(x) is the average of p(x | z),
once from the encoder with importance weights, on factor analysis, whose evidence is known. The encoder is wrong by a
fifth of a posterior standard deviation along every axis, and a tenth too wide. Draws from the prior reach the
posterior with a probability that falls geometrically with the dimension: their average is then too low. "Flagged" is
how many of the estimates say themselves that they are not to be trusted."""


def cells(size: Size) -> list[Cell]:
    """A dimension each."""
    return [Cell(f"{dim}", partial(measure, dim)) for dim in (DIMENSIONS[:4] if size.quick else DIMENSIONS)]


def measure(latent_dim: int, bench: Bench) -> None:
    """Error against the truth, effective sample size, and how many estimates are flagged."""
    if "errors" in bench.found:
        return
    torch.manual_seed(latent_dim)
    loading = 3.0 * torch.linalg.qr(torch.randn(2 * latent_dim, latent_dim)).Q
    model = FactorAnalysis.from_parameters(torch.zeros(2 * latent_dim), loading, torch.ones(2 * latent_dim))
    pair, x = model.with_wrong_guide(shift=0.2, stretch=1.1), model.marginal().sample((200,)).detach()
    errors: dict[str, Any] = {}
    for name, method in METHODS.items():
        found = log_evidence(pair, x, method=method, progress=False)
        error = (found.log_evidence - pair.log_evidence(x).detach()).double()
        errors[name] = {
            "mean": float(error.mean()),
            "standard_error": float(error.std()) / len(x) ** 0.5,
            "root_mean_square": float(error.square().mean().sqrt()),
            "effective_sample_size": float(found.effective_sample_size.median()),
            "flagged": float((found.outcome != 0).double().mean()),
        }
    bench.keep(latent_dim=latent_dim, errors=errors, seed=0)


def by_dimension(found: Found) -> list[tuple[int, Any]]:
    """Dimension and errors, in order."""
    return sorted((cell["latent_dim"], cell["errors"]) for cell in found.values())


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"error": partial(draw, found)} if found else {}


def draw(found: Found) -> Figure:
    """Mean error by dimension."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip(METHODS, (LIGHT.second, LIGHT.first), strict=True):
        rows = by_dimension(found)
        values = [errors[name]["mean"] for _, errors in rows]
        bars = [2 * errors[name]["standard_error"] for _, errors in rows]
        axes.errorbar(
            [dim for dim, _ in rows], values, bars, fmt="o-", color=colour, label=f"{SAMPLES} draws of the {name}"
        )
    axes.set(xlabel="dimensions of z", ylabel="estimate minus log p(x), nats per datum")
    axes.legend()
    return figure


def page(found: Found) -> str:
    """Errors of both by dimension."""
    rows = [
        (dim, name, f"{e['mean']:+.3f} ± {e['standard_error']:.3f}", f"{e['root_mean_square']:.3f}",
         f"{e['effective_sample_size']:.0f}", f"{e['flagged']:.0%}")
        for dim, errors in by_dimension(found)
        for name, e in errors.items()
    ]  # fmt: skip
    head = (
        "dimensions of z",
        "draws of the",
        "mean error, nats",
        "root mean square",
        "median effective draws",
        "flagged",
    )
    return "\n\n".join([WORDS, table(head, rows)])
