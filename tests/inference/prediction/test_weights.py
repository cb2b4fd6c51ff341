"""Signal-to-noise of weights and pruning by it."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.bayesian_pairs import linear, widen
from core.pairs import GlobalWeight
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, PpvaeError, log_joint
from ppvae.inference import evidence, log_evidence
from ppvae.inference.prediction.weights import prune, signal_to_noise, weight_moments
from ppvae.models import BayesianPair, bayesianise, bernoulli_vae


def regression(posterior: str = "diagonal") -> tuple[BayesianPair, dict[str, Tensor]]:
    pair, x = linear()
    return widen(bayesianise(pair, modules=["layer"], posterior=posterior)), x  # type: ignore[arg-type]


@pytest.mark.parametrize("posterior", ["diagonal", "low-rank"])
def test_moments_are_those_of_the_posterior(posterior: str) -> None:
    pair, x = regression(posterior)
    found, ratios = weight_moments(pair, x), signal_to_noise(pair, x)
    for name, weight in pair.gaussian_weights().items():
        variance = weight.scale.square() + (0 if weight.factor is None else weight.factor.square().sum(-1))
        torch.testing.assert_close(found[name].mean, weight.loc.detach(), rtol=0, atol=1e-12)
        torch.testing.assert_close(found[name].scale, variance.sqrt().detach())
        torch.testing.assert_close(ratios[name], (weight.loc.abs() / variance.sqrt()).detach())


def test_any_pair_with_global_latents() -> None:
    pair = GlobalWeight()
    found = weight_moments(pair, torch.randn(4, 3))["w"]
    torch.testing.assert_close(found.mean, pair.weight_loc.detach())
    torch.testing.assert_close(found.scale, pair.weight_log_scale.exp().detach())


def test_autoguides_by_draws() -> None:
    pair, x = linear()
    bayes = bayesianise(pair, modules=["layer"], posterior=AutoNormal)
    found = weight_moments(bayes, x)
    for name in bayes.weight_names:
        attribute = name.removeprefix("layer.")
        scale = found[name].scale
        exact = getattr(pair.layer, attribute).detach()
        assert bool(((found[name].mean - exact).abs() < 4.5 * scale / 1000**0.5).all())
        assert bool(((scale / 0.1 - 1).abs() < 0.1).all())  # Pyro's initial scale


def test_pruning() -> None:
    pair, x = regression()
    ratios = signal_to_noise(pair, x)
    half = prune(pair, x, fraction=0.5)
    assert half.fraction == 0.5 and not half.values["layer.weight"][~half.mask["layer.weight"]].any()
    assert bool(half.mask["layer.bias"].all())  # weights are pruned, biases are not, unless asked
    assert ratios["layer.weight"][half.mask["layer.weight"]].min() >= half.threshold
    assert ratios["layer.weight"][~half.mask["layer.weight"]].max() < half.threshold
    by_threshold = prune(pair, x, threshold=half.threshold)
    assert torch.equal(by_threshold.mask["layer.weight"], half.mask["layer.weight"])
    everything = prune(pair, x, fraction=1.0, sites=("layer.weight", "layer.bias"))
    held = log_joint(everything.pair, x, {}).observed
    torch.testing.assert_close(held, torch.distributions.Normal(0.0, 0.5).log_prob(x["y"]).sum(-1))


def test_pruned_weights_can_be_evaluated() -> None:
    pair, x = bayesianise(bernoulli_vae(6, latent_dim=2, hidden=(4,))), torch.bernoulli(torch.full((5, 6), 0.4))
    pruned = prune(pair, x, fraction=0.3)
    method = evidence.ImportanceSampling(20)
    one = log_evidence(pair, x, method=method, global_sites=pruned.values, progress=False)
    assert bool(torch.isfinite(one.log_evidence).all())
    weight = pruned.values["likelihood.head.layers.0.weight"]
    assert int((weight == 0).sum()) == int((~pruned.mask["likelihood.head.layers.0.weight"]).sum())
    z = torch.randn(1, 5, 2)
    shared = {name: value[None] for name, value in pruned.values.items()}
    expected = log_joint(pair, x, {"z": z, **shared}).local
    torch.testing.assert_close(log_joint(pruned.pair, x, {"z": z}).local, expected)


def test_refuses() -> None:
    pair, x = regression()
    for arguments in ({}, {"fraction": 0.5, "threshold": 1.0}, {"fraction": 1.5}, {"threshold": -1.0}):
        with pytest.raises(PpvaeError, match="prune: expected"):
            prune(pair, x, **arguments)
    with pytest.raises(PairError, match=r"did you mean 'layer\.weight'"):
        prune(pair, x, fraction=0.5, sites=("layer.weigth",))
    with pytest.raises(PairError, match="no global latent"):
        signal_to_noise(linear()[0], x)


def test_moments_of_a_site_that_depends_on_another_are_not_those_at_one_draw() -> None:
    class Chain(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor(1.0))

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
            v = pyro.sample("v", dist.Normal(w, 1.0))
            with self.data_plate(x, num_data):
                pyro.sample("x", dist.Normal(v.unsqueeze(-1) if v.dim() else v, 1.0), obs=x[:, 0])

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            w = pyro.sample("w", dist.Normal(self.loc, 3.0))
            pyro.sample("v", dist.Normal(w, 0.5))

    found = weight_moments(Chain(), torch.zeros(4, 1))
    assert (float(found["w"].mean), float(found["w"].scale)) == (1.0, 3.0)  # told by its own distribution
    scale = 9.25**0.5
    assert abs(float(found["v"].mean) - 1) < 4 * scale / 1000**0.5
    assert abs(float(found["v"].scale) / scale - 1) < 4 / 2000**0.5
