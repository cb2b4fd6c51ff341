"""The models: the inherited contract of a pair, and factor analysis against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contracts.pair import PairContract
from sklearn import decomposition
from sklearn.datasets import load_digits
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, draw, log_joint, site_terms
from ppvae.inference import elbo
from ppvae.models import FactorAnalysis, bernoulli_vae, gaussian_vae


class TestBernoulliVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return bernoulli_vae(7, latent_dim=2, hidden=(5, 4))

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 7), 0.4))


class TestGaussianVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return gaussian_vae(7, latent_dim=2, hidden=(5,))

    def make_data(self) -> Tensor:
        return torch.rand(6, 7)


class TestFactorAnalysis(PairContract):
    def make_pair(self) -> ModelGuidePair:
        model = FactorAnalysis(5, 2)
        with torch.no_grad():
            model.loc.copy_(torch.randn(5))
        return model.with_posterior(model.exact_encoder())

    def make_data(self) -> Tensor:
        return torch.randn(6, 5)


@pytest.fixture
def digits(float64: torch.dtype) -> Tensor:
    return torch.as_tensor(load_digits().data) / 16


@pytest.mark.parametrize("latent_dim", [1, 5, 20])
def test_evidence_equals_scikit_learns_factor_analysis(digits: Tensor, latent_dim: int) -> None:
    """Parameters for parameters; constant columns (scale near zero) are left to scikit-learn's own floor."""
    columns = digits[:, digits.std(0) > 0.01]
    found = decomposition.FactorAnalysis(latent_dim).fit(columns.numpy())
    pair = FactorAnalysis.from_parameters(found.mean_, found.components_.T, np.sqrt(found.noise_variance_))
    expected = torch.as_tensor(found.score_samples(columns.numpy()))
    torch.testing.assert_close(pair.log_evidence(columns).detach(), expected, rtol=1e-9, atol=1e-9)
    assert pair.log_evidence(columns).mean().item() == pytest.approx(found.score(columns.numpy()), abs=1e-9)


@pytest.mark.parametrize("latent_dim", [1, 5, 20])
def test_evidence_equals_scikit_learns_probabilistic_pca(digits: Tensor, latent_dim: int) -> None:
    found = decomposition.PCA(latent_dim).fit(digits.numpy())
    pair = FactorAnalysis.maximum_likelihood(digits, latent_dim, isotropic=True)
    expected = torch.as_tensor(found.score_samples(digits.numpy()))
    torch.testing.assert_close(pair.log_evidence(digits).detach(), expected, rtol=1e-9, atol=1e-9)
    assert pair.isotropic and pair.log_scale.dim() == 0


def test_posterior_equals_scikit_learns_factors(digits: Tensor) -> None:
    columns = digits[:, digits.std(0) > 0.01]
    found = decomposition.FactorAnalysis(4).fit(columns.numpy())
    pair = FactorAnalysis.from_parameters(found.mean_, found.components_.T, np.sqrt(found.noise_variance_))
    expected = torch.as_tensor(found.transform(columns.numpy()))
    torch.testing.assert_close(pair.posterior(columns).mean.detach(), expected, rtol=1e-9, atol=1e-9)


def test_evidence_is_the_integral_of_the_joint(float64: torch.dtype) -> None:
    """One factor: the trapezoid rule over z gives log p(x)."""
    pair = FactorAnalysis.from_parameters([0.3, -1.0, 0.4], [[1.0], [-0.5], [2.0]], [0.5, 1.5, 0.8])
    x = torch.randn(4, 3)
    z = torch.linspace(-9, 9, 4001)
    joint = log_joint(pair, x, {"z": z[:, None, None].expand(-1, 4, 1)}).local.detach()
    torch.testing.assert_close(torch.trapezoid(joint.exp(), z, dim=0).log(), pair.log_evidence(x).detach())


@pytest.mark.parametrize("isotropic", [False, True])
def test_exact_guide_makes_every_particle_the_evidence(float64: torch.dtype, isotropic: bool) -> None:
    pair = FactorAnalysis(6, 3, isotropic=isotropic)
    x = torch.randn(5, 6)
    exact = pair.log_evidence(x).detach().expand(4, 5)
    for guide in (pair, pair.with_posterior(pair.exact_encoder())):
        drawn = draw(guide, x, 4)
        found = (log_joint(guide, x, drawn.latents).local - drawn.log_q).detach()
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    mixed = (log_joint(pair, x, drawn.latents).local - draw(pair, x, 4).log_q).detach()
    assert mixed.std() > 0.1  # the log q of other draws does not give it


