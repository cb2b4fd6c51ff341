"""bayesianise: the pair's contract, the closed-form estimator by hand, KLs, what stays and what is refused."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from contracts.bayesian_pairs import convolution, linear, transposed
from contracts.pair import PairContract
from pyro.infer import SVI
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroParam
from pyro.optim import Adam
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ppvae.core import ModelGuidePair, PairError, PpvaeError, check_pair, draw, log_joint, site_terms
from ppvae.distributions import Bernoulli, DiagonalNormal, StandardNormal
from ppvae.distributions.weight_posteriors import DiagonalPosterior, LowRankPosterior, WeightLowRankNormal
from ppvae.distributions.weight_priors import HorseshoePrior, NormalPrior, ScaleMixturePrior
from ppvae.inference import elbo, evaluate_bound, fit
from ppvae.models import VAE, BayesianPair, bayesianise, bernoulli_vae, gaussian_vae
from ppvae.networks import MLP, ConvDecoder

WEIGHT = "likelihood.head.layers.0.weight"


def small_vae() -> VAE:
    return bernoulli_vae(6, latent_dim=2, hidden=(4,))


def binary(count: int = 6, dim: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((count, dim), 0.4))


class TestDiagonal(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return bayesianise(small_vae(), posterior=DiagonalPosterior(0.3))

    def make_data(self) -> Tensor:
        return binary()


class TestLowRankLearnedPrior(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return bayesianise(small_vae(), posterior=LowRankPosterior(2, 0.3), prior=NormalPrior(0.5, learn=True))

    def make_data(self) -> Tensor:
        return binary()


class TestHorseshoe(PairContract):
    """Its scales are drawn before the weights, and not used by the local part: Inductor would move such draws."""

    def make_pair(self) -> ModelGuidePair:
        return bayesianise(small_vae(), posterior=DiagonalPosterior(0.3), prior=HorseshoePrior())

    def make_data(self) -> Tensor:
        return binary()


class TestConvolutionalDecoder(PairContract):
    def make_pair(self) -> ModelGuidePair:
        decoder = ConvDecoder(2, (4, 4), channels=(3,))
        pair = VAE(StandardNormal(2), Bernoulli(decoder, 16), DiagonalNormal(MLP(16, [5]), 2))
        return bayesianise(pair, posterior=DiagonalPosterior(0.3))

    def make_data(self) -> Tensor:
        return binary(6, 16)


def test_particles_are_broadcast_where_the_layers_are_known() -> None:
    known, other = bayesianise(small_vae()), bayesianise(gaussian_vae(4, latent_dim=2, hidden=(3,), scale="shared"))
    assert known.vectorizes and not other.vectorizes
    for make in (linear, convolution, transposed):
        pair, x = make()
        bayes = bayesianise(pair, modules=["layer"])
        check_pair(bayes, x)
        assert bayes.vectorizes


# --- eq. 24 by hand -----------------------------------------------------------------------------------------------


def test_the_closed_form_estimator_is_eq_24(float64: torch.dtype) -> None:
    pair, x = bayesianise(small_vae().double(), posterior=DiagonalPosterior(0.3)), binary().double()
    num_data = 40
    torch.manual_seed(7)
    found = elbo.TraceMeanFieldELBO().terms(pair, x, num_data).bound(num_data)
    torch.manual_seed(7)
    weights, kl = {}, torch.zeros(())
    for name, weight in pair.gaussian_weights().items():
        weights[name] = weight.loc + weight.scale * torch.randn(weight.loc.shape)  # zeta
        kl = kl - 0.5 * (1 + 2 * weight.scale.log() - weight.loc.square() - weight.scale.square()).sum()
    encoder = pair.pair.posterior.head
    hidden = torch.tanh(encoder.trunk.layers[0](x))
    mu, log_sigma = encoder.layers[0](hidden), encoder.layers[1](hidden)
    z = mu + log_sigma.exp() * torch.randn(mu.shape)  # epsilon
    trunk = "likelihood.head.trunk.layers.0"
    hidden = torch.tanh(z @ weights[f"{trunk}.weight"].T + weights[f"{trunk}.bias"])
    logits = hidden @ weights[WEIGHT].T + weights[WEIGHT.replace("weight", "bias")]
    log_px = -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    minus_kl = 0.5 * (1 + 2 * log_sigma - mu.square() - (2 * log_sigma).exp()).sum(-1)
    by_hand = num_data / len(x) * (log_px + minus_kl).sum() - kl
    assert (found - by_hand).abs() < 1e-10


def test_the_generic_estimator_is_eq_21(float64: torch.dtype) -> None:
    """Both noises sampled: its value under the same noise differs from eq. 24 by the KLs alone."""
    pair, x = bayesianise(small_vae().double(), posterior=DiagonalPosterior(0.3)), binary().double()
    torch.manual_seed(7)
    generic = elbo.TraceELBO().terms(pair, x, 40)
    torch.manual_seed(7)
    closed = elbo.TraceMeanFieldELBO().terms(pair, x, 40)
    torch.testing.assert_close(generic.reconstruction, closed.reconstruction, rtol=0, atol=1e-10)
    values = torch.stack([elbo.TraceELBO(num_particles=50).terms(pair, x, 40).global_.detach() for _ in range(40)])
    assert (values.mean() - closed.global_).abs() < 4 * values.std() / 40**0.5


# --- KLs ----------------------------------------------------------------------------------------------------------


def low_rank() -> WeightLowRankNormal:
    generator = torch.Generator().manual_seed(1)
    loc, scale = torch.randn(2, 3, generator=generator), 0.2 + torch.rand(2, 3, generator=generator)
    return WeightLowRankNormal(loc.double(), torch.randn(2, 3, 2, generator=generator).double(), scale.double(), 2)


def test_low_rank_normal_is_the_multivariate_normal() -> None:
    q = low_rank()
    covariance = q.factor.flatten(0, 1) @ q.factor.flatten(0, 1).T + torch.diag(q.scale.flatten().square())
    dense = torch.distributions.MultivariateNormal(q.loc.flatten(), covariance)
    values = q.rsample(torch.Size([200_000]))
    torch.testing.assert_close(q.log_prob(values[:50]), dense.log_prob(values[:50].flatten(1)))
    torch.testing.assert_close(q.variance.flatten(), covariance.diagonal())
    error = 4 * (covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()).sqrt() / 200_000**0.5
    assert bool(((values.flatten(1).T.cov() - covariance).abs() < 1.3 * error).all())
    p = dist.Normal(torch.tensor(0.3).double(), torch.tensor(0.7).double()).expand([2, 3]).to_event(2)
    flat = torch.distributions.MultivariateNormal(torch.full((6,), 0.3).double(), 0.49 * torch.eye(6).double())
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(dense, flat))
    wide = q.expand([4, 1])
    assert wide.rsample().shape == (4, 1, 2, 3) and wide.log_prob(values[:4, None]).shape == (4, 1)
    torch.testing.assert_close(wide.log_prob(values[:4, None])[:, 0], q.log_prob(values[:4]))
    torch.testing.assert_close(kl_divergence(wide, p.expand([4, 1]))[2, 0], kl_divergence(q, p))


PRIORS = {
    "normal": NormalPrior(0.6),
    "learned": NormalPrior(0.6, learn=True),
    "laplace": torch.distributions.Laplace(0.1, 0.5),
    "mixture": ScaleMixturePrior(0.3, 1.0, 0.1),
    "horseshoe": HorseshoePrior(),
}


@pytest.mark.parametrize("posterior", ["diagonal", "low-rank"])
@pytest.mark.parametrize("prior", list(PRIORS))
def test_kl_equals_monte_carlo(prior: str, posterior: Any, float64: torch.dtype) -> None:
    made = DiagonalPosterior(0.4) if posterior == "diagonal" else LowRankPosterior(2, 0.3)
    pair, x = linear()
    bayes = bayesianise(pair, modules=["layer"], prior=PRIORS[prior], posterior=made)
    values, analytic = [], []
    for _ in range(40):
        terms = site_terms(bayes, x, 100)
        for name in ("layer.weight", "layer.bias"):
            closed = prior in ("normal", "learned", "horseshoe") or (prior == "laplace" and posterior == "diagonal")
            assert terms[name].route == ("analytic" if closed else "sampled")
        latent = [t for t in terms.values() if t.kl is not None]
        values.append(sum(t.log_q - t.log_p for t in latent).mean().detach())  # type: ignore[union-attr,operator]
        analytic.append(sum(t.kl for t in latent).mean().detach())  # type: ignore[union-attr]
    difference = torch.stack(values) - torch.stack(analytic)  # type: ignore[arg-type]
    if prior == "mixture":
        assert difference.abs().max() < 1e-9
    assert difference.mean().abs() <= 4 * difference.std() / 40**0.5 + 1e-9


def test_priors_have_their_densities() -> None:
    w = torch.tensor([[-0.4, 0.02], [1.3, 0.1]])
    mixture = ScaleMixturePrior(0.3, 1.0, 0.1).build(w)().log_prob(w)
    by_hand = (0.3 * dist.Normal(0, 1.0).log_prob(w).exp() + 0.7 * dist.Normal(0, 0.1).log_prob(w).exp()).log().sum()
    torch.testing.assert_close(mixture, by_hand)
    horseshoe = HorseshoePrior(2.0).build(w)
    scales = {"global_scale": torch.tensor(0.5), "local_scale": torch.full((2, 2), 3.0)}
    torch.testing.assert_close(horseshoe(scales).log_prob(w), dist.Normal(0.0, 1.5).log_prob(w).sum())
    torch.testing.assert_close(
        horseshoe.scale_distribution("global_scale").log_prob(torch.tensor(0.5)),
        torch.tensor(math.log(2 / (math.pi * 2.0 * (1 + 0.25**2)))),
    )
    nested = bayesianise(
        small_vae(), prior={"likelihood": NormalPrior(2.0), "likelihood.head.trunk": dist.Normal(0.0, 0.5)}
    )
    for name in nested.weight_names:
        assert nested._prior(name)().stddev.flatten()[0] == (0.5 if "trunk" in name else 2.0)


# --- what the result is -------------------------------------------------------------------------------------------


def test_the_pair_is_copied_and_its_weights_are_the_means() -> None:
    base, x = small_vae(), binary()
    before = {name: value.clone() for name, value in base.named_parameters()}
    pair = bayesianise(base)
    fit(pair, x, num_epochs=2, batch_size=3, progress=False)
    assert all(torch.equal(before[name], value) for name, value in base.named_parameters())
    fresh = bayesianise(base)
    for name, weight in fresh.gaussian_weights().items():
        assert torch.equal(weight.loc, before[name])
    trainable = {name for name, _ in fresh.named_parameters()}
    assert not any(name.startswith("pair.likelihood") for name in trainable)
    assert {f"pair.{n}" for n in before if n.startswith("posterior")} <= trainable
    # At these weights the density is the pair's own.
    z = draw(base, x, 1).latents["z"]
    values = {n: before[n][None] for n in fresh.weight_names}
    torch.testing.assert_close(log_joint(fresh, x, {"z": z, **values}).local, log_joint(base, x, {"z": z}).local)
    again = bayesianise(base)
    again.load_state_dict(pair.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), pair.parameters(), strict=True))


@pytest.mark.parametrize("make", [AutoNormal, partial(AutoLowRankMultivariateNormal, rank=2)])
def test_autoguides(make: Any) -> None:
    pair, x = bayesianise(small_vae(), posterior=make), binary()
    before = [p.clone() for n, p in pair.named_parameters() if n.startswith("autoguide")]
    assert before
    done = fit(pair, x, elbo=elbo.TraceELBO(), num_epochs=3, batch_size=3, learning_rate=0.01, progress=False)
    assert math.isfinite(done.history[-1]["elbo_train"])
    after = [p for n, p in pair.named_parameters() if n.startswith("autoguide")]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(PairError, match="expected a closed-form KL, found none"):
        elbo.TraceMeanFieldELBO().check(pair, x)


@pytest.mark.parametrize("scheme", ["per-datum", "local-reparameterization", "flipout"])
def test_noise_per_datum_is_for_the_closed_form_alone(scheme: Any) -> None:
    pair = bayesianise(small_vae(), weight_noise=scheme)
    x = binary()
    elbo.TraceMeanFieldELBO().check(pair, x)
    for other in (elbo.TraceELBO(), elbo.StickingTheLandingELBO(), elbo.ScoreFunctionELBO()):
        with pytest.raises(PairError, match=r"no such weight is ever drawn\nTry one of"):
            other.check(pair, x)
        other.check(bayesianise(small_vae()), x)
    # Every way in asks: the trainer, the comparison, and stock SVI.
    with pytest.raises(PairError, match="no such weight is ever drawn"):
        fit(pair, x, elbo=elbo.TraceELBO(), num_epochs=1, batch_size=3, learning_rate=0.01, progress=False)
    with pytest.raises(PairError, match="no such weight is ever drawn"):
        evaluate_bound(pair, x, elbo=elbo.TraceELBO(), progress=False)
    svi = SVI(pair.model, pair.guide, Adam({"lr": 0.01}), elbo.TraceELBO())
    with pytest.raises(PairError, match="no such weight is ever drawn"):
        svi.step(x, num_data=60)
    SVI(pair.model, pair.guide, Adam({"lr": 0.01}), elbo.TraceMeanFieldELBO()).step(x, num_data=60)


def test_a_random_encoder_is_an_auxiliary_variable() -> None:
    pair, x = bayesianise(small_vae(), modules=["posterior"]), binary()
    check_pair(pair, x, num_data=60)
    assert math.isfinite(float(elbo.TraceELBO(num_particles=3).terms(pair, x, 60).bound(60).detach()))


# --- bad input ----------------------------------------------------------------------------------------------------


class Normed(VAE):
    def __init__(self, norm: nn.Module) -> None:
        trunk = MLP(2, [4])
        trunk.layers.append(norm)
        super().__init__(StandardNormal(2), Bernoulli(trunk, 6), DiagonalNormal(MLP(6, [4]), 2))


def tied() -> VAE:
    pair = small_vae()
    pair.likelihood.extra = pair.likelihood.head.layers[0]
    pair.tied = nn.Linear(4, 6)
    pair.tied.weight = pair.likelihood.head.layers[0].weight
    return pair


def of_functions() -> ModelGuidePair:
    net = small_vae()

    def model(x: Tensor, num_data: int | None = None) -> None:
        net.model(x, num_data)

    def guide(x: Tensor, num_data: int | None = None) -> None:
        net.guide(x, num_data)

    return ModelGuidePair.from_callables(model, guide)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (small_vae, {"modules": ["likelyhood"]}, "no module 'likelyhood'.*did you mean 'likelihood'"),
        (small_vae, {"modules": ["prior"]}, r"module 'prior' \(StandardNormal\) has no trainable parameters"),
        (small_vae, {"modules": ["likelihood.head.trunk.layers.1"]}, r"\(Tanh\) has no trainable parameters"),
        (small_vae, {"modules": []}, "expected at least one module"),
        (tied, {}, "are one shared tensor"),
        (lambda: Normed(nn.BatchNorm1d(4)), {}, r"\(BatchNorm1d\) keeps running statistics, which are not random"),
        (lambda: nn.Linear(2, 2), {}, "expected a ModelGuidePair, found Linear"),
        (small_vae, {"weight_noise": "flip-out"}, "unknown weight_noise 'flip-out': did you mean 'flipout'"),
        (
            lambda: Normed(nn.LayerNorm(4)),
            {"weight_noise": "local-reparameterization"},
            r"does not know the layer 'likelihood.head.trunk.layers.2' \(LayerNorm\)[\s\S]*weight_noise=\"shared\"",
        ),
        (small_vae, {"weight_noise": "flipout", "posterior": AutoNormal}, "which an autoguide does not tell"),
        (small_vae, {"posterior": "lowrank"}, "unknown posterior 'lowrank': did you mean 'low-rank'"),
        (small_vae, {"posterior": 3}, "expected a posterior, found int"),
        (small_vae, {"prior": {"likelihood.head.trunk": NormalPrior()}}, "none is given for 'likelihood.head.layers"),
        (
            small_vae,
            {"prior": {"likelihood": NormalPrior(), "likelihood.hed": NormalPrior()}},
            "'likelihood.hed' is no lifted module: did you mean 'likelihood.head'",
        ),
        (of_functions, {"modules": ["program_0"]}, "holds its modules in a closure"),
    ],
)
def test_refuses(make: Any, arguments: Any, message: str) -> None:
    with pytest.raises(PairError, match=message):
        bayesianise(make(), **arguments)


def test_refuses_priors_and_scales_that_are_none() -> None:
    for prior, message in (
        (3.0, "expected a distribution or a weight prior, found float"),
        (dist.Normal(torch.zeros(3), 1.0), "expected a distribution of single weights"),
        (dist.Gamma(1.0, 1.0), "expected a distribution over the real line, found Gamma"),
    ):
        with pytest.raises(PpvaeError, match=message):
            bayesianise(small_vae(), prior=prior)  # type: ignore[arg-type]
    for make in (
        lambda: NormalPrior(0.0),
        lambda: ScaleMixturePrior(1.5),
        lambda: LowRankPosterior(0),
        lambda: DiagonalPosterior(-1.0),
        lambda: HorseshoePrior(0.0),
    ):
        with pytest.raises(PpvaeError, match="expected a"):
            make()


def test_constrained_and_recurrent_parameters_are_refused() -> None:
    class Recurrent(VAE):
        def __init__(self) -> None:
            super().__init__(StandardNormal(2), Bernoulli(MLP(2, [3]), 4), DiagonalNormal(MLP(4, [3]), 2))
            self.cell = nn.GRU(2, 2)
            self.rate = PyroParam(torch.tensor(1.0), constraint=dist.constraints.positive)

    with pytest.raises(PairError, match=r"module 'cell' \(GRU\) keeps its weights in a list"):
        bayesianise(Recurrent(), modules=["cell"])
    with pytest.raises(PairError, match="parameter 'rate' is a constrained PyroParam"):
        bayesianise(Recurrent(), modules=["rate_unconstrained"])


def test_a_layer_used_otherwise_is_refused() -> None:
    class Odd(nn.Module):
        out_features = 4

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 4)

        def forward(self, z: Tensor) -> Tensor:
            return z @ self.linear.weight.T

    pair = VAE(StandardNormal(2), Bernoulli(Odd(), 6), DiagonalNormal(MLP(6, [4]), 2))
    bayes = bayesianise(pair, modules=["likelihood.head.trunk.linear.weight"], weight_noise="flipout")
    with pytest.raises(PairError, match=r"is used by .*flipout does not know what noise to give it"):
        elbo.TraceMeanFieldELBO().terms(bayes, binary())


def test_closures_by_taking_over() -> None:
    pair, x = of_functions(), binary()
    bayes = bayesianise(pair, modules=["program_0.likelihood"], copy=False)
    assert isinstance(bayes, BayesianPair)
    check_pair(bayes, x, num_data=12)
    first = log_joint(bayes, x, draw(bayes, x, 1).latents).observed
    with torch.no_grad():
        for name, parameter in bayes.named_parameters():
            if name.startswith("weight_posterior") and name.endswith("loc"):
                parameter.add_(1.0)
    assert not torch.allclose(first, log_joint(bayes, x, draw(bayes, x, 1).latents).observed, atol=0.1)
