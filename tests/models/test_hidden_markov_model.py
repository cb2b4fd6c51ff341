"""The hidden Markov model: closed forms against its own program, all K^T paths, and Pyro's DiscreteHMM."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from contracts.exact_twins import enumerated_draws, gradients, log_density, scramble
from contracts.pair import PairContract
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, check_pair, draw, log_joint
from ppvae.distributions import DiagonalNormal
from ppvae.inference import elbo, evidence, log_evidence
from ppvae.models import HiddenMarkovModel, MixtureOfFactorAnalysers, likelihoods
from ppvae.models.components import StateLikelihood
from ppvae.networks import MLP

STATES, STEPS, SIZE = 3, 5, 4
PATHS = list(itertools.product(range(STATES), repeat=STEPS))
EXACT = {"rtol": 1e-10, "atol": 1e-10}
KINDS: dict[str, dict[str, Any]] = {
    "categories": {"num_categories": 4},
    "normals": {"data_dim": 3},
    "likelihood": {"data_dim": 3, "likelihood": likelihoods.bernoulli()},
    "factor-analysers": {"data_dim": 3, "latent_dim": 2},
}
every_kind = pytest.mark.parametrize("kind", KINDS)
whole_or_not = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


def chain(kind: str) -> HiddenMarkovModel:
    pair = HiddenMarkovModel(STATES, **KINDS[kind])
    scramble(pair)
    return pair


def sequences(kind: str, padded: bool = False) -> Any:
    x = torch.randint(0, 4, (SIZE, STEPS)) if kind == "categories" else 1.5 * torch.randn(SIZE, STEPS, 3)
    if kind == "likelihood":
        x = (x > 0).to(x)
    return {"x": x, "lengths": torch.tensor([STEPS, 1, 3, 4])} if padded else x


def tied_chain() -> HiddenMarkovModel:
    """States that last, which one step does not tell apart and by which the sign of its latents is known."""
    pair = HiddenMarkovModel(STATES, data_dim=3, latent_dim=2)
    emission: Any = pair.emission
    with torch.no_grad():
        pair.transition_logits.copy_(3 * torch.eye(STATES) + 0.3 * torch.randn(STATES, STATES))
        emission.loc.mul_(0.2)
        emission.loading.copy_(emission.loading[0] * torch.tensor([1.0, -0.8, 0.5])[:, None, None])
        emission.log_scale.fill_(-0.5)
    return pair


def path_terms(pair: HiddenMarkovModel, x: Any) -> Tensor:
    """log p(x, path) of every path, [B, paths], differentiable, from full normals or the table of categories."""
    x, lengths = (x["x"], x["lengths"]) if isinstance(x, dict) else (x, torch.full((SIZE,), STEPS))
    paths = torch.tensor(PATHS)
    steps = torch.stack([step(pair, y).log_prob(x) for y in range(STATES)], -1)  # [B, T, K]
    present = torch.arange(STEPS) < lengths[:, None]
    total = pair.initial_probs.log()[paths[:, 0]]
    for t in range(1, STEPS):
        total = total + pair.transition_probs.log()[paths[:, t - 1], paths[:, t]]
    return total + sum(steps[:, t, paths[:, t]] * present[:, t, None] for t in range(STEPS))


def step(pair: HiddenMarkovModel, y: int) -> Any:
    """p(x_t | y_t)."""
    emission: Any = pair.emission
    if pair.num_categories:
        return dist.Categorical(probs=emission.probs[y])
    if isinstance(emission, StateLikelihood):
        table = emission.likelihood.head.layers[0]
        return dist.Bernoulli(logits=table.weight[:, y] + table.bias).to_event(1)
    covariance = torch.diag(emission.scale[y].square())
    if pair.latent_dim:
        covariance = covariance + emission.loading[y] @ emission.loading[y].T
    return dist.MultivariateNormal(emission.loc[y], covariance)


def state_probabilities(terms: Tensor) -> Tensor:
    """p(y_t | x), [B, T, K], from the terms of all paths."""
    weights = terms.softmax(-1)
    one_hot = torch.nn.functional.one_hot(torch.tensor(PATHS), STATES).to(weights.dtype)
    return torch.einsum("bp,ptk->btk", weights, one_hot)


def step_posteriors(pair: HiddenMarkovModel, x: Any) -> tuple[Tensor, Tensor]:
    """Means [B, T, K, Z] and covariances [B, T, K, Z, Z] of p(z_t | y_t, x_t), by conditioning the joint normal."""
    x, lengths = (x["x"], x["lengths"]) if isinstance(x, dict) else (x, torch.full((SIZE,), STEPS))
    emission: Any = pair.emission
    means, covariances = torch.zeros(SIZE, STEPS, STATES, 2), torch.zeros(SIZE, STEPS, STATES, 2, 2)
    for b, t, k in itertools.product(range(SIZE), range(STEPS), range(STATES)):
        loading = emission.loading[k].detach()
        gain = loading.T @ torch.inverse(loading @ loading.T + torch.diag(emission.scale[k].detach().square()))
        gain = gain * float(t < lengths[b])
        means[b, t, k] = gain @ (x[b, t] - emission.loc[k].detach())
        covariances[b, t, k] = torch.eye(2) - gain @ loading
    return means, covariances


class Latents(PairContract):
    """Continuous latents, with a guide of its own."""

    def make_pair(self) -> ModelGuidePair:
        posterior = DiagonalNormal(MLP((STEPS, 3), [3]), (STEPS, 2))
        return chain("factor-analysers").with_posterior(posterior)

    def test_particles_run_at_once(self, pair: ModelGuidePair, x: Any) -> None:
        check_pair(pair, x)
        assert pair.vectorizes


class TestHiddenMarkovModel(Latents):
    def make_data(self) -> Tensor:
        return torch.randn(6, STEPS, 3)


class TestHiddenMarkovModelOfPaddedSequences(Latents):
    def make_data(self) -> dict[str, Tensor]:
        return {"x": torch.randn(6, STEPS, 3), "lengths": torch.tensor([5, 1, 3, 4, 2, 5])}


@whole_or_not
def test_the_waist_sums_the_states_out(float64: torch.dtype, padded: bool) -> None:
    pair, x = chain("factor-analysers"), sequences("factor-analysers", padded)
    drawn = draw(pair, x, 3)
    assert {info.name for info in check_pair(pair, x).model_latents} == set(drawn.latents) == {"z"}
    local = log_joint(pair, x, drawn.latents).local
    torch.testing.assert_close(local, pair.log_joint(x, drawn.latents["z"]))
    torch.testing.assert_close(local - drawn.log_q, pair.log_evidence(x).expand(3, SIZE))


@whole_or_not
@pytest.mark.parametrize("kind", ["categories", "normals"])
def test_the_waist_serves_an_empty_guide(float64: torch.dtype, kind: str, padded: bool) -> None:
    pair, x = chain(kind), sequences(kind, padded)
    assert check_pair(pair, x).model_latents == ()
    bound = elbo.TraceELBO().terms(pair, x)
    torch.testing.assert_close(bound.local, pair.log_evidence(x))
    for found, expected in zip(gradients(bound.local, pair), gradients(pair.log_evidence(x), pair), strict=True):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(log_joint(pair, x, {}).local, pair.log_evidence(x))
    exact = log_evidence(pair, x, method=evidence.Exact(), progress=False)
    torch.testing.assert_close(exact.log_evidence, pair.log_evidence(x).detach())


@whole_or_not
@every_kind
def test_evidence_is_the_sum_over_all_paths(float64: torch.dtype, kind: str, padded: bool) -> None:
    pair, x = chain(kind), sequences(kind, padded)
    terms = path_terms(pair, x)
    torch.testing.assert_close(pair.log_evidence(x), terms.logsumexp(-1), **EXACT)
    torch.testing.assert_close(pair.discrete_posterior(x), state_probabilities(terms), **EXACT)
    expected = gradients(terms.logsumexp(-1), pair)
    for found, other in zip(gradients(pair.log_evidence(x), pair), expected, strict=True):
        torch.testing.assert_close(found, other, **EXACT)
        assert bool(found.abs().sum() > 0)


@whole_or_not
@every_kind
def test_every_draw_of_pyros_enumerated_bound_is_the_evidence(float64: torch.dtype, kind: str, padded: bool) -> None:
    pair, x = chain(kind), sequences(kind, padded)
    exact = pair.log_evidence(x).sum().detach()
    torch.testing.assert_close(enumerated_draws(pair, x, 4), exact.expand(4), **EXACT)
    particles = TraceEnum_ELBO(max_plate_nesting=1, num_particles=5, vectorize_particles=True)
    torch.testing.assert_close(torch.tensor(-particles.loss(pair.model, pair.guide, x)), exact, **EXACT)
    scaled = TraceEnum_ELBO(max_plate_nesting=1).loss(pair.model, pair.guide, x, 10 * SIZE)
    torch.testing.assert_close(torch.tensor(-scaled), 10 * exact, **EXACT)


@whole_or_not
def test_closed_forms_given_the_latents_are_those_of_the_program(float64: torch.dtype, padded: bool) -> None:
    """log p(x, path, z) by Pyro's trace of the program, at every path; z with sample axes on its left."""
    pair, x = chain("factor-analysers"), sequences("factor-analysers", padded)
    z = torch.randn(2, 3, SIZE, STEPS, 2)
    states = ({f"y_{t}": torch.full((SIZE,), y) for t, y in enumerate(path)} for path in PATHS)
    terms = torch.stack([log_density(pair, x, {"z": z[1, 0], **path}) for path in states], -1)
    torch.testing.assert_close(pair.log_joint(x, z)[1, 0].detach(), terms.logsumexp(-1), **EXACT)
    torch.testing.assert_close(pair.discrete_conditional(x, z)[1, 0].detach(), state_probabilities(terms), **EXACT)


