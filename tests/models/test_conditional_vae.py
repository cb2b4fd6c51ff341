"""Auto-encoders given covariates: the linear Gaussian model as exact twin, two evidence methods, labels of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor, nn

from ppvae.core import Data, ModelGuidePair, PairError, PpvaeError, draw, log_joint
from ppvae.distributions import LinearNormal, StandardNormal
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import (
    Covariate,
    Latent,
    LatentModel,
    LinearGaussian,
    Observed,
    conditional_vae,
    likelihoods,
    posteriors,
    priors,
)
from ppvae.runs import Recipe, load_run, train

SMALL: dict[str, Any] = {"latent_dim": 2, "hidden": (4,)}


def rows(x: Tensor) -> Data:
    return {"x": x, "label": torch.eye(3)[torch.arange(len(x)) % 3]}


class TestConditionalPrior(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return conditional_vae(5, 3, **SMALL, conditional_prior=True, likelihood=likelihoods.gaussian())

    def make_data(self) -> Data:
        return rows(torch.randn(6, 5))


class TestOtherParts(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return conditional_vae(5, 3, **SMALL, prior=priors.mixture(2), posterior=posteriors.planar(1))

    def make_data(self) -> Data:
        return rows(torch.bernoulli(torch.full((6, 5), 0.4)))


def linear(conditional_prior: bool) -> LatentModel:
    """Without hidden layers; the noise of z is made the same for all covariates."""
    gaussian = likelihoods.gaussian(scale="per-dimension")
    options: dict[str, Any] = {"conditional_prior": conditional_prior, "likelihood": gaussian}
    pair = conditional_vae(5, 3, latent_dim=1, hidden=(), **options)
    scramble(pair)
    if conditional_prior:
        with torch.no_grad():
            pair.prior_z.head.layers[1].weight.zero_()
    return pair


def copied(mean: nn.Linear, log_scale: Tensor, sizes: list[int]) -> LinearNormal:
    found = LinearNormal(sizes, mean.out_features)
    for weight, part in zip(found.weights, mean.weight.split(sizes, 1), strict=True):
        weight.data = part.detach().clone()
    found.bias.data, found.log_scale.data = mean.bias.detach().clone(), log_scale.detach().clone()
    return found


def twin(pair: LatentModel, conditional_prior: bool) -> LinearGaussian:
    likelihood = pair.likelihood_x
    prior: Any = StandardNormal(1)
    if conditional_prior:
        mean, log_scale = pair.prior_z.head.layers
        prior = copied(mean, log_scale.bias, [3]).given("label")
    return LinearGaussian(
        label=Covariate(3),
        z=Latent(prior),
        x=Observed(copied(likelihood.head.layers[0], likelihood.log_scale, [1, 3]).given("z", "label")),
    )


@pytest.mark.parametrize("conditional_prior", [False, True])
def test_linear_networks_make_the_linear_gaussian_model(conditional_prior: bool, float64: torch.dtype) -> None:
    """Equal densities; and with one latent the guide can be exact, where the bound has no noise."""
    pair = linear(conditional_prior)
    exact, x = twin(pair, conditional_prior), {"x": torch.randn(4, 5), "label": torch.randn(4, 3)}
    latents = draw(pair, x, 3).latents
    torch.testing.assert_close(log_joint(pair, x, latents).local, log_joint(exact, x, latents).local)
    points = torch.cat([torch.zeros(1, 8), torch.eye(8)])
    with torch.no_grad():
        posterior = exact.posterior({"x": points[:, :5], "label": points[:, 5:]})
        loc, log_scale = pair.posterior_z.head.layers
        loc.weight.copy_((posterior.mean[1:] - posterior.mean[0]).T), loc.bias.copy_(posterior.mean[0])
        log_scale.weight.zero_(), log_scale.bias.copy_(posterior.variance[0].sqrt().log())
    bound = elbo.TraceELBO(num_particles=3).terms(pair, x).local
    torch.testing.assert_close(bound, exact.log_evidence(x))


def test_evidence_methods_agree() -> None:
    torch.manual_seed(2)
    label = torch.eye(2)[torch.arange(200) % 2]
    x = {"x": torch.bernoulli(0.1 + 0.7 * label.repeat_interleave(4, 1) * torch.rand(200, 1).round()), "label": label}
    pair = conditional_vae(8, 2, latent_dim=2, hidden=(8,), conditional_prior=True)
    how: dict[str, Any] = {"num_epochs": 8, "batch_size": 50, "learning_rate": 1e-2, "compile": "eager"}
    result = fit(pair, x, progress=False, **how)
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"]
    few = {name: value[:4] for name, value in x.items()}
    one = log_evidence(pair, few, method=evidence.ImportanceSampling(2000), compile="eager", progress=False)
    annealed = evidence.AIS(num_temperatures=10, num_chains=64)
    two = log_evidence(pair, few, method=annealed, compile="eager", progress=False)
    error = (one.standard_error**2 + two.standard_error**2).sqrt()
    assert bool(((one.log_evidence - two.log_evidence).abs() < 4.5 * error + 1e-6).all())


def test_a_recipe_gives_it_the_labels_as_rows(tmp_path: Path) -> None:
    table = {"name": "conditional-vae", "latent_dim": 2, "hidden": [8], "conditional_prior": True}
    training = {"num_epochs": 1, "compile": "eager"}
    recipe = Recipe.from_dict({"model": table, "data": {"source": "digits", "num_train": 600}, "training": training})
    train(recipe, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.data.labels is not None and run.data.test is not None
    assert torch.equal(run.data.members["label"].argmax(-1), run.data.labels)
    assert run.data.test.members["label"].shape == (300, 10)


def test_what_does_not_fit_is_refused() -> None:
    for make, message in (
        (lambda: conditional_vae((2, 3), 3), r"conditional_vae: expected rows of D entries"),
        (lambda: conditional_vae(6, 3, latent_dim=0), "latent_dim: expected at least one"),
        (lambda: conditional_vae(6, 3, conditional_prior=True, prior=priors.mixture()), "there is another prior"),
        (lambda: conditional_vae(6, 3, prior=priors.vamp(4)), r"VampPrior: the posterior fails on pseudo-inputs"),
    ):
        with pytest.raises(PpvaeError, match=message):
            make()


def test_numbers_in_the_place_of_rows_are_refused() -> None:
    """Three data of three classes: three numbers would pass for one row, the same for all."""
    pair, x = conditional_vae(5, 3, **SMALL), torch.ones(3, 5)
    with pytest.raises(PairError, match=r"(?s)member 'label': expected \[B, 3\], found \[3\].*torch.eye"):
        draw(pair, {"x": x, "label": torch.arange(3.0)}, 1)
