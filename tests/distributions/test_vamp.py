"""The VampPrior: what it is, that the posterior is counted once and read everywhere, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from contracts.conditional import CONTEXT, ConditionalContract, trunk
from torch import Tensor

from ppvae.core import PairError, PpvaeError, check_pair, parameter_roles
from ppvae.core.compile import bind, capture, state_of
from ppvae.distributions import Bernoulli, ConditionalDistribution, DiagonalNormal, FullCovarianceNormal, VampPrior
from ppvae.inference import fit
from ppvae.models import VAE
from ppvae.networks import MLP
from ppvae.runs.storage import checkpoint


class TestVampPrior(ConditionalContract):
    event_shapes = ((4,), (1,))
    conditional = False
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        posterior = DiagonalNormal(trunk(), event_shape)
        made = VampPrior(posterior, 3, CONTEXT)
        made.of_the_pair = posterior  # what a pair does, so that it follows in dtype, device and state
        return made


def vamp_vae(**options: Any) -> tuple[VAE, VampPrior]:
    posterior = DiagonalNormal(MLP(6, [8]), 2)
    prior = VampPrior(posterior, **(options or {"num_components": 4, "input_shape": 6}))
    return VAE(prior, Bernoulli(MLP(2, [8]), 6), posterior), prior


def binary_data(count: int = 64) -> Tensor:
    return torch.rand(count, 6, generator=torch.Generator().manual_seed(2)).round()


def test_it_is_the_mixture_of_the_posteriors() -> None:
    pair, prior = vamp_vae()
    z = torch.randn(5, 2)
    each = [pair.posterior(row).log_prob(z) for row in prior.pseudo_inputs]
    torch.testing.assert_close(pair.prior().log_prob(z), torch.stack(each).logsumexp(0) - torch.tensor(4.0).log())


def test_encodings_are_computed_once_a_call() -> None:
    pair, prior = vamp_vae()
    rows: list[int] = []
    pair.posterior.register_forward_hook(lambda module, given, result: rows.append(given[0].shape[0]))
    prior().expand((5,)).log_prob(torch.randn(100, 5, 2))
    assert rows == [4]


def test_parameters_are_counted_once() -> None:
    pair, _ = vamp_vae()
    names = [name for name, _ in pair.named_parameters(remove_duplicate=False)]
    assert names == [name for name, _ in pair.named_parameters()] == list(pair.state_dict())
    assert [name for name in names if name.startswith("prior")] == ["prior.free"]
    roles = parameter_roles(pair, binary_data(5))
    assert roles["prior.free"] == {"model"}
    assert all(roles[name] == {"model", "guide"} for name in names if name.startswith("posterior"))


def test_a_copy_reads_its_own_posterior() -> None:
    pair, prior = vamp_vae()
    twin = copy.deepcopy(pair)
    assert isinstance(twin.prior, VampPrior) and twin.prior.posterior is twin.posterior
    assert twin.posterior is not pair.posterior and prior.posterior is pair.posterior
    before = prior().loc
    with torch.no_grad():
        for parameter in twin.posterior.parameters():
            parameter.add_(1.0)
    assert torch.equal(prior().loc, before) and not torch.equal(twin.prior().loc, before)
    assert twin.to(torch.float64).prior().log_prob(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_state_on_disk_holds_the_posterior_once(tmp_path: Path) -> None:
    (pair, prior), (other, read) = vamp_vae(), vamp_vae()
    checkpoint.save(tmp_path, "last", 1, pair.state_dict(), {})
    state, _ = checkpoint.load(tmp_path)
    other.load_state_dict(state)
    z = torch.randn(5, 2)
    assert torch.equal(read().log_prob(z), prior().log_prob(z))
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in pair.parameters())


def test_a_captured_step_sees_the_posterior_of_its_state() -> None:
    pair, prior = vamp_vae()
    z = torch.randn(5, 2)
    run = capture(bind(pair, lambda module, value: module.prior().log_prob(value)), mode="graph")
    state = state_of(pair)
    with pyro.validation_enabled(False):  # as the waist runs it
        first = run(state, z)
    changed = {n: v + 0.5 if n.startswith("posterior") else v for n, v in state.items()}
    with pyro.validation_enabled(False):
        second = run(changed, z)
    assert run.fallback == "" and run.graphs == 1
    torch.testing.assert_close(first, prior().log_prob(z))
    pair.load_state_dict(changed)
    torch.testing.assert_close(second, prior().log_prob(z))
    assert not torch.equal(first, second)


def test_pseudo_inputs_from_data_stay_inside_the_bounds_and_can_leave_their_edge() -> None:
    """Binary pixels stand on the bounds, where a Hardtanh has no gradient."""
    data = binary_data()
    pair, prior = vamp_vae(pseudo_inputs=data[:10])
    assert torch.equal(prior.pseudo_inputs, data[:10])
    prior.pseudo_inputs.sum().backward()
    assert prior.free.grad is not None and bool((prior.free.grad.abs() == 1).all())
    fit(pair, data, num_epochs=3, batch_size=16, learning_rate=0.05, compile="graph", progress=False)
    moved = prior.pseudo_inputs
    assert bool(((moved >= 0) & (moved <= 1)).all())
    assert bool((moved != data[:10]).all())


def test_pseudo_inputs_without_bounds() -> None:
    start = 10 * torch.randn(4, 6)
    assert torch.equal(vamp_vae(pseudo_inputs=start, bounds=None)[1].pseudo_inputs, start)
    _, prior = vamp_vae(num_components=500, input_shape=6, bounds=None)
    assert bool((prior.pseudo_inputs < 0).any())
    _, prior = vamp_vae(num_components=500, input_shape=6, bounds=(-1.0, math.inf))
    assert bool((prior.free < -1).any()) and bool((prior.pseudo_inputs >= -1).all())
    torch.testing.assert_close(prior.pseudo_inputs[prior.free > -1], prior.free[prior.free > -1])


def test_a_posterior_that_the_pair_does_not_hold_is_refused() -> None:
    """Nothing would train it or save it."""
    pair, _ = vamp_vae()
    pair.posterior = DiagonalNormal(MLP(6, [8]), 2)
    with pytest.raises(PairError, match="prior reads a DiagonalNormal that is no module of the pair"):
        check_pair(pair, binary_data(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected num_components of at least 1 and input_shape, found None and None"),
        ({"num_components": 0, "input_shape": 6}, "expected num_components of at least 1"),
        ({"num_components": 3, "pseudo_inputs": torch.zeros(4, 6)}, r"expected pseudo_inputs \[3, \*input_shape\]"),
        ({"input_shape": 5, "pseudo_inputs": torch.zeros(4, 6)}, r"expected pseudo_inputs \[K, 5\], found \[4, 6\]"),
        ({"pseudo_inputs": 255 * torch.ones(4, 6)}, r"within \(0.0, 1.0\), found values from 255 to 255"),
        ({"num_components": 3, "input_shape": 5}, r"the posterior fails on pseudo-inputs of shape \[3, 5\]"),
        ({"num_components": 3, "input_shape": 6, "bounds": (1.0, 0.0)}, r"low < high, found \(1.0, 0.0\)"),
    ],
)
def test_a_vamp_prior_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        VampPrior(DiagonalNormal(MLP(6, [8]), 2), **options)


def test_a_posterior_that_is_no_diagonal_normal_is_refused() -> None:
    with pytest.raises(
        PpvaeError,
        match="expected a diagonal normal, found FullCovarianceNormal, whose",
    ):
        VampPrior(FullCovarianceNormal(MLP(6, [8]), 2), 3, 6)
