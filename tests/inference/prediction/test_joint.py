"""Several observed sites: predictions are joint over them, and conditioning on some has its closed form."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset
from ppvae.distributions import Categorical, DiagonalNormal, StandardNormal
from ppvae.inference import (
    decode,
    elbo,
    generate,
    inpaint,
    log_evidence_of_data_set,
    posterior_checks,
    predict_given,
    reconstruct,
)
from ppvae.inference.evidence import simulate_data
from ppvae.inference.evidence.run import model_ready
from ppvae.inference.execution.over_data import OverData
from ppvae.models import VAE, FactorAnalysis, MixtureOfFactorAnalysers, bernoulli_vae, semi_supervised_vae
from ppvae.networks import MLP


class Chain(ModelGuidePair):
    """z ~ N(0, 1), a ~ N(z, 0.5^2), b ~ N(2 a + z, 0.3^2): b depends on a."""

    depends = True

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x["a"], num_data):
            z = pyro.sample("z", dist.Normal(x["a"].new_zeros(()), 1.0))
            a = pyro.sample("a", dist.Normal(z, 0.5), obs=x["a"])
            pyro.sample("b", dist.Normal(2 * a + z if self.depends else z, 0.3), obs=x["b"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x["a"], num_data):
            pyro.sample("z", dist.Normal(0.5 * x["a"], 0.3))


class Apart(Chain):
    """The same, but b depends on z alone."""

    depends = False


class ReadsItself(Chain):
    """The same, but b is told of the a in x, whatever was drawn."""

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x["a"], num_data):
            z = pyro.sample("z", dist.Normal(x["a"].new_zeros(()), 1.0))
            pyro.sample("a", dist.Normal(z, 0.5), obs=x["a"])
            pyro.sample("b", dist.Normal(2 * x["a"] + z, 0.3), obs=x["b"])


LIKE = {"a": torch.full((4,), 50.0), "b": torch.full((4,), -30.0)}


def test_draws_are_joint_and_never_see_the_values_of_like() -> None:
    count = 20_000
    drawn = generate(Chain(), count, like=LIKE, kind="sample", site="b").double()
    variance = 9 + 4 * 0.25 + 0.09
    assert abs(float(drawn.mean())) < 5 * math.sqrt(variance / count)
    assert abs(float(drawn.var()) - variance) < 5 * variance * math.sqrt(2 / count)
    z = torch.full((count,), 3.0)
    drawn = decode(Chain(), z, like=LIKE, kind="sample", site="b").double()
    assert abs(float(drawn.mean()) - 9) < 5 * math.sqrt(1.09 / count)
    assert abs(float(drawn.var()) - 1.09) < 5 * 1.09 * math.sqrt(2 / count)


def test_a_mean_that_depends_on_another_site_is_refused_or_given_it() -> None:
    z = torch.tensor([0.0, 1.0, 2.0])
    for ask in (lambda: generate(Chain(), 5, like=LIKE, site="b"), lambda: decode(Chain(), z, like=LIKE, site="b")):
        with pytest.raises(PairError, match="site 'b' depends on another observed site, of 'a'"):
            ask()
    a = torch.tensor([3.0, 4.0, 5.0])
    assert torch.allclose(decode(Chain(), z, like=LIKE, given={"a": a}, site="b"), 2 * a + z)
    assert torch.allclose(decode(Chain(), z, like=LIKE, site="a"), z)  # a depends on nothing but z
    assert torch.allclose(decode(Apart(), z, like=LIKE, site="b"), z)
    with pytest.raises(PairError, match=r"given: no observed site 'c': .*Known: a, b"):
        decode(Chain(), z, like=LIKE, given={"c": a}, site="b")
    # Of real data the other site keeps the datum's value: 2 * 50 + 25.
    assert torch.allclose(reconstruct(Chain(), LIKE, site="b"), torch.full((4,), 125.0))


def test_observed_values_that_the_model_reads_from_x_are_refused() -> None:
    for ask in (
        lambda: generate(ReadsItself(), 5, like=LIKE, kind="sample", site="b"),
        lambda: posterior_checks(ReadsItself(), LIKE, site="b", num_replicates=2),
        lambda: predict_given(ReadsItself(), {"a": LIKE["a"]}, like=LIKE),
    ):
        with pytest.raises(PairError, match=r"site 'b' depends on observed values that the model reads from x"):
            ask()
    assert torch.allclose(reconstruct(ReadsItself(), LIKE, site="b"), torch.full((4,), 125.0))


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_conditioning_is_that_of_a_joint_normal(compile: Any) -> None:
    """E[b | a] = (2 + 0.8) a and Var[b | a] = 0.2 + 0.09; the other way round by the covariance."""
    a = torch.tensor([-1.5, 0.0, 1.0, 2.0])
    found = predict_given(Chain(), {"a": a}, like=LIKE, num_samples=4000, num_draws=500, compile=compile)
    assert found.site == "b" and bool(found.trusted.all())
    assert bool(((found.mean - 2.8 * a).abs() < 5 * found.standard_error).all())
    assert bool((found.standard_error < 0.05).all())
    spread = found.samples.var(0)
    assert found.samples.shape == (500, 4)
    # Resampled from `effective_sample_size` draws at best.
    worth = 1 / (1 / 500 + 1 / found.effective_sample_size)
    assert bool(((spread - 0.29).abs() < 5 * 0.29 * (2 / worth).sqrt()).all())
    b = torch.tensor([4.0])
    back = predict_given(Chain(), {"b": b}, like=LIKE, site="a", num_samples=20_000)
    covariance = 2 * 1.25 + 1  # Cov(a, b) = 2 Var(a) + Cov(a, z)
    assert abs(float(back.mean - covariance / 10.09 * b)) < 5 * float(back.standard_error)
    # The other values of `like` play no part.
    other = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert torch.equal(predict_given(Chain(), {"b": b}, like=other, site="a", num_samples=20_000).mean, back.mean)


def test_conditioning_far_from_the_prior_is_not_trusted() -> None:
    found = predict_given(Chain(), {"a": torch.tensor([0.0, 9.0])}, like=LIKE)
    assert found.trusted.tolist() == [True, False]
    with pytest.raises(PpvaeError, match="expected the values of some sites, found none"):
        predict_given(Chain(), {}, like=LIKE)
    with pytest.raises(PpvaeError, match="expected values of one length"):
        predict_given(Chain(), {"a": torch.zeros(2), "b": torch.zeros(3)}, like=LIKE)


def test_a_site_that_is_held_stays_there_when_data_are_simulated() -> None:
    class Slope(Apart):
        def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
            w = pyro.sample("w", dist.Normal(x["a"].new_zeros(()), 1.0))
            with self.data_plate(x["a"], num_data):
                z = pyro.sample("z", dist.Normal(w, 1.0))
                pyro.sample("a", dist.Normal(z, 0.5), obs=x["a"])
                pyro.sample("b", dist.Normal(z, 0.3), obs=x["b"])

        def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
            pyro.sample("w", dist.Normal(x["a"].new_zeros(()), 1.0))
            super().guide(x, num_data)

    made = simulate_data(Slope(), LIKE, 50, global_sites={"w": torch.tensor(100.0)})
    assert isinstance(made.x, dict) and float((made.x["a"] - 100).abs().max()) < 10


# --- means that there are none of ---------------------------------------------------------------


def _classes() -> VAE:
    torch.manual_seed(0)
    return VAE(
        prior=StandardNormal(2),
        likelihood=Categorical(MLP(2, [4]), event_shape=(3,), num_categories=5),
        posterior=DiagonalNormal(MLP(3, [4]), event_shape=(2,)),
    )


class Transformed(FactorAnalysis):
    """A likelihood by hand, exp of a normal, that does not know its mean."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            base = dist.Normal(z[..., :1].expand(*z.shape[:-1], 3), 0.5)
            made = dist.TransformedDistribution(base, [transforms.SigmoidTransform()])
            pyro.sample("x", made.to_event(1), obs=x)


