"""Auto-encoders with every prior and posterior: they train, and evidence methods and HMC agree on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ppvae.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    FlowPosterior,
    FlowPrior,
    LowRankNormal,
    MixtureOfNormals,
    ProductOfExperts,
    StandardNormal,
    VampPrior,
)
from ppvae.inference import elbo, evidence, fit, log_evidence, sample_posterior
from ppvae.models import VAE
from ppvae.networks import MLP

PIXELS, LATENT = 8, 2

PRIORS: dict[str, Callable[[ConditionalDistribution], ConditionalDistribution]] = {
    "mixture": lambda q: MixtureOfNormals(3, LATENT),
    "vamp": lambda q: VampPrior(q, 5, PIXELS),
    "coupling": lambda q: FlowPrior(LATENT, flow="coupling", num_transforms=2, hidden=(8,)),
    "spline": lambda q: FlowPrior(LATENT, flow="spline", num_transforms=2, hidden=(8,)),
    "maf": lambda q: FlowPrior(LATENT, flow="maf", num_transforms=2, hidden=(8,)),
}
POSTERIORS: dict[str, Callable[[], ConditionalDistribution]] = {
    "low-rank": lambda: LowRankNormal(MLP(PIXELS, [8]), LATENT, rank=1),
    "planar": lambda: FlowPosterior(MLP(PIXELS, [8]), LATENT, flow="planar", num_transforms=2),
    "iaf": lambda: FlowPosterior(MLP(PIXELS, [8]), LATENT, flow="iaf", num_transforms=2, hidden=(8,)),
    "spline": lambda: FlowPosterior(MLP(PIXELS, [8]), LATENT, flow="spline", num_transforms=2, hidden=(8,)),
    "product": lambda: ProductOfExperts([DiagonalNormal(MLP(PIXELS, [8]), LATENT)]),
}


def data() -> Tensor:
    """Two kinds of rows, so that there is something to learn."""
    generator = torch.Generator().manual_seed(3)
    kind = torch.rand(200, 1, generator=generator).round()
    probs = (0.1 + 0.8 * kind * torch.arange(PIXELS).div(PIXELS)).expand(200, PIXELS)
    return torch.bernoulli(probs, generator=generator)


def trained(prior: str, posterior: str) -> tuple[VAE, Tensor]:
    torch.manual_seed(1)
    q = POSTERIORS[posterior]() if posterior in POSTERIORS else DiagonalNormal(MLP(PIXELS, [8]), LATENT)
    p = PRIORS[prior](q) if prior in PRIORS else StandardNormal(LATENT)
    pair, x = VAE(p, Bernoulli(MLP(LATENT, [8]), PIXELS), q), data()
    options = {"num_epochs": 12, "batch_size": 50, "learning_rate": 1e-2}
    result = fit(pair, x, elbo=elbo.TraceELBO(), compile="graph", progress=False, **options)  # type: ignore[arg-type]
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"] + 0.05
    return pair, x


PAIRS = [
    pytest.param(prior, posterior, marks=[pytest.mark.slow] if {"spline", "maf"} & {prior, posterior} else [])
    for prior, posterior in (*((name, "diagonal") for name in PRIORS), *(("standard", name) for name in POSTERIORS))
]


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_evidence_methods_agree(prior: str, posterior: str) -> None:
    """Importance sampling and annealing along log q, whose density is then asked for where it was not drawn."""
    pair, x = trained(prior, posterior)
    one = log_evidence(pair, x[:4], method=evidence.ImportanceSampling(2000), compile="eager")
    two = log_evidence(pair, x[:4], method=evidence.AIS(num_temperatures=12, num_chains=128), compile="eager")
    gap = (one.log_evidence - two.log_evidence).abs()
    error = (one.standard_error**2 + two.standard_error**2).sqrt()
    assert bool((gap < 4.5 * error + 1e-6).all()), (gap / error).max()


@pytest.mark.parametrize("prior", ["mixture", "vamp", pytest.param("coupling", marks=pytest.mark.slow)])
def test_chains_have_the_moments_of_quadrature(prior: str) -> None:
    """HMC with the prior in its target: posterior means against a grid."""
    pair, x = trained(prior, "diagonal")
    draws = sample_posterior(pair, x[:3], num_samples=150, num_warmup=100, num_chains=2, seed=0, compile="graph")
    assert float(draws.rhat()["z"].max()) < 1.1
    with torch.no_grad():
        grid = torch.cartesian_prod(*[torch.linspace(-6, 6, 241)] * LATENT)
        log_joint = pair.prior().log_prob(grid)[:, None] + torch.stack(
            [pair.likelihood(grid).log_prob(row) for row in x[:3]], -1
        )
        weights = log_joint.softmax(0)
        means = (weights[..., None] * grid[:, None]).sum(0)
    found = draws.samples["z"].mean((0, 1))
    error = draws.samples["z"].std((0, 1)) / draws.ess()["z"].sqrt()
    assert bool(((found - means).abs() < 5 * error + 0.02).all())
