"""Weight noise: every scheme has the bound and the gradient of the plain one, for every layer and posterior."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from contracts.bayesian_pairs import (
    NOISE,
    convolution,
    exact_kl,
    exact_local,
    flat_posterior,
    jacobian,
    linear,
    transposed,
    widen,
)
from torch import Tensor

from ppvae.core import draw, site_terms, structure
from ppvae.core.compile import bind, capture, state_of
from ppvae.data import load
from ppvae.distributions.weight_posteriors import WeightLowRankNormal, WeightNormal
from ppvae.distributions.weight_priors import ScaleMixturePrior
from ppvae.inference import elbo, fit
from ppvae.inference.comparison.gradient_noise import GradientNoise
from ppvae.models import BayesianPair, bayesianise, bernoulli_vae

LAYERS = {"linear": linear, "convolution": convolution, "transposed": transposed}
SCHEMES = ("shared", "per-datum", "local-reparameterization", "flipout")
POSTERIORS = ("diagonal", "low-rank")
PARTITIONS = ((6,), (2, 4), (1,) * 6)
NUM_DATA = 6


def make(layer: str, posterior: str, scheme: str) -> tuple[BayesianPair, dict[str, Tensor]]:
    pair, x = LAYERS[layer]()
    bayes = bayesianise(pair, modules=["layer"], posterior=posterior, weight_noise=scheme)  # type: ignore[arg-type]
    return widen(bayes), x


def batches(x: dict[str, Tensor], sizes: tuple[int, ...]) -> list[dict[str, Tensor]]:
    parts = {name: torch.split(value, list(sizes)) for name, value in x.items()}
    return [{name: parts[name][k] for name in x} for k in range(len(sizes))]


class Repeated:
    """Many estimates of the bound of the data from one batch, and their gradients; captured once a batch size."""

    def __init__(self, bayes: BayesianPair) -> None:
        self.bayes = bayes
        self.names = [name for name, _ in bayes.named_parameters()]
        self.pure = bind(bayes, lambda pair, x: elbo.TraceMeanFieldELBO(num_particles=4).terms(pair, x, NUM_DATA))
        self.call = capture(self.gradient, mode="graph")

    def gradient(self, state: dict[str, Tensor], x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaves = {n: v.detach().requires_grad_(n in self.names) for n, v in state.items()}
            bound = self.pure(leaves, x).bound(NUM_DATA)
            gradients = torch.autograd.grad(bound, [leaves[name] for name in self.names])
        return bound.detach(), torch.cat([g.flatten() for g in gradients])

    def __call__(self, x: dict[str, Tensor], count: int) -> tuple[Tensor, Tensor]:
        structure(self.bayes, x)
        found = [self.call(state_of(self.bayes), x) for _ in range(count)]
        assert self.call.fallback == ""
        return torch.stack([f[0] for f in found]), torch.stack([f[1] for f in found])


QUICK = {
    ("linear", "diagonal", "shared"),
    ("linear", "diagonal", "local-reparameterization"),
    ("convolution", "diagonal", "flipout"),
}
CASES = [
    pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
    for case in itertools.product(LAYERS, POSTERIORS, SCHEMES)
]


@pytest.mark.parametrize(("layer", "posterior", "scheme"), CASES)
def test_bound_and_gradient_for_every_partition(layer: str, posterior: str, scheme: str) -> None:
    """The expected bound of an epoch is the bound of all data, its KL counted once, however the data are cut."""
    bayes, x = make(layer, posterior, scheme)
    kl = exact_kl(bayes)
    exact = exact_local(bayes, x).sum() - kl
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(exact, list(bayes.parameters()))])
    repeated = Repeated(bayes)
    for sizes in PARTITIONS:
        parts = batches(x, sizes)
        # One estimate for every datum of the epoch: each batch stands for its share of the data.
        shares = [size / NUM_DATA for size in sizes]
        runs = [repeated(part, 60 if len(sizes) < 3 else 25) for part in parts]
        for part in parts:
            terms = elbo.TraceMeanFieldELBO().terms(bayes, part, NUM_DATA)
            torch.testing.assert_close(terms.global_, -kl)  # in closed form, and once, in every batch
        values = sum(share * run[0] for share, run in zip(shares, runs, strict=True))
        gradients = sum(share * run[1] for share, run in zip(shares, runs, strict=True))
        assert isinstance(values, Tensor) and isinstance(gradients, Tensor)
        root = len(values) ** 0.5
        assert (values.mean() - exact).abs() < 4 * values.std() / root
        along = gradients @ gradient / gradient.norm()
        assert (along.mean() - gradient.norm()).abs() < 4 * along.std() / root
        error = (gradients.mean(0) - gradient).abs() / (gradients.std(0) / root + 1e-12)
        assert error.max() < 5  # the largest of up to 60 entries


def test_a_wrong_scale_of_the_noise_is_seen() -> None:
    bayes, x = make("linear", "diagonal", "local-reparameterization")
    exact = exact_local(bayes, x).sum() - exact_kl(bayes)
    with torch.no_grad():
        for name, parameter in bayes.named_parameters():
            if name.endswith("log_scale"):
                parameter.add_(0.3)
    values = Repeated(bayes)(x, 60)[0] + exact_kl(bayes).detach() - exact.detach()
    assert (values.mean()).abs() > 4 * values.std() / 60**0.5


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("layer", list(LAYERS))
def test_the_noise_of_each_datum_has_the_moments_of_its_weights(layer: str, posterior: str) -> None:
    """Mean and covariance of a datum's outputs; local reparameterisation keeps the variances of a convolution only."""
    pair, x = LAYERS[layer]()
    one = {name: value[:1] for name, value in x.items()}
    for scheme in SCHEMES[1:]:
        bayes = widen(bayesianise(pair, modules=["layer"], posterior=posterior, weight_noise=scheme))  # type: ignore[arg-type]
        loc, covariance = flat_posterior(bayes)
        design = jacobian(bayes, one)[0].detach()
        mean, cov = design @ loc.detach(), design @ covariance.detach() @ design.T
        outputs: list[Tensor] = []
        hook = bayes.pair.layer.register_forward_hook(lambda m, i, o, outputs=outputs: outputs.append(o.detach()))
        many = {name: value.expand(200, *value.shape[1:]) for name, value in one.items()}
        structure(bayes, many)
        outputs.clear()
        for _ in range(60):
            elbo.TraceMeanFieldELBO().terms(bayes, many, 200)
        hook.remove()
        drawn = torch.stack(outputs).reshape(60, 200, -1)
        # Flipout's draws share a base within a batch: the error is taken over batches.
        error = drawn.mean(1).std(0) / 60**0.5
        assert bool(((drawn.mean((0, 1)) - mean).abs() < 4.5 * error).all())
        products = (drawn - mean).unsqueeze(-1) * (drawn - mean).unsqueeze(-2)
        by_batch = products.mean(1)
        off = (by_batch.mean(0) - cov).abs() / (by_batch.std(0) / 60**0.5 + 1e-12)
        if scheme == "local-reparameterization" and (layer != "linear"):
            off = off.diagonal()
        assert off.max() < 5


