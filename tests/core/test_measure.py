"""Of how many values of a datum p(x) is a probability, and of how many a density."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair
from ppvae.core.measure import measure_of

ROWS = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))


def pixels(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Bernoulli(logits=z + torch.zeros(6)).to_event(1), obs=x.round())


def plated(x: Tensor, z: Tensor) -> None:
    with pyro.plate("columns", 6, dim=-2):
        pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=x.mT)


def mixed(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Normal(z + torch.zeros(5), 1.0).to_event(1), obs=x[:, :5])
    pyro.sample("y", dist.Poisson(z.squeeze(-1).exp()), obs=x[:, 5].round())


def one_class(x: Tensor, z: Tensor) -> None:
    label = torch.nn.functional.one_hot(x.argmax(-1), 6).float()
    pyro.sample("y", dist.OneHotCategorical(logits=z + torch.zeros(6)), obs=label)
    pyro.factor("nothing", 0.0 * z.squeeze(-1))


def counted(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Multinomial(9, logits=z + torch.zeros(6), validate_args=False), obs=(9 * x).round())


def one_of_two_rates(x: Tensor, z: Tensor) -> None:
    rates = dist.Poisson(z.exp().unsqueeze(-1) * torch.tensor([1.0, 3.0]) + torch.zeros(6, 1))
    weights = dist.Categorical(torch.ones(len(x), 6, 2))
    pyro.sample("x", dist.MixtureSameFamily(weights, rates).to_event(1), obs=(9 * x).round())


def measure_by(observe: Callable[[Tensor, Tensor], None]) -> Any:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            observe(x, pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1)))

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    return measure_of(ModelGuidePair.from_callables(model, guide), ROWS)


@pytest.mark.parametrize(
    ("observe", "expected", "words"),
    [
        (pixels, (6, 0), "probabilities of 6 values"),
        (plated, (0, 6), "densities of 6 values"),
        (mixed, (1, 5), "probabilities of 1 value and densities of 5 values"),
        (one_class, (1, 0), "probabilities of 1 value"),
        (counted, (6, 0), "probabilities of 6 values"),
        (one_of_two_rates, (6, 0), "probabilities of 6 values"),
    ],
)
def test_values_are_counted(observe: Callable[[Tensor, Tensor], None], expected: Any, words: str) -> None:
    found = measure_by(observe)
    assert found[:2] == expected and str(found) == words


def whole(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Normal(z + torch.zeros(6), 1.0).to_event(1), obs=x)


def columns(x: Tensor, z: Tensor) -> None:
    """Site by site, from the last to the first."""
    for i in reversed(range(6)):
        pyro.sample(f"x{i}", dist.Normal(z.squeeze(-1), 1.0), obs=x[:, i])


def scaled(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Normal(z + torch.zeros(6), 1.0).to_event(1), obs=(x - 0.5) / 0.3)


def transformed(x: Tensor, z: Tensor) -> None:
    base = dist.Normal(z + torch.zeros(6), 1.0)
    scale = dist.transforms.AffineTransform(0.5, 0.3)
    pyro.sample("x", dist.TransformedDistribution(base, [scale]).to_event(1), obs=x)


def gaps(x: Tensor, z: Tensor) -> None:
    seen = x > x.mean()
    pyro.sample("x", dist.Normal(z + torch.zeros(6), 1.0).mask(seen).to_event(1), obs=torch.where(seen, x, 0.0))


def other_threshold(x: Tensor, z: Tensor) -> None:
    pyro.sample("x", dist.Bernoulli(logits=z + torch.zeros(6)).to_event(1), obs=(x > 0.3).float())


def other_names(x: Tensor, z: Tensor) -> None:
    """Pixels of 1 and 2 for 0 and 1."""
    pyro.sample("x", dist.Categorical(logits=torch.zeros(6, 3) + z.unsqueeze(-1)).to_event(1), obs=1 + x.round())


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (whole, columns, True),
        (whole, transformed, True),
        (whole, scaled, False),
        (whole, gaps, False),
        (pixels, other_names, True),
        (pixels, other_threshold, False),
    ],
)
def test_models_that_observe_other_values_are_told_apart(one: Any, other: Any, same: bool) -> None:
    first, second = measure_by(one), measure_by(other)
    assert str(first) == str(second) and (first == second) == same
