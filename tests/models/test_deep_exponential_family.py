"""The sparse gamma deep exponential family: a gamma-Poisson model where it has one latent, an integral of it of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import Data, ModelGuidePair, PpvaeError, log_joint
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import GammaPoisson, LatentModel, deep_exponential_family

D = 3


def counts() -> Tensor:
    return torch.tensor([[0.0, 0, 0], [1, 0, 2], [4, 3, 9], [0, 1, 0], [7, 0, 0], [2, 2, 2]])


def small(*widths: int, **options: Any) -> LatentModel:
    return deep_exponential_family(D, latent_dims=widths, hidden=(5,), **options)


class TestDeepExponentialFamily(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return small(3, 2, concentration=0.5)

    def make_data(self) -> Data:
        return counts()


def loading(pair: LatentModel) -> Tensor:
    """W_0 of one part, [D]."""
    weight: Tensor = pair.likelihood_x.head.trunk.weight.detach()
    return weight[:, 0]


def test_one_latent_is_a_gamma_poisson_model(float64: torch.dtype) -> None:
    """Of the same joint density; and with the guide at its exact posterior, of a bound without noise."""
    pair, x = small(1, concentration=0.1), counts()
    scramble(pair)
    twin = GammaPoisson.from_parameters(0.1, 0.1, loading(pair))
    z = torch.rand(4, 6, 1) + 0.01
    torch.testing.assert_close(log_joint(pair, x, {"z1": z}).local, log_joint(twin, x, {"z": z}).local)
    one, layers = x[2:3], pair.posterior_z1.head.layers
    exact = twin.posterior(one).base_dist
    with torch.no_grad():
        for layer, value in zip(layers, (exact.mean, exact.concentration), strict=True):
            layer.weight.zero_()
            layer.bias.copy_(value[0].log())
    bound = elbo.TraceELBO().terms(pair, one).local
    torch.testing.assert_close(bound, twin.log_evidence(one))


def by_quadrature(pair: LatentModel, x: Tensor, concentration: float) -> Tensor:
    """log p(x) of latent_dims (1, 1): given z2 it is a gamma-Poisson model, of exposure w z2 / alpha."""
    log_z2 = torch.linspace(-60, 6, 4000)
    w = float(pair.prior_z1.head.trunk.weight.detach())
    log_prior = torch.distributions.Gamma(concentration, concentration).log_prob(log_z2.exp()) + log_z2
    twin = GammaPoisson.from_parameters(concentration, 1.0, loading(pair))
    exposure = w * log_z2.exp() / concentration
    given = torch.stack([twin.log_evidence({"x": row.expand(4000, -1), "exposure": exposure}) for row in x], 1)
    return (given + (log_prior + (log_z2[1] - log_z2[0]).log())[:, None]).logsumexp(0).detach()


def test_two_methods_agree_with_quadrature(float64: torch.dtype) -> None:
    pair, x = small(1, 1, concentration=0.7), counts()
    fit(pair, x, num_epochs=75, batch_size=6, compile="eager", progress=False, learning_rate=0.02)
    exact = by_quadrature(pair, x, 0.7)
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_temperatures=15, num_chains=64)):
        found = log_evidence(pair, x, method=method, compile="eager")
        error = (found.log_evidence - exact) / found.standard_error
        assert bool((error.abs() < 4).all()), (type(method), error)
        assert float(found.standard_error.median()) < 0.1


def test_means_are_sums_of_parts() -> None:
    """So that all layers have the mean that their weights say, and the first one the prior's, 1."""
    pair = small(4, 2, concentration=0.8)
    torch.manual_seed(0)
    z2 = pair.prior_z2().sample((100_000,))
    z1 = pair.prior_z1(z2).sample()
    expected = pair.prior_z1.head.trunk.weight.detach() @ torch.ones(2)
    assert bool(((z1.mean(0) - expected).abs() < 5 * z1.std(0) / 100_000**0.5).all())


def test_what_is_refused() -> None:
    for widths, options, message in (
        ((), {}, "latent_dims: expected at least one layer"),
        ((3, 0), {}, "latent_dims: expected at least one latent dimension, found 0"),
        ((3,), {"concentration": -1.0}, "concentration: expected a positive number"),
    ):
        with pytest.raises(PpvaeError, match=message):
            small(*widths, **options)  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match="expected rows of D entries"):
        deep_exponential_family((2, 3))
