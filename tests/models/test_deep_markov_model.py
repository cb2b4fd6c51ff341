"""The deep Markov model: the contract of a pair, and a linear-Gaussian state space where its gate is shut."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.pair import PairContract

from ppvae.core import ModelGuidePair, PpvaeError, check_pair, log_joint
from ppvae.inference import evidence, fit, log_evidence
from ppvae.models import LatentModel, LinearGaussianStateSpace, deep_markov_model, likelihoods

T, D, Z = 5, 3, 2
LENGTHS = torch.tensor([T, 1, 3, 4, 2, T])


def small(**options: Any) -> LatentModel:
    sizes: dict[str, Any] = {"latent_dim": Z, "hidden": (4,), "transition_hidden": 4, "recurrent_hidden": 5}
    return deep_markov_model((T, D), **sizes | options)


def padded() -> dict[str, torch.Tensor]:
    return {"x": torch.bernoulli(torch.full((6, T, D), 0.4)), "lengths": LENGTHS}


class TestDeepMarkovModel(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return small()

    def make_data(self) -> Any:
        return padded()

    def test_particles_run_at_once(self, pair: ModelGuidePair, x: Any) -> None:
        check_pair(pair, x)
        assert pair.vectorizes


def linear(guide: Any = "backward") -> tuple[LatentModel, LinearGaussianStateSpace]:
    """A deep Markov model whose gate is shut, of linear emissions, and the state space that it is."""
    options: dict[str, Any] = {"hidden": (), "likelihood": likelihoods.gaussian(scale="per-dimension"), "guide": guide}
    pair = small(**options)
    prior, emission = pair.prior_z, pair.likelihood_x.likelihood
    step, head = prior.transition, emission.head.layers[0]
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
        step.gate_layer.weight.zero_()
        step.gate_layer.bias.fill_(-1e3)
        step.scale_layer.weight.zero_()
    scale = torch.nn.functional.softplus(step.scale_layer.bias)
    twin = LinearGaussianStateSpace.from_parameters(
        initial_loc=step.linear(prior.start),
        initial_scale=scale,
        transition=step.linear.weight,
        transition_loc=step.linear.bias,
        transition_scale=scale,
        loading=head.weight,
        loc=head.bias,
        scale=emission.log_scale.exp(),
    )
    return pair, twin


@pytest.mark.parametrize("guide", ["backward", "both", "mean-field"])
def test_a_shut_gate_is_a_linear_gaussian_state_space(guide: str, float64: torch.dtype) -> None:
    pair, twin = linear(guide)
    x, z = {"x": torch.randn(6, T, D), "lengths": LENGTHS}, torch.randn(3, 6, T, Z)
    x["x"][1, 1:] = torch.nan  # padding
    torch.testing.assert_close(log_joint(pair, x, {"z": z}).local, log_joint(twin, x, {"z": z}).local)


def test_two_methods_agree() -> None:
    torch.manual_seed(0)
    pair, x = small(), padded()
    fit(pair, x, num_epochs=40, batch_size=6, learning_rate=2.5e-3, compile="eager", progress=False)
    one, two = (
        log_evidence(pair, x, method=method, compile="eager")
        for method in (evidence.ImportanceSampling(2000), evidence.AIS(num_temperatures=15, num_chains=64))
    )
    error = (one.log_evidence - two.log_evidence) / torch.hypot(one.standard_error, two.standard_error)
    assert bool((error.abs() < 4).all()), error


def test_data_that_are_no_sequences_are_refused() -> None:
    with pytest.raises(PpvaeError, match=r"expected sequences of T steps of D entries, found data of shape \(64,\)"):
        deep_markov_model((64,))
    with pytest.raises(PpvaeError, match="guide: unknown word 'forward'"):
        small(guide="forward")
