"""The sigmoid belief network: the contract of a pair, and the sum over all coins; relaxed, an integral over noise."""

from __future__ import annotations

import itertools

import pytest
import torch
from contracts.pair import PairContract
from torch import Tensor
from torch.distributions import Bernoulli as Coins

from ppvae.core import Data, ModelGuidePair, PairError, PpvaeError, log_joint
from ppvae.inference import elbo, evaluate_bound, evidence, fit, log_evidence
from ppvae.models import LatentModel, sigmoid_belief_network
from ppvae.networks import MLP, Signs


def rows(size: int, data_dim: int) -> Tensor:
    return torch.bernoulli(torch.full((size, data_dim), 0.4))


class TestRelaxed(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return sigmoid_belief_network(5, latent_dims=(3, 2), hidden=(4,), signs=True, temperature=0.7)

    def make_data(self) -> Data:
        return rows(6, 5)


class TestCoins(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return sigmoid_belief_network(5, latent_dims=(3, 2), signs=True)

    def make_data(self) -> Data:
        return rows(6, 5)

    def test_gradient_reaches_every_parameter(self, pair: ModelGuidePair, x: Data) -> None:
        """By the estimator for coins."""
        elbo.VIMCO(4).terms(pair, x).objective().backward()
        assert [name for name, p in pair.named_parameters() if p.grad is None or not bool(p.grad.any())] == []

    @pytest.mark.parametrize("mode", ["graph"])  # compiled, PyTorch draws the coins of float64 in float32: other ones
    def test_captured_equals_eager(self, pair: ModelGuidePair, x: Data, mode: str) -> None:
        super().test_captured_equals_eager(pair, x, mode)


def random_network(**options: object) -> LatentModel:
    """With parameters large enough for every layer to matter."""
    torch.manual_seed(4)
    pair = sigmoid_belief_network(4, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return pair.double()


def layer_of(module: object) -> tuple[Tensor, Tensor]:
    (layer,) = module.head.layers  # type: ignore[attr-defined]
    return layer.weight, layer.bias


def by_hand(pair: LatentModel, x: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """All values of the coins of two layers, and log p(x, z1, z2) of each, [values, B]."""
    (top,) = pair.prior_z2.head.free
    (w1, b1), (w0, b0) = layer_of(pair.prior_z1), layer_of(pair.likelihood_x)
    values, terms = [], []
    for bits in itertools.product((0.0, 1.0), repeat=5):
        z1, z2 = torch.tensor(bits[:3]), torch.tensor(bits[3:])
        of_z = Coins(logits=top).log_prob(z2).sum() + Coins(logits=b1 + w1 @ (2 * z2 - 1)).log_prob(z1).sum()
        terms.append(of_z + Coins(logits=b0 + w0 @ (2 * z1 - 1)).log_prob(x).sum(-1))
        values.append((z1, z2))
    return values, torch.stack(terms).detach()


def test_evidence_is_the_sum_over_all_coins(float64: torch.dtype) -> None:
    pair, x = random_network(latent_dims=(3, 2), signs=True), rows(6, 4)
    values, terms = by_hand(pair, x)
    latents = {
        name: torch.stack([value[place] for value in values])[:, None].expand(-1, 6, -1)
        for place, name in enumerate(("z1", "z2"))
    }
    torch.testing.assert_close(log_joint(pair, x, latents).local, terms)
    exact = terms.logsumexp(0)
    for method in (evidence.ImportanceSampling(4000), evidence.PriorSampling(4000)):
        found = log_evidence(pair, x, method=method, progress=False)
        assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error).all())
        assert float(found.standard_error.max()) < 0.2
    bound = evaluate_bound(pair, x, elbo=elbo.VIMCO(5), num_repeats=20, progress=False)
    assert bound.mean + 4 * bound.mean_standard_error < float(exact.mean())


def test_training_by_vimco_approaches_the_evidence(float64: torch.dtype) -> None:
    pair, x = sigmoid_belief_network(4, latent_dims=(3, 2), signs=True).double(), rows(40, 4)
    fit(pair, x, elbo=elbo.VIMCO(8), num_epochs=60, learning_rate=0.03, compile="eager", progress=False)
    exact = by_hand(pair, x)[1].logsumexp(0).mean()
    independent = Coins(x.mean(0).clamp(0.01, 0.99)).log_prob(x).sum(-1).mean()
    bound = evaluate_bound(pair, x, elbo=elbo.VIMCO(8), progress=False)
    assert float(independent) - 0.3 < float(exact)
    assert float(exact) - 0.3 < bound.mean < float(exact) + 4 * bound.mean_standard_error


def test_evidence_of_the_relaxed_model_is_an_integral_over_its_noise(float64: torch.dtype) -> None:
    pair, x = random_network(latent_dims=(2,), temperature=0.7), rows(5, 4)
    (top,), (weight, bias) = pair.prior_z.head.free, layer_of(pair.likelihood_x)
    u = (torch.arange(1000) + 0.5) / 1000
    noise = torch.stack(torch.meshgrid(u.logit(), u.logit(), indexing="ij"), -1).reshape(-1, 2)
    z = ((top + noise) / 0.7).sigmoid()
    exact = Coins(logits=bias + z @ weight.T).log_prob(x[:, None]).sum(-1).exp().mean(1).log().detach()
    coins = random_network(latent_dims=(2,))
    coins.load_state_dict({name: value for name, value in pair.state_dict().items() if "temperature" not in name})
    of_coins = log_evidence(coins, x, method=evidence.ImportanceSampling(4000), progress=False).log_evidence
    assert float((of_coins - exact).abs().max()) > 0.1  # another model
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_chains=64, num_temperatures=30)):
        found = log_evidence(pair, x, method=method, progress=False)
        assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error).all())
        assert float(found.standard_error.max()) < 0.1


def test_what_is_refused() -> None:
    with pytest.raises(PpvaeError, match="expected at least one layer, found none"):
        sigmoid_belief_network(4, latent_dims=())
    with pytest.raises(PpvaeError, match="latent_dims: expected at least one latent dimension, found 0"):
        sigmoid_belief_network(4, latent_dims=(3, 0))
    with pytest.raises(PpvaeError, match="expected a positive temperature, found 0"):
        sigmoid_belief_network(4, temperature=0.0)
    with pytest.raises(PairError, match=r"'z' has a\s+Bernoulli[\s\S]*elbo\.VIMCO"):
        fit(sigmoid_belief_network(4, latent_dims=(2,)), rows(6, 4), num_epochs=1, progress=False)


def test_signs_are_read_by_what_reads_a_layer() -> None:
    pair = sigmoid_belief_network(4, latent_dims=(3, 2), signs=True)
    read = {name for name, module in pair.named_modules() if isinstance(module, Signs)}
    assert read == {"prior_z1.head.trunk", "posterior_z2.head.trunk", "likelihood_x.head.trunk"}
    assert isinstance(pair.posterior_z1.head.trunk, MLP)