def log_likelihoods(bayes: BayesianPair, x: dict[str, Tensor], particles: int, repeats: int) -> Tensor:
    """Of all data, for every particle, [repeats, particles]."""

    def once(pair: BayesianPair, x: dict[str, Tensor]) -> Tensor | None:
        with torch.no_grad(), pair.mean_sites():
            return site_terms(pair, x, particles, NUM_DATA)["y"].log_p

    structure(bayes, x)
    call, state = capture(bind(bayes, once), mode="graph"), state_of(bayes)
    found = torch.stack([call(state, x) for _ in range(repeats)]).sum(-1)
    assert call.fallback == ""
    return found


def variance_by_hand(bayes: BayesianPair, x: dict[str, Tensor]) -> float:
    """Of the log likelihood of one datum over q(w): a quadratic form of normal outputs, Var = tr(C C)/2 + m C m."""
    loc, covariance = flat_posterior(bayes)
    design = jacobian(bayes, x)[0].detach()
    error = ((x["y"].flatten(1)[0] - design @ loc) / NOISE).detach()
    c = (design @ covariance @ design.T / NOISE**2).detach()
    return float(0.5 * (c @ c).trace() + error @ c @ error)


@pytest.mark.parametrize(("scheme", "layer"), [*((scheme, "linear") for scheme in SCHEMES), ("flipout", "convolution")])
def test_particles_are_independent(scheme: str, layer: str) -> None:
    """Given the guide: no covariance across particles, so that the variance of a mean over K falls as 1 / K."""
    particles, repeats = 8, 500
    bayes, x = make(layer, "diagonal", scheme)
    for data in (x, {name: value[:1] for name, value in x.items()}):
        found = log_likelihoods(bayes, data, particles, repeats)
        centred = found - found.mean()
        squares = centred.square()
        # Of all pairs together: (sum)^2 - sum of squares.
        across = (centred.sum(1).square() - squares.sum(1)) / (particles * (particles - 1))
        assert across.mean().abs() < 4 * across.std() / repeats**0.5
        of_mean = particles * found.mean(1).sub(found.mean()).square()
        one = squares.mean(1)
        assert (of_mean - one).mean().abs() < 4 * (of_mean - one).std() / repeats**0.5
    exact = variance_by_hand(bayes, data)
    for estimate in (one, of_mean):
        assert (estimate.mean() - exact).abs() < 4 * estimate.std() / repeats**0.5


def trained_vae() -> tuple[Any, Tensor]:
    x = load("digits", binarize="static").x
    assert isinstance(x, Tensor)
    base = bernoulli_vae(64, latent_dim=3, hidden=(30,))
    fit(base, x[:400], num_epochs=30, batch_size=50, progress=False)
    return base, x[:50].float()


