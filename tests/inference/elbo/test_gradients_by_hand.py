r"""Under replayed noise, every estimator's objective and gradient are the hand-derived formulas, to 1e-10.

With a KL weight $\beta$ the log weights are tempered: $\log w = \log p(x \mid z) + \beta (\log p(z) - \log q(z \mid
x))$. Of each draw z = m + s * noise three vectors are written out by hand: the path derivative of log w, the guide's
score, and the model's gradient of log p. An estimator is then a choice of weights for these three: a row of the table
below."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from contracts.elbo_oracles import some_data
from torch import Tensor, nn

from ppvae.distributions import DiagonalNormal, Normal, StandardNormal
from ppvae.inference import elbo
from ppvae.models import VAE
from ppvae.networks import MLP

K, D, Z, B, N = 3, 4, 2, 5, 20


def vae() -> VAE:
    pair = VAE(StandardNormal(Z), Normal(MLP(Z, []), D, scale="per-dimension"), DiagonalNormal(MLP(D, []), Z)).double()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.copy_(0.1 + 0.5 * torch.randn_like(parameter))
    return pair


class Hand(NamedTuple):
    """Written out at K draws: log densities [K, B]; derivatives by guide means and log scales, [K, B, Z]."""

    log_w: Tensor
    log_q: Tensor
    log_p: Tensor  # log p(x | z) + beta log p(z), the model's part of log w
    path_w: tuple[Tensor, Tensor]
    path_likelihood: tuple[Tensor, Tensor]
    score: tuple[Tensor, Tensor]
    kl: tuple[Tensor, Tensor]
    residual: Tensor
    z: Tensor


def by_hand(pair: VAE, x: Tensor, noise: Tensor, beta: float) -> Hand:
    with torch.no_grad():
        q, p = pair.posterior.head.layers, pair.likelihood
        m, s = x @ q[0].weight.T + q[0].bias, (x @ q[1].weight.T + q[1].bias).exp()
        mu, w, sigma = p.head.layers[0].bias, p.head.layers[0].weight, p.log_scale.exp()
        z = m + s * noise
        r = (x - mu - z @ w.T) / sigma
        log_q = (-0.5 * noise.square() - s.log()).sum(-1) - 0.5 * Z * math.log(2 * math.pi)
        log_prior = -0.5 * z.square().sum(-1) - 0.5 * Z * math.log(2 * math.pi)
        likelihood = (-0.5 * r.square() - sigma.log()).sum(-1) - 0.5 * D * math.log(2 * math.pi)
        dz_likelihood = (r / sigma) @ w
        dz_w = dz_likelihood + beta * (noise / s - z)  # d/dz of -log q is (z - m) / s^2 = noise / s
        by_scale = s * noise  # dz / d log s
        return Hand(
            likelihood + beta * (log_prior - log_q),
            log_q,
            likelihood + beta * log_prior,
            (dz_w, dz_w * by_scale),
            (dz_likelihood, dz_likelihood * by_scale),
            (noise / s, noise.square() - 1),
            (m.expand_as(z), (s.square() - 1).expand_as(z)),
            r / sigma,
            z,
        )


def assemble(pair: VAE, x: Tensor, h: Hand, guide: tuple[Tensor, Tensor], model: Tensor) -> dict[str, Tensor]:
    """Chain rule into the weights; guide [B, Z] each, model weights [K, B]."""
    sigma = pair.likelihood.log_scale.detach().exp()
    weighted = model[..., None] * h.residual  # [K, B, D]
    return {
        "posterior.head.layers.0.weight": guide[0].T @ x,
        "posterior.head.layers.0.bias": guide[0].sum(0),
        "posterior.head.layers.1.weight": guide[1].T @ x,
        "posterior.head.layers.1.bias": guide[1].sum(0),
        "likelihood.head.layers.0.weight": torch.einsum("kbd,kbz->dz", weighted, h.z),
        "likelihood.head.layers.0.bias": weighted.sum((0, 1)),
        "likelihood.log_scale": (model[..., None] * ((h.residual * sigma).square() - 1)).sum((0, 1)),
    }


def combine(path: Tensor, score: Tensor, h: Hand) -> tuple[Tensor, Tensor]:
    first, second = ((path[..., None] * h.path_w[i] + score[..., None] * h.score[i]).sum(0) for i in range(2))
    return first, second


def normalized(log_w: Tensor) -> Tensor:
    return (log_w - log_w.logsumexp(0)).exp()


def vimco_signal(log_w: Tensor) -> Tensor:
    """Written as loops over the definition."""
    signal = torch.empty_like(log_w)
    for k in range(K):
        others = [j for j in range(K) if j != k]
        replaced = log_w.clone()
        replaced[k] = log_w[others].mean(0)
        signal[k] = log_w.logsumexp(0) - replaced.logsumexp(0)
    return signal


def leave_one_out(log_w: Tensor) -> Tensor:
    return torch.stack([log_w[k] - log_w[[j for j in range(K) if j != k]].mean(0) for k in range(K)])


ONE = torch.full((K, B), 1 / K, dtype=torch.float64)

Weights = Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]

# estimator, then from log w and beta the weights of: path derivative, score, model gradient
TABLE: list[tuple[elbo.ELBO, Weights]] = [
    (elbo.TraceELBO(num_particles=K), lambda w, beta: (ONE, -beta * ONE, ONE)),
    (elbo.StickingTheLandingELBO(num_particles=K), lambda w, beta: (ONE, 0 * ONE, ONE)),
    (elbo.ScoreFunctionELBO(num_particles=K), lambda w, beta: (0 * ONE, w / K, ONE)),
    (
        elbo.ScoreFunctionELBO(num_particles=K, baseline="leave-one-out"),
        lambda w, beta: (0 * ONE, leave_one_out(w) / K, ONE),
    ),
    (elbo.ImportanceWeightedELBO(K), lambda w, beta: (normalized(w), -beta * normalized(w), normalized(w))),
    (
        elbo.RenyiELBO(0.3, num_particles=K),
        lambda w, beta: (normalized(0.7 * w), -beta * normalized(0.7 * w), normalized(0.7 * w)),
    ),
    # The score -beta w d(log q), reparameterised once more, is beta (w^2 - w) along the path.
    (
        elbo.DoublyReparameterizedELBO(K),
        lambda w, beta: ((1 - beta) * normalized(w) + beta * normalized(w) ** 2, 0 * w, normalized(w)),
    ),
    (elbo.VIMCO(K), lambda w, beta: (0 * w, vimco_signal(w) - beta * normalized(w), normalized(w))),
    (elbo.ReweightedWakeSleep(K), lambda w, beta: (0 * w, normalized(w), normalized(w))),
]
BETAS = (1.0, 0.5)


def terms(pair: VAE, estimator: elbo.ELBO, x: Tensor, beta: float = 1.0) -> elbo.BoundTerms:
    torch.manual_seed(4)
    return estimator.terms(pair, x, N, kl_weight=beta)


def gradients(pair: VAE, estimator: elbo.ELBO, x: Tensor, beta: float = 1.0) -> dict[str, Tensor]:
    named = dict(pair.named_parameters())
    found = torch.autograd.grad(terms(pair, estimator, x, beta).objective(N), list(named.values()))
    return dict(zip(named, found, strict=True))


def replayed(pair: VAE, x: Tensor, beta: float = 1.0) -> Hand:
    torch.manual_seed(4)
    return by_hand(pair, x, torch.randn(K, B, Z, dtype=torch.float64), beta)


def assert_same(found: dict[str, Tensor], hand: dict[str, Tensor]) -> None:
    assert set(found) == set(hand)
    for name, value in hand.items():
        torch.testing.assert_close(found[name], N / B * value, rtol=1e-10, atol=1e-10)


def assert_close(found: Tensor, hand: Tensor) -> None:
    torch.testing.assert_close(found.detach(), hand, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("estimator", "weights"), TABLE, ids=[repr(row[0]) for row in TABLE])
def test_gradient(estimator: elbo.ELBO, weights: Weights, beta: float) -> None:
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x, beta)
    path, score, model = weights(h.log_w, beta)
    assert_same(gradients(pair, estimator, x, beta), assemble(pair, x, h, combine(path, score, h), model))


def test_the_table_is_complete() -> None:
    """Every estimator has a row; the KL in closed form has tests of its own below, labels have theirs elsewhere."""
    every = {v for v in vars(elbo).values() if isinstance(v, type) and issubclass(v, elbo.ELBO)} - {elbo.ELBO}
    assert every == {type(row[0]) for row in TABLE} | {elbo.TraceMeanFieldELBO, elbo.WithClassifier}


@pytest.mark.parametrize("beta", BETAS)
def test_objective(beta: float) -> None:
    """Its value: the bound of the tempered weights, and where the gradient is no derivative of it, what stands in."""
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x, beta)
    w, q, p = h.log_w, h.log_q, h.log_p
    iwae = w.exp().mean(0).log()
    for estimator, value in (
        (elbo.TraceELBO(num_particles=K), w.mean(0)),
        (elbo.StickingTheLandingELBO(num_particles=K), w.mean(0)),
        (elbo.ImportanceWeightedELBO(K), iwae),
        (elbo.DoublyReparameterizedELBO(K), iwae),
        (elbo.RenyiELBO(0.3, num_particles=K), (0.7 * w).exp().mean(0).log() / 0.7),
        (elbo.VIMCO(K), iwae + (vimco_signal(w) * q).sum(0)),
        (elbo.ScoreFunctionELBO(num_particles=K), (p + w * q).mean(0)),
        (elbo.ScoreFunctionELBO(num_particles=K, baseline="leave-one-out"), (p + leave_one_out(w) * q).mean(0)),
        (elbo.ReweightedWakeSleep(K), (normalized(w) * (p + q)).sum(0)),
    ):
        found = terms(pair, estimator, x, beta)
        assert_close(found.objective_local, value)
        assert_close(found.objective(N), N / B * value.sum())


@pytest.mark.parametrize("estimator", [row[0] for row in TABLE], ids=[repr(row[0]) for row in TABLE])
def test_reconstruction_and_kl(estimator: elbo.ELBO) -> None:
    pair, x = vae(), some_data(B, D)
    likelihood = replayed(pair, x, 0.0).log_w
    found = terms(pair, estimator, x)
    assert_close(found.reconstruction, likelihood.mean(0))
    assert_close(found.kl, (likelihood - replayed(pair, x).log_w).mean(0))


def test_values() -> None:
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x)
    for estimator, value in (
        (elbo.TraceELBO(num_particles=K), h.log_w.mean(0)),
        (elbo.ImportanceWeightedELBO(K), h.log_w.exp().mean(0).log()),
        (elbo.RenyiELBO(0.3, num_particles=K), (0.7 * h.log_w).exp().mean(0).log() / 0.7),
        (elbo.VIMCO(K), h.log_w.exp().mean(0).log()),
    ):
        assert_close(terms(pair, estimator, x).local, value)


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_with_the_kl_in_closed_form(beta: float) -> None:
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x, beta)
    guide = tuple(h.path_likelihood[i].mean(0) - beta * h.kl[i][0] for i in range(2))
    estimator = elbo.TraceMeanFieldELBO(num_particles=K)
    assert_same(gradients(pair, estimator, x, beta), assemble(pair, x, h, guide, ONE))
    m, variance = h.kl[0][0], h.kl[1][0] + 1
    kl = 0.5 * (m.square() + variance - variance.log() - 1).sum(-1)
    likelihood = replayed(pair, x, 0.0).log_w
    assert_close(terms(pair, estimator, x, beta).objective_local, likelihood.mean(0) - beta * kl)


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_with_a_decaying_average(beta: float) -> None:
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x, beta)
    estimator = elbo.ScoreFunctionELBO(num_particles=K, baseline="decaying-average", decay=0.75)
    for _ in range(2):  # after two equal steps the corrected average is that of one
        estimator.advance(terms(pair, estimator, x, beta))
    signal = (h.log_w - h.log_w.mean()) / K
    assert_same(gradients(pair, estimator, x, beta), assemble(pair, x, h, combine(0 * ONE, signal, h), ONE))


@pytest.mark.parametrize("beta", BETAS)
def test_gradient_with_a_learned_baseline(beta: float) -> None:
    pair, x = vae(), some_data(B, D)
    h = replayed(pair, x, beta)
    baseline = nn.Linear(D, 1).double()
    estimator = elbo.ScoreFunctionELBO(num_particles=K, baseline=baseline)
    error = h.log_w - baseline(x).detach()[:, 0]
    assert_same(gradients(pair, estimator, x, beta), assemble(pair, x, h, combine(0 * ONE, error / K, h), ONE))
    (of_bias,) = torch.autograd.grad(terms(pair, estimator, x, beta).objective(N), [baseline.bias])
    # Ascent on minus half the squared error.
    torch.testing.assert_close(of_bias, N / B * error.mean(0).sum().reshape(1), rtol=1e-10, atol=1e-10)


def test_gradient_of_the_sleep_update() -> None:
    pair, x = vae(), some_data(B, D)
    torch.manual_seed(4)
    torch.randn(K, B, Z, dtype=torch.float64)  # the wake update's draws come first
    z = torch.randn(B, Z, dtype=torch.float64)
    with torch.no_grad():
        layer, sigma = pair.likelihood.head.layers[0], pair.likelihood.log_scale.exp()
        dream = layer(z) + sigma * torch.randn(B, D, dtype=torch.float64)
        q = pair.posterior.head.layers
        m, s = q[0](dream), q[1](dream).exp()
    noise = (z - m) / s
    found = gradients(pair, elbo.ReweightedWakeSleep(K, sleep=1.0), x)
    first, second = noise / s, noise.square() - 1
    hand = {"0.weight": first.T @ dream, "0.bias": first.sum(0), "1.weight": second.T @ dream, "1.bias": second.sum(0)}
    for name, value in hand.items():
        torch.testing.assert_close(found[f"posterior.head.layers.{name}"], N / B * value, rtol=1e-10, atol=1e-10)