def test_wrong_guide_is_wrong_by_the_stated_divergence(float64: torch.dtype) -> None:
    pair = FactorAnalysis(6, 3)
    x = torch.randn(5, 6)
    wrong = pair.with_wrong_guide(shift=0.4, stretch=1.5)
    analytic = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(
            pair.posterior(x).mean + 0.4 * pair.posterior(x).scale_tril.sum(-1),
            scale_tril=1.5 * pair.posterior(x).scale_tril,
        ),
        torch.distributions.MultivariateNormal(pair.posterior(x).mean, scale_tril=pair.posterior(x).scale_tril),
    )
    torch.testing.assert_close(analytic.detach(), torch.full((5,), wrong.guide_divergence()))
    with torch.no_grad():
        drawn = draw(wrong, x, 20_000)
        log_w = log_joint(wrong, x, drawn.latents).local - drawn.log_q
    gap = pair.log_evidence(x).detach() - log_w.mean(0)
    error = log_w.std(0) / math.sqrt(20_000)
    assert bool(((gap - wrong.guide_divergence()).abs() < 4.5 * error).all())
    assert bool((gap > 10 * error).all())


def test_ladder_of_bounds_under_the_wrong_guide(float64: torch.dtype) -> None:
    """ELBO < L_5 < L_50 <= log p(x), each step more than four measured standard errors."""
    pair = FactorAnalysis(6, 3)
    x = pair.marginal().sample((50,)).detach()
    wrong = pair.with_wrong_guide(shift=0.6, stretch=1.4)
    with torch.no_grad():
        drawn = draw(wrong, x, 50 * 400)
        log_w = (log_joint(wrong, x, drawn.latents).local - drawn.log_q).reshape(400, 50, 50)  # [repeat, K, datum]
    exact = pair.log_evidence(x).detach().mean()
    estimates = {
        1: log_w.mean(1).mean(-1),
        5: (log_w.reshape(400, 10, 5, 50).logsumexp(2) - math.log(5)).mean(1).mean(-1),
        50: (log_w.logsumexp(1) - math.log(50)).mean(-1),
    }
    means = {k: v.mean() for k, v in estimates.items()}
    errors = {k: v.std() / 20 for k, v in estimates.items()}
    assert means[5] - means[1] > 4 * (errors[1] + errors[5])
    assert means[50] - means[5] > 4 * (errors[5] + errors[50])
    assert means[50] <= exact + 4 * errors[50]


def test_analytic_kl_of_multivariate_normals(float64: torch.dtype) -> None:
    pair = FactorAnalysis(6, 3)
    term = site_terms(pair, torch.randn(5, 6))["z"]
    assert term.route == "analytic"
    assert bool((term.kl > 0).all())  # type: ignore[operator]


def test_maximum_likelihood_has_no_gradient_left(digits: Tensor) -> None:
    columns = digits[:, digits.std(0) > 0.1]
    for isotropic in (False, True):
        pair = FactorAnalysis.maximum_likelihood(columns, 3, isotropic=isotropic, tolerance=1e-8)
        pair.log_evidence(columns).mean().backward()
        # PCA divides by N - 1, so its optimum is that of the likelihood up to 1 / N.
        for parameter in pair.parameters():
            assert parameter.grad is not None and float(parameter.grad.abs().max()) < (0.05 if isotropic else 2e-3)
        pair.loading.data *= 1.2
        pair.zero_grad()
        pair.log_evidence(columns).mean().backward()
        assert float(pair.loading.grad.abs().max()) > 0.05  # type: ignore[union-attr]


def test_bad_parameters() -> None:
    with pytest.raises(PairError, match="positive scale"):
        FactorAnalysis.from_parameters([0.0], [[1.0]], [0.0])
    with pytest.raises(PairError, match=r"expected loc \[D\], loading \[D, Z\]"):
        FactorAnalysis.from_parameters([0.0, 1.0], [[1.0]], [1.0])
    with pytest.raises(PairError, match="at least 1, found 3 and 0"):
        FactorAnalysis(3, 0)
    with pytest.raises(PairError, match=r"event shape to be \(2,\), found \(3,\)"):
        FactorAnalysis(4, 2, posterior=FactorAnalysis(4, 3).exact_encoder())
    with pytest.raises(DataError, match=r"found \(1, 4\)"):
        FactorAnalysis.maximum_likelihood(torch.zeros(1, 4), 2)
    with pytest.raises(PairError, match="exact and the wrong guide only"):
        FactorAnalysis(4, 2, posterior=FactorAnalysis(4, 2).exact_encoder()).guide_divergence()


def test_presets_are_the_papers_architecture() -> None:
    pair = bernoulli_vae(784, latent_dim=20)
    shapes = [tuple(p.shape) for p in pair.likelihood.parameters()]
    assert shapes == [(500, 20), (500,), (784, 500), (784,)]
    weights = torch.cat([p.flatten() for p in pair.parameters()])
    assert abs(weights.std().item() - 0.1) < 4 * 0.1 / math.sqrt(2 * len(weights))
    frey = gaussian_vae()
    mean = frey.likelihood(torch.randn(3, 10)).mean
    assert mean.shape == (3, 560) and bool((mean > 0).all() and (mean < 1).all())
    assert elbo.TraceMeanFieldELBO().terms(frey, torch.rand(2, 560)).local.shape == (2,)
