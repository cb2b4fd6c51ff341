"""The linear-Gaussian state space: its filter against dense normals, Pyro's GaussianHMM and Kalman's recursions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.exact_twins import gradients, log_density, scramble
from contracts.pair import PairContract
from torch import Tensor
from torch.distributions import MultivariateNormal

from ppvae.core import DataError, ModelGuidePair, PairError, check_pair, draw, log_joint
from ppvae.distributions import DiagonalNormal, MarkovNormal, StepwiseNormal
from ppvae.inference import elbo, evidence, log_evidence
from ppvae.models import LinearGaussianStateSpace
from ppvae.networks import MLP, Combiner, Recurrent

T, Z, D = 5, 2, 3
EXACT = {"rtol": 1e-10, "atol": 1e-10}
LENGTHS = torch.tensor([T, 1, 3, 4])


def state_space() -> LinearGaussianStateSpace:
    pair = LinearGaussianStateSpace(D, Z)
    scramble(pair, 0.3)
    return pair


def dense(pair: LinearGaussianStateSpace, num_steps: int) -> tuple[Tensor, ...]:
    """Means and covariances of z, [T * Z], and x, [T * D], and of z with x, from z = M z + c + S e."""
    step = pair.transition
    below = torch.kron(torch.diag(torch.ones(num_steps - 1), -1), step.matrix)
    inverse = torch.linalg.inv(torch.eye(num_steps * Z) - below)
    spread = torch.cat([pair.initial_scale, step.log_scale.exp().repeat(num_steps - 1)])
    of_z = (inverse * spread) @ (inverse * spread).T
    mean_z = inverse @ torch.cat([pair.initial_loc, step.loc.repeat(num_steps - 1)])
    loading = torch.kron(torch.eye(num_steps), pair.loading)
    of_x = loading @ of_z @ loading.T + torch.diag(pair.scale.square().repeat(num_steps))
    return mean_z, of_z, loading @ mean_z + pair.loc.repeat(num_steps), of_x, of_z @ loading.T


def by_dense_normal(pair: LinearGaussianStateSpace, x: Tensor) -> Tensor:
    _, _, mean, covariance, _ = dense(pair, x.shape[1])
    return MultivariateNormal(mean, covariance).log_prob(x.flatten(1))


def by_kalman(pair: LinearGaussianStateSpace, x: Tensor) -> Tensor:
    """Forwards, in the textbook's form (Bishop 2006, equations 13.87 to 13.91)."""
    step, noise = pair.transition, torch.diag(pair.scale.square())
    mean, covariance, total = pair.initial_loc, torch.diag(pair.initial_scale.square()), torch.zeros(len(x))
    for t in range(x.shape[1]):
        if t:
            mean = mean @ step.matrix.T + step.loc
            covariance = step.matrix @ covariance @ step.matrix.T + torch.diag(step.log_scale.exp().square())
        predicted = MultivariateNormal(
            mean @ pair.loading.T + pair.loc, pair.loading @ covariance @ pair.loading.T + noise
        )
        total = total + predicted.log_prob(x[:, t])
        gain = covariance @ pair.loading.T @ predicted.precision_matrix.reshape(-1, D, D)[0]
        mean = mean + (x[:, t] - mean @ pair.loading.T - pair.loc) @ gain.T
        covariance = covariance - gain @ pair.loading @ covariance
    return total


def backward_guide(lengths: bool = False) -> MarkovNormal:
    return MarkovNormal(
        DiagonalNormal(Combiner(Z, 4), Z), T, trunk=Recurrent(D, 4, direction="backward"), lengths=lengths
    )


# --- the contract of a pair ---


