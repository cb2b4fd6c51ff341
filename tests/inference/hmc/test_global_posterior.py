"""Reference draws of weights: equal to the conjugate posterior, by NUTS and by HMC."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contracts.bayesian_pairs import conjugate, linear
from core.pairs import Discrete, GlobalWeight
from torch import Tensor

from ppvae.core import PairError, PpvaeError, log_joint
from ppvae.distributions.weight_priors import HorseshoePrior
from ppvae.inference import GlobalDraws, sample_global_posterior
from ppvae.inference.hmc.diagnostics import ess
from ppvae.models import bayesianise


def flat(draws: GlobalDraws, names: tuple[str, ...]) -> Tensor:
    return torch.cat([draws.samples[name].flatten(2) for name in names], -1)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [pytest.param("nuts", {"num_warmup": 150}, marks=pytest.mark.slow), ("hmc", {"num_warmup": 300})],
)
def test_conjugate_regression(kernel: Any, options: dict[str, int]) -> None:
    pair, x = linear(out=1)
    # Noise per datum is for training alone: the density at given weights is the model's.
    bayes = bayesianise(pair, modules=["layer"], weight_noise="local-reparameterization")
    mean, covariance, _ = conjugate(bayes, x)
    draws = sample_global_posterior(
        bayes,
        x,
        num_samples=400,
        num_chains=2,
        kernel=kernel,
        compile="graph",
        progress=False,
        **options,
    )
    values = flat(draws, bayes.weight_names)
    assert values.shape == (2, 400, 3)
    worst = max(float(value.max()) for value in draws.rhat().values())
    least = min(float(value.min()) for value in draws.ess().values())
    assert worst < 1.03 and least > 100
    assert 0.5 < float(draws.acceptance.mean()) < 1 and not draws.stats["diverging"].any()
    flat_draws = values.reshape(-1, 3)
    scale = covariance.diagonal().sqrt()
    assert bool(((flat_draws.mean(0) - mean).abs() < 4 * scale / least**0.5).all())
    # The squares of a chain mix more slowly than the chain: their own effective sample size is what counts.
    centred = values - mean
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    error = products.reshape(-1, 3, 3).std(0) / ess(products).sqrt()
    assert ess(products).min() > 30
    assert bool(((products.mean((0, 1)) - covariance).abs() < 4 * error).all())


def test_latents_and_weights_together() -> None:
    """Names, shapes, the density that is recorded, ArviZ's groups, and the same draws for the same seed."""
    pair, x = GlobalWeight().double(), torch.randn(3, 3, dtype=torch.float64)
    runs = [
        sample_global_posterior(pair, x, num_samples=20, num_warmup=20, num_chains=2, seed=3, progress=False)
        for _ in range(2)
    ]
    draws = runs[0]
    assert draws.global_sites == ("w",)
    assert draws.samples["w"].shape == (2, 20, 3) and draws.samples["z"].shape == (2, 20, 3, 1)
    expected = log_joint(pair, x, draws.samples).total()
    torch.testing.assert_close(draws.stats["log_density"], expected.detach(), rtol=1e-5, atol=1e-5, check_dtype=False)
    assert torch.equal(draws.samples["w"], runs[1].samples["w"])
    assert not torch.equal(draws.samples["w"][0], draws.samples["w"][1])
    exported = draws.to_arviz()
    assert exported.posterior["z"].dims == ("chain", "draw", "datum", "z_dim_0")
    assert exported.posterior["w"].dims == ("chain", "draw", "w_dim_0")
    assert exported.posterior.attrs["inference_library"] == "pyro"
    assert "NUTS, 2 chains x 20 draws" in repr(draws)


def test_positive_scales_have_their_jacobian() -> None:
    pair, x = linear(out=1)
    bayes = bayesianise(pair, modules=["layer.bias"], prior=HorseshoePrior())
    draws = sample_global_posterior(bayes, x, num_samples=10, num_warmup=10, num_chains=1, progress=False)
    assert float(draws.samples["layer.bias.local_scale"].min()) > 0
    names = ("layer.bias.global_scale", "layer.bias.local_scale")
    jacobian = torch.stack([draws.samples[name].log().reshape(1, 10, -1).sum(-1) for name in names]).sum(0)
    expected = log_joint(bayes, x, draws.samples).total() + jacobian
    torch.testing.assert_close(draws.stats["log_density"], expected.detach(), rtol=1e-5, atol=1e-5, check_dtype=False)
    assert math.isfinite(float(expected.detach().sum()))


def test_refuses() -> None:
    pair, x = linear()
    with pytest.raises(PairError, match="no global latent site"):
        sample_global_posterior(pair, x)
    with pytest.raises(PpvaeError, match="num_chains: expected at least 1"):
        sample_global_posterior(pair, x, num_chains=0)
    with pytest.raises(PpvaeError, match="expected 'nuts' or 'hmc'"):
        sample_global_posterior(pair, x, kernel="gibbs")  # type: ignore[arg-type]
    mixed = bayesianise(Discrete(), modules=["means"])
    with pytest.raises(PairError, match="latent site 'k' is discrete"):
        sample_global_posterior(mixed, torch.randn(4, 2))
