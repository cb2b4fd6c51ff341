"""The mixture of factor analysers: closed forms against its own program, brute force, quadrature and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from contracts.exact_twins import enumerated_draws, gradients, log_density, scramble
from contracts.pair import PairContract
from pyro.infer import TraceEnum_ELBO
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppvae.core import DataError, ModelGuidePair, PairError, check_pair, draw, log_joint
from ppvae.distributions import FullCovarianceNormal
from ppvae.models import FactorAnalysis, MixtureOfFactorAnalysers
from ppvae.networks import MLP


def mixture(num_components: int = 3, data_dim: int = 4, latent_dim: int = 2) -> MixtureOfFactorAnalysers:
    pair = MixtureOfFactorAnalysers(num_components, data_dim, latent_dim)
    scramble(pair)
    return pair


class TestMixtureOfFactorAnalysers(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return mixture().with_posterior(FullCovarianceNormal(MLP(4, [3]), 2))

    def make_data(self) -> Tensor:
        return torch.randn(6, 4)

    def test_particles_run_at_once(self, pair: ModelGuidePair, x: Tensor) -> None:
        check_pair(pair, x)
        assert pair.vectorizes


def test_the_waist_sums_the_component_out(float64: torch.dtype) -> None:
    pair, x = mixture(), torch.randn(5, 4)
    drawn = draw(pair, x, 3)
    assert {info.name for info in check_pair(pair, x).model_latents} == set(drawn.latents) == {"z"}
    local = log_joint(pair, x, drawn.latents).local
    torch.testing.assert_close(local, pair.log_joint(x, drawn.latents["z"]))
    torch.testing.assert_close(local - drawn.log_q, pair.log_evidence(x).expand(3, 5))


def test_evidence_is_the_sum_over_components_of_full_normals(float64: torch.dtype) -> None:
    pair, x = mixture(), 2 * torch.randn(7, 4)

    def brute_force() -> Tensor:
        terms = []
        for k in range(3):
            covariance = pair.loading[k] @ pair.loading[k].T + torch.diag(pair.scale[k].square())
            terms.append(pair.probs[k].log() + MultivariateNormal(pair.loc[k], covariance).log_prob(x))
        return torch.stack(terms, -1)

    exact = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(pair.log_evidence(x), brute_force().logsumexp(-1), **exact)
    torch.testing.assert_close(pair.marginal().log_prob(x), brute_force().logsumexp(-1), **exact)
    torch.testing.assert_close(pair.discrete_posterior(x), brute_force().softmax(-1), **exact)
    expected = gradients(brute_force().logsumexp(-1), pair)
    for found, other in zip(gradients(pair.log_evidence(x), pair), expected, strict=True):
        torch.testing.assert_close(found, other, **exact)
        assert bool(found.abs().sum() > 0)


def test_evidence_equals_scikit_learns_mixture_of_full_normals(float64: torch.dtype) -> None:
    pair, x = mixture(), 2 * torch.randn(50, 4)
    covariances = (pair.loading @ pair.loading.mT + torch.diag_embed(pair.scale.square())).detach().numpy()
    peer = GaussianMixture(3, covariance_type="full")
    peer.weights_, peer.means_, peer.covariances_ = pair.probs.detach().numpy(), pair.loc.detach().numpy(), covariances
    peer.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    for found, expected in (
        (pair.log_evidence(x), peer.score_samples(x.numpy())),
        (pair.discrete_posterior(x), peer.predict_proba(x.numpy())),
    ):
        torch.testing.assert_close(found.detach(), torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_without_a_loading_it_is_scikit_learns_fitted_mixture(float64: torch.dtype) -> None:
    x = torch.cat([torch.randn(40, 3) - 2, 0.5 * torch.randn(60, 3) + 1])
    peer = GaussianMixture(2, covariance_type="diag", random_state=0).fit(x.numpy())
    loading = np.full((2, 3, 1), 1e-9)
    pair = MixtureOfFactorAnalysers.from_parameters(peer.weights_, peer.means_, loading, np.sqrt(peer.covariances_))
    expected = torch.as_tensor(peer.score_samples(x.numpy()))
    torch.testing.assert_close(pair.log_evidence(x).detach(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(pair.posterior(x).mean.detach(), torch.zeros(100, 1))


def test_closed_forms_are_those_of_the_program(float64: torch.dtype) -> None:
    """log p(x, y, z) by Pyro's trace of the program, at every y: also with sample axes on the left of z."""
    pair, x = mixture(), torch.randn(5, 4)
    z = torch.randn(2, 3, 5, 2)
    for i in range(2):
        for j in range(3):
            terms = [log_density(pair, x, {"y": torch.full((5,), k), "z": z[i, j]}) for k in range(3)]
            expected = torch.stack(terms, -1)
            torch.testing.assert_close(pair.log_joint(x, z)[i, j].detach(), expected.logsumexp(-1))
            torch.testing.assert_close(pair.discrete_conditional(x, z)[i, j].detach(), expected.softmax(-1))
    assert pair.discrete_conditional(x, z[0, 0]).shape == (5, 3)


