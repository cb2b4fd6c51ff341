"""The gamma distribution of a given mean."""

from __future__ import annotations

import pytest
import torch
from contracts.conditional import ConditionalContract, trunk

from ppvae.core import PpvaeError
from ppvae.distributions import ConditionalDistribution, Gamma
from ppvae.networks import LogPositiveLinear


class TestGamma(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Gamma(trunk(), event_shape, concentration="per-dimension")


class TestConditionalGamma(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Gamma(trunk(), event_shape, concentration="conditional")


class TestGammaPrior(ConditionalContract):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Gamma(None, event_shape, concentration=0.7)


def test_the_mean_is_the_sum_of_positive_parts(float64: torch.dtype) -> None:
    parts = LogPositiveLinear(3, 2)
    z = torch.tensor([[1e-300, 2.0, 0.5]])
    found = Gamma(parts, 2, concentration=0.1).double()(z)
    torch.testing.assert_close(found.mean, z @ parts.weight.T)
    torch.testing.assert_close(found.variance, found.mean.square() / 0.1)
    assert bool((parts.weight > 0).all())
    assert bool(parts(torch.zeros(1, 3)).isfinite().all())


def test_what_is_refused() -> None:
    with pytest.raises(PpvaeError, match="expected a positive concentration, found 0"):
        Gamma(trunk(), 2, concentration=0.0)
    with pytest.raises(PpvaeError, match="event_shape: expected at least one unit"):
        LogPositiveLinear(3, 0)
