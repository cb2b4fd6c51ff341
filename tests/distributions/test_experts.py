"""The product of experts: its closed form, missing modalities, and what is refused."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from contracts.conditional import CONTEXT, ConditionalContract, trunk
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.distributions import ConditionalDistribution, DiagonalNormal, LowRankNormal, ProductOfExperts
from ppvae.networks import MLP


class TestProductOfExperts(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return ProductOfExperts([DiagonalNormal(trunk(), event_shape)])


def two() -> tuple[ProductOfExperts, Tensor, Tensor]:
    torch.manual_seed(0)
    experts = [DiagonalNormal(MLP(3, [6]), 2), DiagonalNormal(MLP(4, [6]), 2)]
    return ProductOfExperts(experts).double(), torch.randn(5, 3).double(), torch.randn(5, 4).double()


def test_it_is_the_normalised_product_of_the_densities() -> None:
    """log q - sum of the experts' and the prior's log densities is the same at every z."""
    made, x1, x2 = two()
    z = torch.randn(50, 5, 2, dtype=torch.float64)
    factors = [made.experts[0](x1), made.experts[1](x2), dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)]
    gap = made(x1, x2).log_prob(z) - sum(factor.log_prob(z) for factor in factors)
    torch.testing.assert_close(gap, gap[:1].expand_as(gap))


def test_what_is_missing_is_left_out_and_not_read() -> None:
    made, x1, x2 = two()
    has1, has2 = torch.tensor([1, 1, 0, 0, 1]).bool(), torch.tensor([1, 0, 1, 0, 1]).bool()
    z = torch.randn(5, 2, dtype=torch.float64)
    full = made(x1, x2).log_prob(z)
    for hole in (x1.masked_fill(~has1[:, None], torch.nan), x1.masked_fill(~has1[:, None], 1e30)):
        found = made(hole, x2, has1, has2).log_prob(z)
        torch.testing.assert_close(found[[0, 4]], full[[0, 4]])
        torch.testing.assert_close(found[1], ProductOfExperts([made.experts[0]]).double()(x1).log_prob(z)[1])  # type: ignore[list-item]
        torch.testing.assert_close(found[2], ProductOfExperts([made.experts[1]]).double()(x2).log_prob(z)[2])  # type: ignore[list-item]
        torch.testing.assert_close(found[3], dist.Normal(0.0, 1.0).log_prob(z[3]).sum())
        made.zero_grad()
        found.sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
    made.zero_grad()
    made(x1, x2, torch.zeros(5), torch.ones(5)).log_prob(z).sum().backward()
    assert all(p.grad is None or not bool(p.grad.any()) for p in made.experts[0].parameters())


def test_names_of_its_contexts() -> None:
    given = two()[0].given("image", "label", "has_image", "has_label")
    assert given.parents == ("image", "label", "has_image", "has_label")


def test_what_cannot_be_is_refused() -> None:
    made, x1, x2 = two()
    with pytest.raises(PpvaeError, match="expected 2 contexts, or 2 and as many masks, found 3"):
        made(x1, x2, torch.ones(5))
    with pytest.raises(PpvaeError, match="expected at least one expert, found none"):
        ProductOfExperts([])
    with pytest.raises(PpvaeError, match=r"expected experts of one event shape, found \[\(2,\), \(3,\)\]"):
        ProductOfExperts([DiagonalNormal(trunk(), 2), DiagonalNormal(trunk(), 3)])
    with pytest.raises(PpvaeError, match="expected a diagonal normal, found LowRankNormal, whose"):
        ProductOfExperts([LowRankNormal(trunk(), 2)])(torch.randn(5, CONTEXT))
