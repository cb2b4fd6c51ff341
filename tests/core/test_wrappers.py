"""What is wrapped around a distribution: the innermost one is changed, and the rest stays."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import AffineTransform
from pyro.infer.reparam import LocScaleReparam, TransformReparam
from torch import Tensor

from ppvae.core import ModelGuidePair, structure
from ppvae.core.wrappers import unwrap, within
from ppvae.inference import log_evidence
from ppvae.inference.evidence import ImportanceSampling


def test_the_innermost_distribution_is_changed_under_its_wrappers() -> None:
    mask, value = torch.tensor([True, False]), torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, 0.2]])
    fn = dist.ExpandedDistribution(dist.Normal(torch.zeros(3), 1.0), torch.Size([2, 3])).to_event(1).mask(mask)
    changed = within(fn, lambda base: dist.Laplace(base.loc + 1, base.scale))
    assert isinstance(unwrap(changed), dist.Laplace)
    assert changed.batch_shape == fn.batch_shape and changed.event_shape == fn.event_shape
    expected = dist.Laplace(1.0, 1.0).log_prob(value).sum(-1) * mask
    torch.testing.assert_close(changed.log_prob(value), expected)


@pytest.mark.parametrize(
    ("prior", "reparam", "name"),
    [
        (lambda: dist.Normal(torch.tensor(0.5), 2.0), LocScaleReparam(0.0), "z_decentered"),
        (
            lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), AffineTransform(0.5, 2.0)),
            TransformReparam(),
            "z_base",
        ),
    ],
)
def test_what_a_reparameterisation_leaves_is_no_site(prior: Any, reparam: Any, name: str) -> None:
    """A Delta at a value that the program computed; with as many entries as the data it passed for a part of them."""
    x = torch.tensor([-1.0, 0.3, 2.0, 4.0])
    share = 4 / (4 + 0.49)  # of the variance of x that is z's

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", prior()), 0.7), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal((x - 0.5) * share / 2, torch.tensor(1 - share).sqrt()))

    pair = ModelGuidePair.from_callables(poutine.reparam(model, {"z": reparam}), guide, unpack=True)
    assert [info.name for info in structure(pair, {"x": x}).model] == [name, "x"]
    found = log_evidence(pair, {"x": x}, method=ImportanceSampling(5), progress=False, compile="eager")
    exact = dist.Normal(0.5, math.sqrt(4 + 0.49)).log_prob(x)
    torch.testing.assert_close(found.log_evidence, exact, rtol=0, atol=1e-5)