def gradient_variances(count: int = 300) -> dict[str, float]:
    """Trace of the covariance of the gradient of the likelihood's weights, by scheme; the latents' noise included."""
    base, x = trained_vae()
    variances = {}
    for scheme in SCHEMES:
        bayes = bayesianise(base, weight_noise=scheme)  # type: ignore[arg-type]
        with torch.no_grad():
            for name, parameter in bayes.named_parameters():
                if name.endswith("log_scale"):
                    parameter.fill_(-1.5)
        names = [n for n, _ in bayes.named_parameters() if n.startswith("weight_posterior") and n.endswith("loc")]
        noise = GradientNoise({"loc": names}, count)
        structure(bayes, x)
        for _ in range(count):
            bound = elbo.TraceMeanFieldELBO().terms(bayes, x, 400).bound(400) / 400
            leaves = dict(bayes.named_parameters())
            noise.add(dict(zip(names, torch.autograd.grad(bound, [leaves[n] for n in names]), strict=True)))
        variances[scheme] = noise.statistics()["loc"].variance
    return variances


@pytest.mark.slow
def test_order_of_the_gradient_variances() -> None:
    """Kingma, Salimans & Welling 2015, Table 1: local reparameterisation < noise per datum < one draw a batch."""
    found = gradient_variances(150)
    shared, separate = found["shared"], found["per-datum"]
    local, flipout = found["local-reparameterization"], found["flipout"]
    print(
        f"gradient variance: shared / per-datum {shared / separate:.2f}, per-datum / local {separate / local:.2f}, "
        f"shared / local {shared / local:.2f}, shared / flipout {shared / flipout:.2f}"
    )
    assert local < separate < shared
    assert local < flipout < shared


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_no_weight_is_drawn_in_vain(posterior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise per datum and a closed-form KL use no draw of the weights; whoever asks for draws gets them."""

    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("weights were drawn")

    pairs = {scheme: make("linear", posterior, scheme) for scheme in SCHEMES}
    for bayes, x in pairs.values():
        elbo.TraceMeanFieldELBO().terms(bayes, x, NUM_DATA)
    with monkeypatch.context() as patched:
        patched.setattr(WeightNormal, "rsample", refuse)
        patched.setattr(WeightLowRankNormal, "rsample", refuse)
        for scheme, (bayes, x) in pairs.items():
            if scheme == "shared":
                with pytest.raises(AssertionError, match="weights were drawn"):
                    elbo.TraceMeanFieldELBO().terms(bayes, x, NUM_DATA)
            else:
                elbo.TraceMeanFieldELBO().terms(bayes, x, NUM_DATA)
    for bayes, x in pairs.values():
        assert draw(bayes, x, 5).latents["layer.weight"].std(0).min() > 0


@pytest.mark.parametrize("scheme", ["local-reparameterization", "flipout"])
def test_a_kl_that_must_be_sampled_gets_its_draws(scheme: Any) -> None:
    """A scale mixture has no closed-form KL: its estimate must come from draws, not from the means."""
    pair, x = linear()
    prior = ScaleMixturePrior(narrow_scale=0.1)
    bayes = widen(bayesianise(pair, modules=["layer"], prior=prior, weight_noise=scheme))
    with torch.no_grad():
        for name, parameter in bayes.named_parameters():
            if name.endswith(".loc"):
                parameter.zero_()  # where the mixture peaks, far above its average
    estimator = elbo.TraceMeanFieldELBO(num_particles=20, on_missing_kl="sample")
    found = torch.stack([estimator.terms(bayes, x, NUM_DATA).global_.detach() for _ in range(40)])
    loc, covariance = flat_posterior(bayes)
    q = torch.distributions.Normal(loc.detach(), covariance.detach().diagonal().sqrt())
    w = q.sample((20_000,))
    log_p = torch.stack([torch.distributions.Normal(0.0, s).log_prob(w) for s in (1.0, 0.1)]).logsumexp(0)
    log_ratio = (log_p - torch.tensor(2.0).log() - q.log_prob(w)).sum(-1)
    error = (found.std() ** 2 / 40 + log_ratio.std() ** 2 / 20_000).sqrt()
    assert (found.mean() - log_ratio.mean()).abs() < 4 * error
    mean = loc.detach()
    at_mean = torch.stack([torch.distributions.Normal(0.0, s).log_prob(mean) for s in (1.0, 0.1)]).logsumexp(0)
    wrong = (at_mean - torch.tensor(2.0).log() - q.log_prob(mean)).sum()
    assert (wrong - log_ratio.mean()).abs() > 10 * error


@pytest.mark.parametrize(
    ("scheme", "layer", "approximate"),
    [
        ("local-reparameterization", "convolution", True),
        ("local-reparameterization", "linear", False),
        ("flipout", "convolution", False),
    ],
)
def test_an_approximate_scheme_is_told(
    scheme: Any, layer: str, approximate: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING"):
        bayesianise(LAYERS[layer]()[0], modules=["layer"], weight_noise=scheme)
    assert ("an approximation before it" in caplog.text) == approximate
