"""Auto-encoders of classes without labels: the mixture of factor analysers as exact twin, and brute force."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor
from torch.nn import functional

from ppvae.core import ModelGuidePair, PpvaeError, log_joint
from ppvae.inference import discrete_posterior, elbo, evidence, fit, log_evidence
from ppvae.models import LatentModel, MixtureOfFactorAnalysers, likelihoods, mixture_vae, posteriors

Word = Literal["latent", "data", "both"]
SMALL: dict[str, Any] = {"num_components": 3, "latent_dim": 2, "hidden": (4,)}


class TestOfTheLatent(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return mixture_vae((2, 3), **SMALL, posterior=posteriors.planar(1))

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 2, 3), 0.4))


class TestOfBoth(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return mixture_vae(6, **SMALL, given_class="both", likelihood=likelihoods.gaussian())

    def make_data(self) -> Tensor:
        return torch.randn(6, 6)


def linear(given_class: Word, latent_dim: int) -> tuple[LatentModel, MixtureOfFactorAnalysers]:
    """Without hidden layers it is a mixture of factor analysers, whose factors are (z - mu_y) / sigma_y."""
    options = {"likelihood": likelihoods.gaussian(scale="per-dimension"), "given_class": given_class, "hidden": ()}
    pair = mixture_vae(5, num_components=3, latent_dim=latent_dim, **options)  # type: ignore[arg-type]
    scramble(pair)
    with torch.no_grad():
        classes, head = torch.eye(3), pair.likelihood_x.head.layers[0]
        of_z, of_y = head.weight[:, :latent_dim], head.weight[:, latent_dim:]
        loc, loading = head.bias.expand(3, 5), of_z.expand(3, 5, latent_dim)
        if given_class != "latent":
            loc = loc + of_y.T
        if given_class != "data":
            normal = pair.prior_z(classes).base_dist
            loc, loading = loc + normal.loc @ of_z.T, loading * normal.scale[:, None, :]
        probs, scale = pair.prior_y().probs, pair.likelihood_x.log_scale.exp().expand(3, 5)
        return pair, MixtureOfFactorAnalysers.from_parameters(probs, loc, loading, scale)


@pytest.mark.parametrize("given_class", ["latent", "data", "both"])
def test_linear_networks_make_a_mixture_of_factor_analysers(given_class: Word, float64: torch.dtype) -> None:
    """The integral over one latent by the trapezoid rule, which is exact here to rounding."""
    pair, exact = linear(given_class, 1)
    x, grid = torch.randn(4, 5), torch.linspace(-25, 25, 10001)
    joint = log_joint(pair, x, {"z": grid[:, None, None].expand(-1, 4, 1)}).local
    found = joint.logsumexp(0) + (grid[1] - grid[0]).log()
    torch.testing.assert_close(found, exact.log_evidence(x), rtol=1e-8, atol=1e-8)


def test_classes_are_those_of_the_twin(float64: torch.dtype) -> None:
    """p(y | x, z) of a decoder that reads the class; z is the twin's own."""
    pair, exact = linear("data", 2)
    x, z = torch.randn(4, 5), torch.randn(1, 4, 2)
    torch.testing.assert_close(log_joint(pair, x, {"z": z}).local, exact.log_joint(x, z))
    layers = pair.posterior_z.head.layers
    with torch.no_grad():  # a guide that puts z at one place
        layers[0].weight.zero_(), layers[1].weight.zero_(), layers[1].bias.fill_(-30.0)
    found = discrete_posterior(pair, x, num_samples=2, compile="eager").probabilities["y"]
    torch.testing.assert_close(found, exact.discrete_conditional(x, layers[0].bias.expand(4, 2)).detach())


def test_classes_are_found_and_evidence_methods_agree() -> None:
    torch.manual_seed(3)
    label = torch.arange(300) % 2
    x = torch.bernoulli(0.05 + 0.9 * functional.one_hot(label, 2).repeat_interleave(4, 1).float())
    pair = mixture_vae(8, num_components=2, latent_dim=1, hidden=(8,), given_class="both", activation="tanh")
    how: dict[str, Any] = {"num_epochs": 40, "batch_size": 50, "learning_rate": 2e-2, "compile": "graph"}
    fit(pair, x, elbo=elbo.TraceELBO(), progress=False, **how)
    found = discrete_posterior(pair, x, num_samples=20, compile="eager").probabilities["y"].argmax(-1)
    share = float((found == label).float().mean())
    assert max(share, 1 - share) > 0.95
    one = log_evidence(pair, x[:4], method=evidence.ImportanceSampling(2000), compile="eager", progress=False)
    annealed = evidence.AIS(num_temperatures=10, num_chains=64)
    two = log_evidence(pair, x[:4], method=annealed, compile="eager", progress=False)
    error = (one.standard_error**2 + two.standard_error**2).sqrt()
    assert bool(((one.log_evidence - two.log_evidence).abs() < 4.5 * error + 1e-6).all())


def test_what_does_not_fit_is_refused() -> None:
    for options, message in (
        ({"latent_dim": 0}, "latent_dim: expected at least one"),
        ({"num_components": 1}, "num_components: expected at least two, found 1"),
        ({"given_class": "bth"}, "given_class: unknown word 'bth': did you mean 'both'"),
    ):
        with pytest.raises(PpvaeError, match=message):
            mixture_vae(6, **{**SMALL, **options})
