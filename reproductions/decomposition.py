"""log p(x) = ELBO + KL(q ‖ p(z | x)), on factor analysis, where each of the three is known by itself."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.figure import Figure
from torch.distributions import kl_divergence

from ppvae.data import load
from ppvae.distributions import DiagonalNormal
from ppvae.inference import elbo, evaluate_bound, fit
from ppvae.models import FactorAnalysis
from ppvae.networks import MLP
from ppvae.report.figures.theme import LIGHT

from .cells import Bench, Cell, Found, Pictures, Size
from .pages import table

TITLE = "log p(x) = ELBO + KL"
STEPS = (0, 10, 30, 100, 300, 1000)
WORDS = """Equation 1 of the paper. The model is factor analysis with 5 factors at its maximum likelihood on the
bundled digits, by scikit-learn; the guide, a diagonal normal with a linear encoder, is trained alone. Each quantity
is known by itself: log p(x) in closed form, the bound by its estimator B, and KL(q ‖ p(z | x)) between two normals.
The model does not change, so what the bound gains the KL loses; a diagonal normal ends at a KL above zero, since the
factors are correlated given x."""


def cells(size: Size) -> list[Cell]:
    """One."""
    return [Cell("digits", measure)]


def measure(bench: Bench) -> None:
    """The three quantities while the guide is trained."""
    if len(bench.found.get("rows", [])) == len(STEPS):
        return
    digits = load("digits").train
    x = torch.as_tensor(digits.members[digits.main]).double()[:1000].flatten(1)
    x = (x / x.max())[:, x.std(0) > 0]  # a column that never varies has no density
    model = FactorAnalysis.maximum_likelihood(x, 5)
    torch.manual_seed(0)
    encoder = DiagonalNormal(MLP(x.shape[1], []), 5)
    pair = model.with_posterior(encoder).double()
    for parameter in (pair.loc, pair.loading, pair.log_scale):
        parameter.requires_grad_(False)
    rows, done = [], 0
    for steps in STEPS:
        if steps > done:
            fit(pair, x, elbo=elbo.TraceMeanFieldELBO(on_missing_kl="sample"), num_epochs=steps - done, batch_size=None,
                learning_rate=0.02, seed=steps, progress=False)  # fmt: skip
            done = steps
        bound = evaluate_bound(pair, x, num_repeats=50, progress=False)
        with torch.no_grad():
            guide, exact = encoder(x), pair.posterior(x)
            q = torch.distributions.MultivariateNormal(guide.mean, torch.diag_embed(guide.variance))
            p = torch.distributions.MultivariateNormal(exact.mean, exact.covariance_matrix)
            gap, log_p = float(kl_divergence(q, p).mean()), float(pair.log_evidence(x).mean())
        rows.append([steps, log_p, bound.mean, bound.mean_standard_error, gap])
    bench.keep(rows=rows, seed=0)


def pictures(found: Found) -> Pictures:
    """One figure."""
    return {"parts": partial(draw, found)} if found else {}


def draw(found: Found) -> Figure:
    """The bound and the KL add up to the evidence."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    steps, log_p, bound, _, gap = zip(*found["digits"]["rows"], strict=True)
    places = range(len(steps))
    axes.plot(places, log_p, color=LIGHT.ink, label="log p(x)")
    axes.plot(places, bound, "o-", color=LIGHT.first, label="ELBO")
    axes.plot(places, [b + k for b, k in zip(bound, gap, strict=True)], "x", color=LIGHT.second, label="ELBO + KL")
    axes.set(xticks=places, xticklabels=steps, xlabel="steps on the guide", ylabel="nats per datum")
    axes.legend()
    return figure


def page(found: Found) -> str:
    """The three quantities and what is left."""
    rows = [
        (steps, f"{log_p:.4f}", f"{bound:.4f} ± {error:.4f}", f"{gap:.4f}", f"{log_p - bound - gap:+.4f}")
        for steps, log_p, bound, error, gap in found["digits"]["rows"]
    ]
    return "\n\n".join([WORDS, table(("steps", "log p(x)", "ELBO", "KL", "log p − ELBO − KL"), rows)])