def test_posterior_is_the_joint_over_the_evidence(float64: torch.dtype) -> None:
    pair, x = mixture(), torch.randn(5, 4)
    z = pair.posterior(x).sample((20,))
    found, expected = pair.posterior(x).log_prob(z), pair.log_joint(x, z) - pair.log_evidence(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_posterior_moments_by_quadrature(float64: torch.dtype) -> None:
    """One factor: the trapezoid rule over z, of a posterior of two modes."""
    pair = MixtureOfFactorAnalysers.from_parameters(
        [0.3, 0.7], [[0.3, -1.0], [0.5, 0.4]], [[[1.5], [-0.5]], [[-1.0], [-2.0]]], [[0.5, 0.8], [0.3, 0.6]]
    )
    x = torch.tensor([[0.9, 0.2], [-1.0, -2.0], [2.0, 0.5]])
    grid = torch.linspace(-9, 9, 4001)
    density = pair.log_joint(x, grid[:, None, None].expand(-1, 3, 1)).detach().exp()
    evidence = torch.trapezoid(density, grid, dim=0)
    torch.testing.assert_close(evidence.log(), pair.log_evidence(x).detach())
    mean = torch.trapezoid(density * grid[:, None], grid, dim=0) / evidence
    variance = torch.trapezoid(density * (grid[:, None] - mean).square(), grid, dim=0) / evidence
    torch.testing.assert_close(pair.posterior(x).mean[:, 0].detach(), mean)
    torch.testing.assert_close(pair.posterior(x).variance[:, 0].detach(), variance)


def test_with_one_component_it_is_factor_analysis(float64: torch.dtype) -> None:
    one = mixture(1)
    other = FactorAnalysis.from_parameters(one.loc[0], one.loading[0], one.scale[0])
    x = torch.randn(6, 4)
    torch.testing.assert_close(one.log_evidence(x), other.log_evidence(x))
    torch.testing.assert_close(one.posterior(x).mean, other.posterior(x).mean)
    torch.testing.assert_close(one.marginal().mean[None], other.marginal().mean[None])


def test_parameters_may_have_sample_axes_on_their_left(float64: torch.dtype) -> None:
    """As weights that are drawn have, [P, 1, ...], beside an enumerated component [K, 1, 1] and latents [P, B, Z]."""
    single = [mixture().components for _ in range(2)]
    several, x, z = mixture().components, torch.randn(5, 4), torch.randn(2, 5, 2)
    for name, _ in list(several.named_parameters()):
        values = torch.stack([getattr(components, name).detach() for components in single])[:, None]
        setattr(several, name, torch.nn.Parameter(values))
    log_prob = several.given(torch.arange(3)[:, None, None], z).log_prob(x)
    assert log_prob.shape == (3, 2, 5)
    for p, components in enumerate(single):
        expected = components.log_given(x, z[p])
        torch.testing.assert_close(log_prob[:, p], expected.T)
        torch.testing.assert_close(several.log_given(x, z)[p], expected)
        torch.testing.assert_close(several.log_marginal(x)[p], components.log_marginal(x))
        torch.testing.assert_close(several.posterior(x).mean[p], components.posterior(x).mean)


def test_every_draw_of_pyros_enumerated_bound_is_the_evidence(float64: torch.dtype) -> None:
    pair, x = mixture(), torch.randn(6, 4)
    exact = pair.log_evidence(x).sum().detach()
    torch.testing.assert_close(enumerated_draws(pair, x, 4), exact.expand(4), rtol=1e-10, atol=1e-10)
    particles = TraceEnum_ELBO(max_plate_nesting=1, num_particles=5, vectorize_particles=True)
    torch.testing.assert_close(torch.tensor(-particles.loss(pair.model, pair.guide, x)), exact, rtol=1e-10, atol=1e-10)
    scaled = TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x, 60)
    torch.testing.assert_close(torch.tensor(-scaled), 10 * exact, rtol=1e-10, atol=1e-10)


