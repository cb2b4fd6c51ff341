"""Mixtures of normals: density, accuracy, draws, and what is refused."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from contracts.conditional import ConditionalContract
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.distributions import ConditionalDistribution, DiagonalNormalMixture, MixtureOfNormals


class TestMixtureOfNormals(ConditionalContract):
    event_shapes = ((4,), (1,))
    conditional = False
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return MixtureOfNormals(3, event_shape)


def naive(mixture: DiagonalNormalMixture, value: Tensor) -> Tensor:
    components = dist.Normal(mixture.loc.double(), mixture.scale.double()).to_event(1)
    family = dist.MixtureSameFamily(dist.Categorical(logits=mixture.logits.double()), components)
    log_prob: Tensor = family.log_prob(value.double())
    return log_prob


def some_mixture(num_components: int, dim: int, *, at: float = 0.0, scale: float = 0.5) -> DiagonalNormalMixture:
    generator = torch.Generator().manual_seed(1)
    loc = at + 2 * torch.randn(num_components, dim, generator=generator, dtype=torch.float64)
    scales = scale * torch.rand(num_components, dim, generator=generator, dtype=torch.float64).add(0.5)
    return DiagonalNormalMixture(torch.randn(num_components, generator=generator, dtype=torch.float64), loc, scales)


def test_density_is_that_of_the_library() -> None:
    mixture = some_mixture(5, 3)
    value = 3 * torch.randn(7, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(mixture.log_prob(value), naive(mixture, value))
    assert mixture.expand((2,)).log_prob(value[:, :1]).shape == (7, 2)


def test_density_integrates_to_one() -> None:
    mixture, axis = some_mixture(4, 2), torch.linspace(-12, 12, 801, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    assert float(mixture.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("at", [0.0, 1000.0])
def test_error_in_single_precision_is_what_the_docstring_says(at: float) -> None:
    """Far from zero too: uncentred, the error at 1000 is thousands of nats."""
    exact = some_mixture(50, 40, at=at, scale=0.1)
    rounded = DiagonalNormalMixture(exact.logits.float(), exact.loc.float(), exact.scale.float())
    value = rounded.expand((1000,)).sample()
    terms = ((value - rounded.loc.mean(0)).double() / rounded.scale.double().min(0).values).square().sum(-1)
    error = (rounded.log_prob(value).double() - naive(rounded, value)).abs()
    print(f"error at {at}: mean {error.mean():.2g}, largest {error.max():.2g} nats; terms {terms.mean():.3g}")
    assert bool((error < 2 * torch.finfo(torch.float32).eps * terms).all())
    assert float(error.max()) < 0.05


def test_no_tensor_holds_draws_components_and_dimensions() -> None:
    mixture, value = some_mixture(11, 7), torch.randn(13, 7, dtype=torch.float64, requires_grad=True)
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mixture.log_prob(value).sum().backward()
    assert 0 < max(sizes) <= max(13 * 2 * 7, 13 * 11, 11 * 2 * 7)


def test_draws_have_the_moments() -> None:
    mixture = some_mixture(4, 3)
    draws = mixture.sample((40_000,))
    error = (mixture.variance / 40_000).sqrt()
    assert bool(((draws.mean(0) - mixture.mean).abs() < 5 * error).all())
    torch.testing.assert_close(draws.var(0), mixture.variance, rtol=0.05, atol=0)


def test_a_new_mixture_is_as_wide_as_a_standard_normal() -> None:
    torch.manual_seed(0)
    mixture = MixtureOfNormals(4000, 2)()
    torch.testing.assert_close(mixture.mean, torch.zeros(2), rtol=0, atol=0.05)
    torch.testing.assert_close(mixture.variance, torch.ones(2), rtol=0.05, atol=0)


def test_from_parameters() -> None:
    loc, scale = torch.tensor([[0.0, 3.0], [1.0, -2.0]]), torch.tensor([[1.0, 0.5], [2.0, 0.1]])
    prior = MixtureOfNormals.from_parameters(torch.tensor([3.0, 1.0]), loc, scale)
    torch.testing.assert_close(prior().mean, torch.tensor([0.25, 1.75]))
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    trainable = MixtureOfNormals.from_parameters(torch.ones(2), loc, scale, trainable=True)
    assert all(parameter.requires_grad for parameter in trainable.parameters())
    with pytest.raises(PpvaeError, match="expected positive weights, found a minimum of 0"):
        MixtureOfNormals.from_parameters(torch.tensor([0.0, 1.0]), loc, scale)
    with pytest.raises(PpvaeError, match="expected positive scale, found a minimum of -1"):
        MixtureOfNormals.from_parameters(torch.ones(2), loc, -torch.ones(2, 2))
    with pytest.raises(
        PpvaeError, match=r"expected logits \[\*batch, K\], loc \[K, Z\] and scale \[K, Z\], found \[3\]"
    ):
        MixtureOfNormals.from_parameters(torch.ones(3), loc, scale)


def test_a_mixture_that_cannot_be_is_refused() -> None:
    with pytest.raises(PpvaeError, match="expected at least one component, found 0"):
        MixtureOfNormals(0, 2)
    with pytest.raises(PpvaeError, match=r"expected a vector, an event_shape of one number, found \(2, 3\)"):
        MixtureOfNormals(2, (2, 3))