@whole_or_not
def test_posterior_is_the_joint_over_the_evidence(float64: torch.dtype, padded: bool) -> None:
    pair, x = chain("factor-analysers"), sequences("factor-analysers", padded)
    z = torch.randn(6, SIZE, STEPS, 2)
    found, expected = pair.posterior(x).log_prob(z), pair.log_joint(x, z) - pair.log_evidence(x)
    torch.testing.assert_close(found, expected, **EXACT)


@whole_or_not
def test_moments_of_the_posterior_are_those_over_all_paths(float64: torch.dtype, padded: bool) -> None:
    """Its marginals exactly; of draws of the joint one the mean, and the moment that ties time steps together."""
    pair, x = tied_chain(), sequences("factor-analysers", padded)
    with torch.no_grad():
        probs = path_terms(pair, x).softmax(-1)
        marginal = pair.marginal_posterior(x)
        drawn = pair.posterior(x).sample((10_000,))
    means, covariances = step_posteriors(pair, x)
    on_path = torch.stack([means[:, range(STEPS), path] for path in PATHS], 1)  # [B, paths, T, Z]
    mean = torch.einsum("bp,bptz->btz", probs, on_path)
    torch.testing.assert_close(marginal.mean, mean, **EXACT)
    states = state_probabilities(probs.log())
    square = torch.einsum("btk,btkz->btz", states, means.square() + covariances.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(marginal.variance, square - mean.square(), **EXACT)

    tied = torch.einsum("bp,bpz,bpv->bzv", probs, on_path[:, :, 1], on_path[:, :, 2])  # E[z_2 z_3]
    products = drawn[:, :, 1, :, None] * drawn[:, :, 2, None, :]
    for sample, expected in ((drawn, mean), (drawn.square(), square), (products, tied)):
        error = sample.std(0) / math.sqrt(len(sample))
        assert bool(((sample.mean(0) - expected).abs() < 4.5 * error).all())
    apart = mean[:, 1, :, None] * mean[:, 2, None, :]
    assert bool(((tied - apart).abs() > 10 * products.std(0) / math.sqrt(len(drawn))).any())  # independent steps fail


@whole_or_not
def test_another_guide_shares_the_model_and_loosens_the_bound(float64: torch.dtype, padded: bool) -> None:
    pair, x = chain("factor-analysers"), sequences("factor-analysers", padded)
    other = pair.with_posterior(DiagonalNormal(MLP((STEPS, 3), [3]), (STEPS, 2)))
    draws = enumerated_draws(other, x, 50)
    gap = pair.log_evidence(x).sum().item() - draws.mean()
    assert gap > 4.5 * draws.std() / math.sqrt(50) and draws.std() > 0.1
    assert {id(p) for p in pair.parameters()} < {id(p) for p in other.parameters()}


def test_the_program_takes_sequences_longer_than_a_tensor_has_axes(float64: torch.dtype) -> None:
    pair, x = chain("categories"), torch.randint(0, 4, (SIZE, 70))
    torch.testing.assert_close(enumerated_draws(pair, x, 1)[0], pair.log_evidence(x).sum().detach(), **EXACT)


def test_the_guide_of_marginals_loosens_the_bound_by_what_ties_the_steps(float64: torch.dtype) -> None:
    pair, x = tied_chain(), sequences("factor-analysers")
    apart = pair.with_marginal_guide()
    draws = enumerated_draws(apart, x, 100)
    gap, error = pair.log_evidence(x).sum().item() - draws.mean(), draws.std() / 10
    assert gap > 4.5 * error
    with torch.no_grad():  # KL(q || p(z | x)) by draws of q
        q = apart.marginal_posterior(x).to_event(1)
        z = q.sample((2_000,))
        log_w = (q.log_prob(z) - pair.posterior(x).log_prob(z)).sum(-1)
    assert abs(gap - log_w.mean()) < 4.5 * (error.square() + log_w.var() / len(z)).sqrt()
    assert {id(p) for p in apart.parameters()} == {id(p) for p in pair.parameters()}


@every_kind
def test_the_marginal_is_a_distribution_of_sequences(float64: torch.dtype, kind: str) -> None:
    pair, x = chain(kind), sequences(kind)
    torch.testing.assert_close(pair.marginal(STEPS).log_prob(x), pair.log_evidence(x), **EXACT)
    assert pair.marginal(STEPS).sample((7,)).shape == (7, *x.shape[1:])


def test_sequences_that_the_marginal_draws_are_as_frequent_as_it_says(float64: torch.dtype) -> None:
    pair = chain("categories")
    every = torch.tensor(list(itertools.product(range(4), repeat=3)))
    probs, drawn = pair.log_evidence(every).detach().exp(), pair.marginal(3).sample((20_000,))
    assert probs.sum().item() == pytest.approx(1)
    shares = (drawn[:, None] == every).all(-1).double().mean(0)
    assert bool(((shares - probs).abs() < 4.5 * (probs * (1 - probs) / len(drawn)).sqrt()).all())
    backwards = pair.log_evidence(every.flip(-1)).detach().exp()
    assert bool(((shares - backwards).abs() > 10 * (probs / len(drawn)).sqrt()).any())


@every_kind
def test_evidence_equals_pyros_discrete_hmm(float64: torch.dtype, kind: str) -> None:
    """Its initial state stands before the first transition; ours is the state of the first time step."""
    pair = chain(kind)
    x = torch.cat([sequences(kind)] * 40, 1)  # T = 200: products of probabilities would be zero
    emission, before = pair.emission.marginal(), torch.tensor([0.6, 0.3, 0.1])
    peer = dist.DiscreteHMM(before.log(), pair.transition_logits, emission)
    ours = chain(kind).with_posterior(None)
    ours.emission, ours.transition_logits = pair.emission, pair.transition_logits
    with torch.no_grad():
        ours.initial_logits.copy_((before @ pair.transition_probs).log())
    torch.testing.assert_close(ours.log_evidence(x), peer.log_prob(x), **EXACT)
    assert bool((pair.log_evidence(x) != ours.log_evidence(x)).all())  # the first state matters
    assert bool((pair.log_evidence(x) < -100).all())


def test_a_long_sequence_of_many_states(float64: torch.dtype) -> None:
    """T = 200, K = 10, where evidence outside float64's range and states far from one another are no difficulty."""
    pair = HiddenMarkovModel(10, data_dim=6, latent_dim=2)
    scramble(pair)
    x = 8 * torch.randn(20, 200, 6)
    found = pair.log_evidence(x)
    torch.testing.assert_close(found, pair.marginal(200).log_prob(x), rtol=1e-9, atol=1e-9)
    assert bool((found < -1000).all())
    states = pair.discrete_posterior(x)
    torch.testing.assert_close(states.sum(-1), torch.ones(20, 200))
    # The smoothing probabilities are the derivative of log p(x) by each step's log p(x_t | y_t).
    potentials = pair.emission.log_marginal(x).detach().requires_grad_()
    (derivative,) = torch.autograd.grad(pair._log_normaliser(potentials).sum(), potentials)
    torch.testing.assert_close(states, derivative)
    narrow = pair.float().log_evidence(x.float())
    torch.testing.assert_close(narrow.double(), found, rtol=1e-5, atol=0)


def test_a_sequence_of_one_step_is_a_mixture_of_factor_analysers(float64: torch.dtype) -> None:
    pair = chain("factor-analysers")
    emission: Any = pair.emission
    parts = emission.loc, emission.loading, emission.scale
    mixture = MixtureOfFactorAnalysers.from_parameters(pair.initial_probs, *parts)
    x, z = torch.randn(SIZE, 1, 3), torch.randn(2, SIZE, 1, 2)
    torch.testing.assert_close(pair.log_evidence(x), mixture.log_evidence(x[:, 0]))
    torch.testing.assert_close(pair.discrete_posterior(x)[:, 0], mixture.discrete_posterior(x[:, 0]))
    torch.testing.assert_close(pair.posterior(x).log_prob(z), mixture.posterior(x[:, 0]).log_prob(z[:, :, 0]))
    torch.testing.assert_close(pair.log_joint(x, z), mixture.log_joint(x[:, 0], z[:, :, 0]))


@every_kind
def test_padding_is_as_if_it_were_not_there(float64: torch.dtype, kind: str) -> None:
    pair, batch = chain(kind), sequences(kind, padded=True)
    other = {**batch, "x": batch["x"].clone()}
    for row, length in enumerate(batch["lengths"].tolist()):
        other["x"][row, length:] = 1 if kind == "likelihood" else 3  # of its support
        alone = batch["x"][row : row + 1, :length]
        torch.testing.assert_close(pair.log_evidence(alone)[0], pair.log_evidence(batch)[row], **EXACT)
        together = pair.discrete_posterior(batch)[row, :length]
        torch.testing.assert_close(pair.discrete_posterior(alone)[0], together, **EXACT)
    torch.testing.assert_close(pair.log_evidence(other), pair.log_evidence(batch), rtol=0, atol=0)
    assert bool((pair.log_evidence(batch)[1:] != pair.log_evidence(batch["x"])[1:]).all())


def test_parameters_that_are_given() -> None:
    chances = {"initial": [0.3, 0.7], "transition": [[0.9, 0.1], [0.4, 0.6]]}
    pair = HiddenMarkovModel.from_parameters(**chances, probs=[[0.2, 0.8], [0.5, 0.5]])
    # By hand: x = (1, 0), two paths from each first state.
    by_hand = 0.3 * 0.8 * (0.9 * 0.2 + 0.1 * 0.5) + 0.7 * 0.5 * (0.4 * 0.2 + 0.6 * 0.5)
    assert pair.log_evidence(torch.tensor([[1, 0]])).exp().item() == pytest.approx(by_hand, rel=1e-5)
    normal = HiddenMarkovModel.from_parameters(**chances, loc=[[0.0], [1.0]], scale=[[1.0], [2.0]])
    assert (normal.latent_dim, normal.data_dim, normal.num_categories) == (0, 1, None)
    loading = torch.ones(2, 1, 3, dtype=torch.float64)
    wide = HiddenMarkovModel.from_parameters(**chances, loc=[[0.0], [1.0]], scale=[[1.0], [2.0]], loading=loading)
    assert wide.latent_dim == 3 and {p.dtype for p in wide.parameters()} == {torch.float64}


def test_bad_parameters() -> None:
    good: dict[str, Any] = {
        "initial": [0.3, 0.7],
        "transition": [[0.9, 0.1], [0.4, 0.6]],
        "loc": [[0.0], [1.0]],
        "scale": [[1.0], [2.0]],
    }
    for change, message in (
        ({"initial": [0.5, 0.3, 0.2]}, r"initial: expected \[2\] as in the emissions, found \[3\]"),
        ({"initial": [0.3, 0.3]}, "initial: .* sums from 0.6 to 0.6"),
        ({"transition": [[0.9, 0.1]]}, r"transition: expected \[2, 2\] as in the emissions, found \[1, 2\]"),
        ({"transition": [[0.9, 0.4], [0.1, 0.6]]}, "transition: .* sums from 0.7 to 1.3"),
        ({"transition": [[1.0, 0.0], [0.1, 0.9]]}, "transition: expected positive probabilities"),
        ({"scale": [[1.0], [-2.0]]}, "positive scale"),
        ({"scale": None}, r"loc and scale with or without loading, found \['loc'\]"),
        ({"probs": [[0.5, 0.5]] * 2}, r"expected probs alone, .* found \['probs', 'loc', 'scale'\]"),
        ({"loc": None, "scale": None, "probs": [0.5, 0.5]}, r"expected probs \[K, C\], found \[2\]"),
        ({"loc": None, "scale": None, "probs": [[0.5, 0.5], [0.5, 0.2]]}, "probs: .* sums from 0.7 to 1\n"),
    ):
        with pytest.raises(PairError, match=message):
            HiddenMarkovModel.from_parameters(**{**good, **change})
    for sizes, message in (
        ({"num_states": 0, "data_dim": 1}, "num_states of at least 1, found 0"),
        ({"num_states": 2, "num_categories": 0}, "num_categories of at least 1, found 0"),
        ({"num_states": 2}, "one of data_dim and num_categories, found None and None"),
        ({"num_states": 2, "data_dim": 1, "num_categories": 2}, "found 1 and 2"),
        ({"num_states": 2, "num_categories": 2, "latent_dim": 1}, "0 for categories .* found 1"),
        ({"num_states": 2, "data_dim": 2, "latent_dim": -1}, "latent_dim of at least 0.* found -1"),
        (
            {**KINDS["likelihood"], "num_states": 2, "latent_dim": 1},
            "without a continuous latent, found latent_dim = 1",
        ),
    ):
        with pytest.raises(PairError, match=message):
            HiddenMarkovModel(**sizes)
    for shape, message in (((STEPS, 3), r"\(5, 2\), found \(5, 3\)"), ((2,), r"\(2, 2\), found \(2,\)")):
        with pytest.raises(PairError, match=message):
            chain("factor-analysers").with_posterior(DiagonalNormal(MLP((STEPS, 3), [3]), shape))
    with pytest.raises(PairError, match=r"no posterior of it\nTry one of:\n  - discrete_posterior"):
        chain("normals").posterior(torch.zeros(2, 3, 3))


def test_bad_data() -> None:
    for x in (torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.zeros(2, 0, 3), torch.zeros(0, 3, 3)):
        with pytest.raises(DataError, match=r"expected x \[B, T, D\] with D = 3, found"):
            chain("normals").log_evidence(x)
    for categories, message in (
        (torch.tensor([[0, 1], [4, 0]]), r"0, 1, ..., 3, found 4 at \[1, 0\]"),
        (torch.tensor([[0, -1]]), r"found -1 at \[0, 1\]"),
        (torch.tensor([[0.0, 1.5]]), r"found 1.5 at \[0, 1\]"),
        (torch.zeros(2, 0), r"expected x \[B, T\], found \[2, 0\]"),
        (torch.zeros(2, 3, 1), r"expected x \[B, T\], found \[2, 3, 1\]"),
    ):
        with pytest.raises(DataError, match=message):
            chain("categories").log_evidence(categories)
    x = torch.zeros(2, 3, 3)
    for batch, message in (
        ({"y": x}, r"under the name 'x', found \['y'\]"),
        ({"x": x, "lengths": torch.tensor([1, 2, 3])}, r"expected lengths \[B\] with B = 2, found \[3\]"),
        ({"x": x, "lengths": torch.tensor([1, 4])}, "lengths from 1 to T = 3, found 1 to 4"),
        ({"x": x, "lengths": torch.tensor([0, 3])}, "found 0 to 3"),
    ):
        with pytest.raises(DataError, match=message):
            chain("normals").log_evidence(batch)