@pytest.mark.parametrize("make", [_classes, lambda: Transformed(3, 2)])
def test_a_mean_that_does_not_exist_is_refused_by_name(make: Any) -> None:
    pair, x = make(), torch.full((4, 3), 0.5)
    x = torch.ones(4, 3) if isinstance(pair, VAE) else x
    for ask in (
        lambda: generate(pair, 3, like=x),
        lambda: decode(pair, torch.zeros(3, 2), like=x),
        lambda: reconstruct(pair, x),
        lambda: reconstruct(pair, x, num_samples=3),
        lambda: inpaint(pair, x, torch.tensor([True, True, False]), num_steps=60, num_burn_in=50),
    ):
        with pytest.raises(PairError, match="site 'x': expected a distribution that knows its mean"):
            ask()
    assert generate(pair, 7, like=x, kind="sample").isfinite().all()


def test_an_infinite_mean_is_refused() -> None:
    class Heavy(Transformed):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Cauchy(z[..., :1].expand(*z.shape[:-1], 3), 0.5).to_event(1), obs=x)

    with pytest.raises(PairError, match="site 'x': expected a finite mean, found Cauchy"):
        generate(Heavy(3, 2), 3, like=torch.zeros(2, 3))


# --- dynamic binarisation -----------------------------------------------------------------------


def test_dynamic_binarisation_follows_the_seed_and_the_row_and_not_the_chunk() -> None:
    grey = Dataset(torch.full((300, 8), 0.5), value_space="unit", binarization="dynamic")
    pair = bernoulli_vae(8, latent_dim=2, hidden=(4,))
    work = OverData(pair, grey, device="cpu", seed=3)
    first, second = work.batch(torch.arange(100)), work.batch(torch.arange(100, 200))
    assert isinstance(first, Tensor) and isinstance(second, Tensor)
    assert not torch.equal(first, second)
    assert torch.equal(work.batch(torch.arange(150, 200)), second[50:])
    assert not torch.equal(OverData(pair, grey, device="cpu", seed=4).batch(torch.arange(100)), first)
    # What evidence sees under the same seed, and all of it.
    whole = model_ready(grey, torch.float32, 3)
    assert isinstance(whole, Tensor) and torch.equal(work.batch(torch.arange(300)), whole)
    assert abs(float(whole.mean()) - 0.5) < 5 * 0.5 / math.sqrt(2400)
    few = reconstruct(pair, grey, seed=3, chunk_size=37)
    assert torch.allclose(few, reconstruct(pair, grey, seed=3, chunk_size=300), atol=1e-6)
    assert torch.allclose(few, reconstruct(pair, Dataset(whole), chunk_size=300), atol=1e-6)
    assert not torch.allclose(few, reconstruct(pair, grey, seed=4), atol=1e-6)