class TestLinearGaussianStateSpace(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return state_space().with_posterior(backward_guide())

    def make_data(self) -> Any:
        return torch.randn(6, T, D)

    def test_particles_run_at_once(self, pair: ModelGuidePair, x: Any) -> None:
        check_pair(pair, x)
        assert pair.vectorizes


class TestOfPaddedSequences(TestLinearGaussianStateSpace):
    def make_pair(self) -> ModelGuidePair:
        return state_space().with_posterior(backward_guide(lengths=True))

    def make_data(self) -> Any:
        return {"x": torch.randn(6, T, D), "lengths": torch.tensor([T, 1, 3, 4, 2, T])}


class TestWithBothWaysGuide(TestOfPaddedSequences):
    def make_pair(self) -> ModelGuidePair:
        return state_space().with_posterior(StepwiseNormal(Recurrent(D, 4, direction="both"), (T, Z), lengths=True))


class TestWithItsExactPosterior(TestOfPaddedSequences):
    def make_pair(self) -> ModelGuidePair:
        return state_space()


# --- closed forms ---


@pytest.mark.parametrize("num_steps", [1, 2, T])
def test_evidence_and_its_gradient_are_those_of_a_dense_normal(num_steps: int, float64: torch.dtype) -> None:
    pair, x = state_space(), 2 * torch.randn(4, num_steps, D)
    expected = by_dense_normal(pair, x)
    torch.testing.assert_close(pair.log_evidence(x), expected, **EXACT)
    torch.testing.assert_close(pair.marginal(num_steps).log_prob(x), expected, **EXACT)  # Pyro's GaussianHMM
    torch.testing.assert_close(by_kalman(pair, x), expected, **EXACT)
    if num_steps > 1:
        for found, other in zip(gradients(pair.log_evidence(x), pair), gradients(expected, pair), strict=True):
            torch.testing.assert_close(found, other, **EXACT)
            assert bool(found.abs().sum() > 0)


@pytest.mark.parametrize(("moving", "noise"), [(1e-4, 1.0), (1e3, 1.0), (1.0, 1e-4), (1e-3, 1e3)])
def test_noise_of_any_size_is_as_exact(moving: float, noise: float, float64: torch.dtype) -> None:
    pair = state_space()
    with torch.no_grad():
        pair.transition.log_scale.add_(torch.tensor(moving).log())
        pair.log_scale.add_(torch.tensor(noise).log())
    x = pair.marginal(T).sample((4,)).detach()
    torch.testing.assert_close(pair.log_evidence(x), by_dense_normal(pair, x), rtol=1e-7, atol=1e-7)


def test_padding_is_left_out_exactly_whatever_stands_in_it(float64: torch.dtype) -> None:
    pair, x = state_space(), torch.randn(4, T, D)
    inside = torch.arange(T) < LENGTHS[:, None]
    for junk in (0.0, torch.nan, torch.inf):
        batch = {"x": x.where(inside[..., None], junk), "lengths": LENGTHS}
        found = pair.log_evidence(batch)
        for b, length in enumerate(LENGTHS.tolist()):
            alone = x[b : b + 1, :length]
            torch.testing.assert_close(found[b], pair.log_evidence(alone)[0], rtol=0, atol=1e-13)
            smoothed, expected = pair.marginal_posterior(batch), pair.marginal_posterior(alone)
            torch.testing.assert_close(smoothed.mean[b, :length], expected.mean[0], **EXACT)
            torch.testing.assert_close(smoothed.covariance_matrix[b, :length], expected.covariance_matrix[0], **EXACT)
            assert not bool(smoothed.mean[b, length:].any())
        assert all(bool(g.isfinite().all()) for g in gradients(found, pair))
        # Programs too: the bound of the exact guide is the evidence, and so are its gradients.
        z = pair.posterior(batch).sample()
        joint = log_density(pair, batch, {"z": z})
        torch.testing.assert_close(joint - pair.posterior(batch).log_prob(z), found, **EXACT)


def test_posterior_is_the_dense_normal_given_the_data(float64: torch.dtype) -> None:
    pair, x = state_space(), torch.randn(4, T, D)
    mean_z, of_z, mean_x, of_x, cross = dense(pair, T)
    gain = cross @ torch.linalg.inv(of_x)
    mean = mean_z + (x.flatten(1) - mean_x) @ gain.T
    expected = MultivariateNormal(mean, of_z - gain @ cross.T)
    z = torch.randn(4, T, Z)
    torch.testing.assert_close(pair.posterior(x).log_prob(z), expected.log_prob(z.flatten(1)), **EXACT)
    smoothed = pair.marginal_posterior(x)
    torch.testing.assert_close(smoothed.mean.flatten(1), mean, **EXACT)
    blocks = torch.stack([expected.covariance_matrix[:, t : t + Z, t : t + Z] for t in range(0, T * Z, Z)], 1)
    torch.testing.assert_close(smoothed.covariance_matrix, blocks, **EXACT)
    assert pair.posterior(x).rsample().requires_grad


def test_programs_say_what_the_closed_forms_say(float64: torch.dtype) -> None:
    """Of several draws at once, through the waist."""
    pair, x = state_space(), {"x": torch.randn(4, T, D), "lengths": LENGTHS}
    drawn = draw(pair, x, 3)
    torch.testing.assert_close(
        log_joint(pair, x, drawn.latents).local - drawn.log_q, pair.log_evidence(x).expand(3, 4), **EXACT
    )


ESTIMATORS = [
    elbo.TraceELBO(num_particles=2),
    elbo.TraceMeanFieldELBO(num_particles=2, on_missing_kl="sample"),
    elbo.ImportanceWeightedELBO(3),
    elbo.RenyiELBO(0.5, num_particles=3),
    elbo.StickingTheLandingELBO(),
    elbo.DoublyReparameterizedELBO(3),
    elbo.VIMCO(3),
    elbo.ScoreFunctionELBO(num_particles=2),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_every_bound_is_the_evidence_of_a_padded_batch(estimator: Any, float64: torch.dtype) -> None:
    pair, x = state_space(), {"x": torch.randn(4, T, D), "lengths": LENGTHS}
    terms = estimator.terms(pair, x)
    torch.testing.assert_close(terms.local, pair.log_evidence(x), **EXACT)


def test_a_wrong_guide_is_wrong_by_what_it_says(float64: torch.dtype) -> None:
    pair, x = state_space(), {"x": torch.randn(4, T, D), "lengths": LENGTHS}
    wrong = pair.with_wrong_guide()
    drawn = draw(wrong, x, 4000)
    gaps = pair.log_evidence(x) - (log_joint(wrong, x, drawn.latents).local - drawn.log_q)
    error = (gaps.mean(0) - wrong.guide_divergence(x)) / (gaps.std(0) / 4000**0.5)
    assert float(error.abs().max().detach()) < 4
    assert not bool(pair.guide_divergence(x).any())
    torch.testing.assert_close(wrong.guide_divergence(x["x"])[0], wrong.guide_divergence(x)[0])
    assert {id(p) for p in pair.parameters()} == {id(p) for p in wrong.parameters()}
    with pytest.raises(PairError, match="known for the exact and the wrong guide only"):
        pair.with_posterior(backward_guide()).guide_divergence(x)


METHODS = {
    "importance": evidence.ImportanceSampling(1000),
    "ais": evidence.AIS(num_temperatures=20),
    "bridge": evidence.BridgeSampling(800, 3, num_warmup=60),
    "exact": evidence.Exact(),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_evidence_method_is_within_its_error(method: str, float64: torch.dtype) -> None:
    """With a guide that is too wide: 4 standard errors for each datum."""
    pair = state_space().with_wrong_guide(shift=0.2, stretch=1.2)
    x = pair.marginal(3).sample((4,)).detach()
    batch = {"x": x, "lengths": torch.tensor([3, 1, 2, 3])}
    found = log_evidence(pair, batch, method=METHODS[method], seed=1, progress=False, compile="eager")
    error = (found.log_evidence - pair.log_evidence(batch).detach()).abs()
    assert bool((error <= 4 * found.standard_error + 1e-9).all()), (error, found.standard_error)
    assert method == "exact" or bool((found.standard_error > 0).all())


# --- bad input ---


GOOD: dict[str, Any] = {
    "initial_loc": [0.0, 1.0],
    "initial_scale": [1.0, 2.0],
    "transition": [[0.9, 0.1], [0.0, 0.8]],
    "transition_scale": [0.5, 0.4],
    "loading": [[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]],
    "loc": [0.1, 0.2, 0.3],
    "scale": [0.3, 0.2, 0.1],
}


def test_given_parameters(float64: torch.dtype) -> None:
    pair = LinearGaussianStateSpace.from_parameters(**GOOD, transition_loc=[0.1, -0.1])
    for name, value in {
        "initial_loc": pair.initial_loc,
        "initial_scale": pair.initial_scale,
        "transition": pair.transition.matrix,
        "transition_scale": pair.transition.log_scale.exp(),
        "loading": pair.loading,
        "loc": pair.loc,
        "scale": pair.scale,
    }.items():
        torch.testing.assert_close(value.detach(), torch.tensor(GOOD[name]))
    assert pair.transition.loc.tolist() == [0.1, -0.1]
    x = pair.marginal(4).sample((3,)).detach()
    torch.testing.assert_close(pair.log_evidence(x), by_dense_normal(pair, x), **EXACT)


def test_bad_parameters() -> None:
    for change, message in (
        ({"scale": [0.3, 0.0, 0.1]}, "scale: expected positive standard deviations, found a minimum of 0"),
        ({"initial_scale": [1.0, -1.0]}, "initial_scale: expected positive"),
        ({"transition": [[0.9, 0.1]]}, r"transition: expected \[2, 2\] as in a loading .* found \[1, 2\]"),
        ({"loc": [0.1]}, r"loc: expected \[3\] .* found \[1\]"),
        ({"loading": [1.0, 2.0]}, r"loading: expected \[D, Z\], found \[2\]"),
        ({"transition_loc": [0.0]}, r"transition_loc: expected \[2\]"),
    ):
        with pytest.raises(PairError, match=message):
            LinearGaussianStateSpace.from_parameters(**{**GOOD, **change})
    with pytest.raises(PairError, match="at least 1, found 3 and 0"):
        LinearGaussianStateSpace(3, 0)
    with pytest.raises(PairError, match=r"event shape to be \(5, 2\), found \(5, 3\)"):
        state_space().with_posterior(DiagonalNormal(MLP((T, D), [3]), (T, 3)))


def test_bad_data() -> None:
    pair, x = state_space(), torch.zeros(2, 3, D)
    for bad in (torch.zeros(2, 3), torch.zeros(2, 3, D + 1), torch.zeros(2, 0, D), torch.zeros(0, 3, D)):
        with pytest.raises(DataError, match=r"expected x \[B, T, D\] with D = 3, found"):
            pair.log_evidence(bad)
    for batch, message in (
        ({"y": x}, r"under the name 'x', found \['y'\]"),
        ({"x": x, "lengths": torch.tensor([1, 2, 3])}, r"expected lengths \[B\] with B = 2, found \[3\]"),
        ({"x": x, "lengths": torch.tensor([1, 4])}, "lengths from 1 to T = 3, found 1 to 4"),
        ({"x": x, "lengths": torch.tensor([0, 3])}, "found 0 to 3"),
    ):
        with pytest.raises(DataError, match=message):
            pair.log_evidence(batch)
