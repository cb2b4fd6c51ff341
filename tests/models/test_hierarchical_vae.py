"""Auto-encoders of several layers: the two-level linear Gaussian as exact twin, and two evidence methods."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError, draw, log_joint
from ppvae.distributions import DiagonalNormal, LinearNormal, StandardNormal
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import (
    Latent,
    LatentModel,
    LinearGaussian,
    Observed,
    hierarchical_vae,
    likelihoods,
    posteriors,
    priors,
)
from ppvae.networks import paper

Links = Literal["all", "chain"]


class TestTwoLevels(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return hierarchical_vae(6, latent_dims=(3, 2), hidden=(4, 4), prior=priors.vamp(5))

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 6), 0.4))


class TestChain(PairContract):
    def make_pair(self) -> ModelGuidePair:
        options = {"prior": priors.mixture(3), "posterior": posteriors.planar(1), "likelihood": likelihoods.gaussian()}
        return hierarchical_vae((2, 3), latent_dims=(3, 2, 2), hidden=(4,), links="chain", init=paper(), **options)  # type: ignore[arg-type]

    def make_data(self) -> Tensor:
        return torch.randn(6, 2, 3)


def linear(links: Links, dims: tuple[int, int] = (2, 1)) -> LatentModel:
    """Without hidden layers every mean is linear; the noise of z1 is made the same everywhere."""
    gaussian = likelihoods.gaussian(scale="per-dimension")
    pair = hierarchical_vae(5, latent_dims=dims, hidden=(), links=links, likelihood=gaussian)
    scramble(pair)
    with torch.no_grad():
        pair.prior_z1.head.layers[1].weight.zero_()
        pair.prior_z1.head.layers[1].bias.clamp_(-1, 0.5)
    return pair


def copied(mean: nn.Linear, log_scale: Tensor, sizes: list[int]) -> LinearNormal:
    found = LinearNormal(sizes, mean.out_features)
    for weight, part in zip(found.weights, mean.weight.split(sizes, 1), strict=True):
        weight.data = part.detach().clone()
    found.bias.data, found.log_scale.data = mean.bias.detach().clone(), log_scale.detach().clone()
    return found


def twin(pair: LatentModel, links: Links) -> LinearGaussian:
    small, top = (pair.description.variables[n].prior for n in ("z1", "z2"))  # type: ignore[union-attr]
    below = ["z1", "z2"] if links == "all" else ["z1"]
    sizes = {"z1": small.distribution.event_shape[0], "z2": top.event_shape[0]}  # type: ignore[union-attr]
    head, likelihood = pair.prior_z1.head.layers, pair.likelihood_x
    mean = likelihood.head.layers[0]
    return LinearGaussian(
        z2=Latent(StandardNormal(sizes["z2"])),
        z1=Latent(copied(head[0], head[1].bias, [sizes["z2"]]).given("z2")),
        x=Observed(copied(mean, likelihood.log_scale, [sizes[n] for n in below]).given(*below)),
    )


@pytest.mark.parametrize("links", ["all", "chain"])
def test_linear_networks_make_the_linear_gaussian_model(links: Links, float64: torch.dtype) -> None:
    pair, x = linear(links), torch.randn(4, 5)
    exact = twin(pair, links)
    latents = draw(pair, x, 3).latents
    torch.testing.assert_close(log_joint(pair, x, latents).local, log_joint(exact, x, latents).local)


def affine(layers: nn.ModuleList, mean: Tensor, base: Tensor, scale: Tensor) -> None:
    """The posterior that has these means [n, 1] at the rows of the identity, this one at zero, and this scale."""
    layers[0].weight.data, layers[0].bias.data = (mean - base).mT, base  # type: ignore[union-attr]
    layers[1].weight.data.zero_()  # type: ignore[union-attr]
    layers[1].bias.data = scale.log()  # type: ignore[union-attr]


def test_the_guide_can_be_exact(float64: torch.dtype) -> None:
    """One dimension a layer: q(z2 | x) q(z1 | x, z2) holds the posterior, and the bound has no noise."""
    pair = linear("all", dims=(1, 1))
    exact, points = twin(pair, "all"), torch.cat([torch.zeros(1, 5), torch.eye(5)])
    with torch.no_grad():
        joint = exact.posterior(points)  # of z2 and z1
        mean, covariance = joint.mean, joint.covariance_matrix[0]
        affine(pair.posterior_z2.head.layers, mean[1:, :1], mean[0, :1], covariance[0, 0].sqrt()[None])
        slope = covariance[1, 0] / covariance[0, 0]
        by_x = mean[:, 1:] - slope * mean[:, :1]
        scale = (covariance[1, 1] - slope * covariance[0, 1]).sqrt()[None]
        affine(pair.posterior_z1.head.layers, torch.cat([by_x[1:], by_x[:1] + slope]), by_x[0], scale)
    x = torch.randn(4, 5)
    bound = elbo.TraceELBO(num_particles=3).terms(pair, x).local
    torch.testing.assert_close(bound.expand(4), exact.log_evidence(x))


@pytest.mark.parametrize("links", ["all", pytest.param("chain", marks=pytest.mark.slow)])
def test_evidence_methods_agree(links: Links) -> None:
    torch.manual_seed(2)
    x = torch.bernoulli((torch.rand(200, 1).round() * torch.linspace(0.1, 0.8, 8) + 0.1).expand(200, 8))
    options = {"prior": priors.vamp(4), "activation": "tanh"}
    pair = hierarchical_vae(8, latent_dims=(2, 1), hidden=(8, 8), links=links, **options)  # type: ignore[arg-type]
    how = {
        "num_epochs": 8 if links == "all" else 40,
        "batch_size": 50,
        "learning_rate": 1e-2,
        "compile": "eager",
        "progress": False,
    }
    result = fit(pair, x, elbo=elbo.TraceELBO(), **how)  # type: ignore[arg-type]
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"]
    one = log_evidence(pair, x[:4], method=evidence.ImportanceSampling(2000), compile="eager", progress=False)
    annealed = evidence.AIS(num_temperatures=10, num_chains=64)
    two = log_evidence(pair, x[:4], method=annealed, compile="eager", progress=False)
    error = (one.standard_error**2 + two.standard_error**2).sqrt()
    assert bool(((one.log_evidence - two.log_evidence).abs() < 4.5 * error + 1e-6).all())


def test_a_vamp_prior_reads_what_the_top_reads() -> None:
    options = {"latent_dims": (3, 2), "hidden": (4,), "prior": priors.vamp(5)}
    one = hierarchical_vae((2, 4), **options)  # type: ignore[arg-type]
    assert one.prior_z2.pseudo_inputs.shape == (5, 2, 4) and one.prior_z2.bounds == (0.0, 1.0)
    other = hierarchical_vae((2, 4), links="chain", **options)  # type: ignore[arg-type]
    assert other.prior_z2.pseudo_inputs.shape == (5, 3) and other.prior_z2.bounds is None
    assert isinstance(other.prior_z1, DiagonalNormal)


def test_layers_do_not_run_away_at_the_start() -> None:
    x = 50 * torch.randn(100, 6)
    for links in ("all", "chain"):
        pair = hierarchical_vae(6, latent_dims=(4, 3, 2), hidden=(4,), links=links)  # type: ignore[arg-type]
        assert bool(draw(pair, x, 20).log_q.isfinite().all())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PpvaeError, match="latent_dims: expected at least one layer"):
        hierarchical_vae(6, latent_dims=())
    with pytest.raises(PpvaeError, match="latent_dims: expected at least one latent dimension, found 0"):
        hierarchical_vae(6, latent_dims=(3, 0))
    with pytest.raises(PpvaeError, match="links: unknown word 'chian': did you mean 'chain'"):
        hierarchical_vae(6, links="chian")  # type: ignore[arg-type]
    with pytest.raises(PairError, match="expected a batch"):
        hierarchical_vae(6, latent_dims=(2, 1), hidden=(3,)).model((torch.zeros(2, 6),))  # type: ignore[arg-type]
