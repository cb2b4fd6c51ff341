"""What is wrapped around a distribution: the innermost one is changed, and the rest stays."""

from __future__ import annotations

import pyro.distributions as dist
import torch

from ppvae.core.wrappers import unwrap, within


def test_the_innermost_distribution_is_changed_under_its_wrappers() -> None:
    mask, value = torch.tensor([True, False]), torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, 0.2]])
    fn = dist.ExpandedDistribution(dist.Normal(torch.zeros(3), 1.0), torch.Size([2, 3])).to_event(1).mask(mask)
    changed = within(fn, lambda base: dist.Laplace(base.loc + 1, base.scale))
    assert isinstance(unwrap(changed), dist.Laplace)
    assert changed.batch_shape == fn.batch_shape and changed.event_shape == fn.event_shape
    expected = dist.Laplace(1.0, 1.0).log_prob(value).sum(-1) * mask
    torch.testing.assert_close(changed.log_prob(value), expected)
