"""A guide draws what its prior has: else log p(x, z) there is no density, and what is weighted by it is no evidence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import biject_to

from ppvae.core import ModelGuidePair, PairError, check_pair
from ppvae.inference import evidence, log_evidence

X = torch.tensor([-0.4, 0.3, 1.1])
Family = Callable[[], Any]


def model_of(prior: Family) -> Callable[[dict[str, Tensor]], None]:
    def model(batch: dict[str, Tensor]) -> None:
        x = batch["x"]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Normal(z if z.shape[-1:] == x.shape else z.sum(-1), 0.5), obs=x)

    return model


def pair_of(prior: Family, guide_family: Family) -> ModelGuidePair:
    def guide(batch: dict[str, Tensor]) -> None:
        with pyro.plate("data", len(batch["x"])):
            pyro.sample("z", guide_family())

    return ModelGuidePair.from_callables(model_of(prior), guide)


def exponential() -> Any:
    return dist.Exponential(torch.tensor(1.0))


def relaxed() -> Any:
    return dist.RelaxedBernoulli(torch.tensor(0.5), torch.tensor(0.3))


def rounded() -> Any:
    return dist.RelaxedBernoulliStraightThrough(torch.tensor(0.5), torch.tensor(0.3))


def between() -> Any:
    """In (0, 2), though its last transform says the reals."""
    return dist.TransformedDistribution(dist.Normal(0.0, 1.0), [biject_to(dist.constraints.interval(0.0, 2.0))])


@pytest.mark.parametrize(
    ("prior", "guide", "pattern"),
    [
        # log p of an exponential is finite below zero: importance sampling was one nat too high, and said OK.
        (exponential, lambda: dist.Normal(0.3, 0.5), "draws values outside the support of the prior"),
        (lambda: dist.Uniform(0.0, 1.0), lambda: dist.Normal(0.5, 0.5), "outside the support"),
        (lambda: dist.Beta(2.0, 2.0), lambda: dist.LogNormal(0.0, 1.0), "outside the support"),
        (lambda: dist.Uniform(0.0, 1.0), between, "outside the support"),
        (
            lambda: dist.Dirichlet(torch.ones(4)),
            lambda: dist.LogNormal(torch.zeros(4), 1.0).to_event(1),
            "outside the support",
        ),
        (lambda: dist.Binomial(1, torch.tensor(0.3)), lambda: dist.Poisson(1.0), "outside the support"),
        (lambda: dist.Bernoulli(0.3), relaxed, "discrete in the model .* continuous in the guide"),
        (lambda: dist.Poisson(1.0), lambda: dist.Normal(1.0, 1.0), "discrete in the model"),
        (rounded, rounded, "before it was rounded"),
    ],
)
def test_refused(prior: Family, guide: Family, pattern: str) -> None:
    with pytest.raises(PairError, match=pattern):
        check_pair(pair_of(prior, guide), {"x": X})


@pytest.mark.parametrize(
    ("prior", "guide"),
    [
        (exponential, lambda: dist.LogNormal(-0.5, 0.9)),
        (exponential, lambda: dist.TransformedDistribution(dist.Normal(0.0, 1.0), [biject_to(exponential().support)])),
        (lambda: dist.Uniform(0.0, 2.0), between),
        (lambda: dist.HalfNormal(1.0), lambda: dist.Gamma(1.0, 1.0)),
        (lambda: dist.Normal(0.0, 1.0), lambda: dist.LogNormal(0.0, 1.0)),
        (lambda: dist.Poisson(1.0), lambda: dist.Binomial(3, torch.tensor(0.3))),
        (relaxed, relaxed),
    ],
)
def test_served(prior: Family, guide: Family) -> None:
    check_pair(pair_of(prior, guide), {"x": X})


def test_an_automatic_guide_reaches_its_support() -> None:
    model = model_of(lambda: dist.Uniform(0.0, 1.0))
    check_pair(ModelGuidePair.from_callables(model, AutoNormal(model)), {"x": X})


def test_within_the_support_the_evidence_is_that_of_quadrature() -> None:
    z = (torch.arange(40000, dtype=torch.float64) + 0.5) / 2000
    terms = -z + dist.Normal(z, torch.tensor(0.5, dtype=torch.float64)).log_prob(X[:, None].double())
    exact = terms.logsumexp(-1) - math.log(2000)
    found = log_evidence(
        pair_of(exponential, lambda: dist.LogNormal(-0.5, 0.9)),
        {"x": X},
        method=evidence.ImportanceSampling(4000),
        progress=False,
        compile="eager",
    )
    assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error).all())


def test_a_latent_on_a_circle_is_refused() -> None:
    """PyTorch says that it lies on the line, where its density repeats: the integral would be infinite."""
    zero = torch.zeros(())
    pair = pair_of(lambda: dist.VonMises(zero, zero + 1), lambda: dist.Normal(zero, zero + 1))
    with pytest.raises(PairError, match=r"'z' lies on a circle \(VonMises\)"):
        check_pair(pair, {"x": X})