def test_inpainting_follows_its_seed_and_leaves_the_global_generator() -> None:
    grey = Dataset(torch.full((6, 8), 0.5), value_space="unit", binarization="dynamic")
    pair = bernoulli_vae(8, latent_dim=2, hidden=(4,))
    seen = torch.arange(8) < 5
    before = torch.get_rng_state()
    few: dict[str, Any] = {"num_steps": 20, "num_burn_in": 10, "compile": "eager"}
    one, same, other = (inpaint(pair, grey, seen, seed=s, **few).mean for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one[:, :5], other[:, :5])


# --- refusals in words --------------------------------------------------------------------------


class _Steps(ModelGuidePair):
    """Three time steps of four values, a site each; the guide draws a coin that has no gradient, and one by the way."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Bernoulli(x.new_tensor(0.5)))
            pyro.sample("v", dist.Normal(x.new_zeros(()), 1.0))
            for t in range(3):
                loc = z[..., None].expand(*z.shape, 4)
                pyro.sample(f"x_{t}", dist.Normal(loc, 1.0).to_event(1), obs=x[:, 4 * t : 4 * t + 4])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("u", dist.Normal(x.new_zeros(()), 1.0), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Bernoulli(torch.sigmoid(x[:, 0])))
            pyro.sample("v", dist.Normal(x.new_zeros(()), 1.0))


@pytest.mark.parametrize("source", ["prior", "posterior"])
def test_one_time_step_of_a_picture_is_checked(source: Any) -> None:
    data = Dataset(torch.randn(10, 12), image_shape=(3, 4))
    found = posterior_checks(_Steps(), data, site="x_1", num_replicates=3, source=source)
    assert "mean" in found and "change between neighbours" not in found


def test_estimators_do_not_send_one_to_each_other_in_a_circle() -> None:
    x = torch.randn(5, 12)
    with pytest.raises(PairError) as refused:
        elbo.TraceELBO().check(_Steps(), x)
    assert "without auxiliary sites for elbo.ScoreFunctionELBO" in str(refused.value)
    with pytest.raises(PairError, match="guide site 'u' is auxiliary"):
        elbo.ScoreFunctionELBO().check(_Steps(), x)


def test_evidence_of_a_data_set_needs_draws() -> None:
    draws: Any = torch.zeros(5, 4)
    with pytest.raises(PpvaeError, match=r"expected draws of all sites given all data, found Tensor"):
        log_evidence_of_data_set(FactorAnalysis(4, 2), draws)


def test_latents_that_are_none_are_refused() -> None:
    with pytest.raises(PairError, match="expected a value for every local latent site, found none"):
        decode(FactorAnalysis(4, 2), {}, like=torch.zeros(2, 4))


def test_given_a_class_that_is_summed_out_data_are_of_that_class() -> None:
    """E[x | y = k] and Var[x | y = k] of a mixture of factor analysers, in closed form; its means vary by WW' alone."""
    loc = torch.tensor([[-2.0, 0.0], [2.0, 1.0]])
    loading, scale = torch.tensor([[[1.0], [0.5]], [[-1.0], [2.0]]]), torch.tensor([[0.5, 1.0], [1.0, 0.3]])
    pair = MixtureOfFactorAnalysers.from_parameters(probs=[0.1, 0.9], loc=loc, loading=loading, scale=scale)
    y, size = torch.tensor([1, 0, 1]), 4000
    within = loading[y].square().sum(-1)
    error = 5 * (2 * 2 / size) ** 0.5  # of a variance of resampled draws, relative
    for kind, variance in (("sample", within + scale[y].square()), ("mean", within)):
        options: dict[str, Any] = {"kind": kind, "num_samples": size, "num_draws": size}
        found = predict_given(pair, {"y": y}, like=torch.zeros(1, 2), **options)
        assert bool((found.effective_sample_size > size - 1).all())
        assert bool(((found.mean - loc[y]).abs() < 5 * found.standard_error).all())
        assert bool(((found.samples.var(0) / variance - 1).abs() < error).all())


def test_a_given_site_that_is_masked_out_is_refused() -> None:
    pair = semi_supervised_vae(4, 2, latent_dim=1, hidden=(3,))
    x = {"x": torch.zeros(2, 4), "label": torch.tensor([1, -1])}
    with pytest.raises(PairError, match="site 'label_observed' is masked out for datum 1"):
        predict_given(pair, {"label_observed": torch.eye(2)}, like=x)
    with pytest.raises(PairError, match="given: no observed site or local latent 'w'"):
        predict_given(pair, {"w": torch.eye(2)}, like=x, site="x")