def test_another_guide_shares_the_model_and_loosens_the_bound(float64: torch.dtype) -> None:
    pair, x = mixture(), torch.randn(6, 4)
    other = pair.with_posterior(FullCovarianceNormal(MLP(4, [3]), 2))
    torch.testing.assert_close(other.log_evidence(x), pair.log_evidence(x), rtol=0, atol=0)
    draws = enumerated_draws(other, x, 200)
    gap = pair.log_evidence(x).sum().item() - draws.mean()
    assert gap > 4 * draws.std() / math.sqrt(200) and draws.std() > 0.1
    assert {id(p) for p in pair.parameters()} < {id(p) for p in other.parameters()}
    torch.testing.assert_close(
        enumerated_draws(other.with_posterior(None), x, 1)[0], pair.log_evidence(x).sum().detach()
    )


def test_bad_parameters() -> None:
    good = {"probs": [0.3, 0.7], "loc": [[0.0], [1.0]], "loading": [[[1.0]], [[1.0]]], "scale": [[1.0], [2.0]]}
    assert MixtureOfFactorAnalysers.from_parameters(**good).probs.tolist() == pytest.approx([0.3, 0.7])
    for change, message in (
        ({"scale": [[1.0], [0.0]]}, "positive scale"),
        ({"scale": [1.0, 1.0]}, r"expected loc \[K, D\], loading \[K, D, Z\] and scale"),
        ({"loading": [[1.0], [1.0]]}, r"found \[2, 1\], \[2, 1\] and \[2, 1\]"),
        ({"probs": [0.2, 0.3, 0.5]}, r"K = 2 as in loc, found \[3\]"),
        ({"probs": [0.3, 0.6]}, "sums from 0.9 to 0.9"),
        ({"probs": [0.0, 1.0]}, "a minimum of 0\n"),
    ):
        with pytest.raises(PairError, match=message):
            MixtureOfFactorAnalysers.from_parameters(**{**good, **change})
    with pytest.raises(PairError, match="at least 1, found 2, 3 and 0"):
        MixtureOfFactorAnalysers(2, 3, 0)
    with pytest.raises(PairError, match=r"event shape to be \(2,\), found \(3,\)"):
        MixtureOfFactorAnalysers(2, 4, 2, posterior=FullCovarianceNormal(MLP(4, [3]), 3))
    for x in (torch.zeros(5, 3), torch.zeros(4), torch.zeros(0, 4)):
        with pytest.raises(DataError, match=r"expected x \[B, D\] with D = 4"):
            mixture().log_evidence(x)


def test_parameters_have_the_dtype_that_is_given() -> None:
    """Whole numbers among them are no reason for parameters that are whole numbers."""
    values = [[0, 1]], np.ones((1, 2, 1)), [[1, 2]]
    pair = MixtureOfFactorAnalysers.from_parameters([1], *values)
    assert {p.dtype for p in pair.parameters()} == {torch.float64}
    assert pair.log_evidence(torch.zeros(2, 2, dtype=torch.float64)).dtype == torch.float64
    assert MixtureOfFactorAnalysers.from_parameters([1], [[0]], [[[1]]], [[1]]).loc.dtype == torch.float32
