"""A VAE of data with gaps: the contract of a pair, and factor analysis with gaps, whose evidence is exact."""

from __future__ import annotations

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_joint
from ppvae.distributions import LinearNormal, StandardNormal
from ppvae.inference import elbo, evidence, fit, inpaint, log_evidence
from ppvae.models import Latent, LatentModel, LinearGaussian, Mask, Observed, likelihoods, missing_data_vae

D, Z, SIZE = 5, 2, 8


def gappy(size: int = SIZE) -> dict[str, Tensor]:
    """Some entries are missing; of the last datum all are."""
    seen = torch.rand(size, D) > 0.4
    seen[-1] = False
    return {"x": torch.randn(size, D).where(seen, torch.tensor(torch.nan)), "seen": seen}


class TestMissingDataVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return missing_data_vae(D, latent_dim=Z, hidden=(4,))

    def make_data(self) -> Data:
        torch.manual_seed(4)
        return {key: value[-6:] for key, value in gappy().items()}


class TestOtherLikelihood(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return missing_data_vae(D, latent_dim=Z, hidden=(4,), likelihood=likelihoods.bernoulli())

    def make_data(self) -> Data:
        x = gappy(6)
        return {**x, "x": (x["x"] > 0).float()}


def with_twin() -> tuple[LatentModel, LinearGaussian]:
    """A pair whose decoder is linear, since relu(z) - relu(-z) = z, and factor analysis of the same parameters."""
    torch.manual_seed(5)
    likelihood = likelihoods.gaussian(scale="per-dimension")
    pair = missing_data_vae(D, latent_dim=Z, hidden=(2 * Z,), activation="relu", likelihood=likelihood).double()
    twin = LinearGaussian(
        z=Latent(StandardNormal(Z)), x=Observed(LinearNormal([Z], D).given("z"), mask="seen"), seen=Mask()
    ).double()
    scramble(pair, 0.3)
    scramble(twin, 0.3)
    exact = twin.likelihood_x
    head = pair.likelihood_x.head
    with torch.no_grad():
        head.trunk.layers[0].weight.copy_(torch.cat([torch.eye(Z), -torch.eye(Z)]))
        head.trunk.layers[0].bias.zero_()
        head.layers[0].weight.copy_(torch.cat([exact.weights[0], -exact.weights[0]], 1))
        head.layers[0].bias.copy_(exact.bias)
        pair.likelihood_x.log_scale.copy_(exact.log_scale)
    return pair, twin


def test_evidence_is_that_of_factor_analysis_with_gaps(float64: torch.dtype) -> None:
    (pair, twin), x = with_twin(), gappy()
    latents = draw(pair, x, 3).latents
    torch.testing.assert_close(log_joint(pair, x, latents).local, log_joint(twin, x, latents).local)
    exact = twin.log_evidence(x).detach()
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_chains=64, num_temperatures=60, start="prior")):
        found = log_evidence(pair, x, method=method, progress=False)
        assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error + 1e-9).all())
        assert float(found.standard_error.max()) < 0.2
    assert float(exact[-1].abs()) < 1e-9  # of a datum without entries, log 1


def test_what_stands_in_a_gap_is_not_read(float64: torch.dtype) -> None:
    pair, x = missing_data_vae(D, latent_dim=Z, hidden=(4,)).double(), gappy()
    other = {**x, "x": x["x"].where(x["seen"], torch.tensor(1e6))}
    bounds = []
    for batch in (x, other):
        torch.manual_seed(1)
        terms = elbo.ImportanceWeightedELBO(5).terms(pair, batch)
        gradient = torch.autograd.grad(terms.objective(), list(pair.parameters()))
        bounds.append([terms.local.detach(), *gradient])
    torch.testing.assert_close(bounds[0], bounds[1], rtol=0, atol=0)


def test_gaps_are_filled_as_factor_analysis_fills_them(float64: torch.dtype) -> None:
    (pair, twin), x = with_twin(), gappy()
    found = inpaint(pair, x, num_chains=64, num_steps=120, num_burn_in=60)
    loc = twin.posterior(x).mean.detach() @ twin.likelihood_x.weights[0].detach().T + twin.likelihood_x.bias.detach()
    gaps = ~x["seen"]
    error = (found.mean - loc)[gaps].abs() / found.standard_error[gaps]
    assert float(error.max()) < 4 and float(found.standard_error[gaps].max()) < 0.2


def test_what_is_refused() -> None:
    with pytest.raises(PpvaeError, match=r"expected rows of D entries, found data of shape \(2, 3\)"):
        missing_data_vae((2, 3))
    with pytest.raises(PpvaeError, match="latent_dim: expected at least one"):
        missing_data_vae(6, latent_dim=0)
    with pytest.raises(PairError, match=r"members 'seen', 'x', found one tensor"):
        fit(missing_data_vae(D), torch.randn(10, D), num_epochs=1, progress=False)
    batch = {"x": torch.randn(10, D), "seen": torch.ones(10)}
    with pytest.raises(PairError, match=r"member 'seen': expected the shape of 'x', \[10, 5\], found \[10\]"):
        fit(missing_data_vae(D), batch, num_epochs=1, progress=False)
