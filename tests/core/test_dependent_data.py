"""Data that depend on each other, under a guide with parameters for each: no datum can be run by itself to see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, check_pair


def random_walk(data: Tensor) -> None:
    """Its level is the sum of all drifts so far (pyro.ai/examples/forecasting_i)."""
    with pyro.plate("time", len(data)):
        drift = pyro.sample("drift", dist.Normal(0.0, 0.4))
        pyro.sample("residual", dist.Normal(drift.cumsum(-1), 0.5), obs=data)


def centred(data: Tensor) -> None:
    with pyro.plate("time", len(data)):
        drift = pyro.sample("drift", dist.Normal(0.0, 0.4))
        pyro.sample("residual", dist.Normal(drift, 0.5), obs=data - data.mean())


def walk_of_one(data: Tensor) -> None:
    """The last datum depends on the first alone."""
    with pyro.plate("time", len(data)):
        drift = pyro.sample("drift", dist.Normal(0.0, 0.4))
        loc = torch.cat([drift[..., :-1], drift[..., -1:] + drift[..., :1]], -1)
        pyro.sample("residual", dist.Normal(loc, 0.5), obs=data)


def independent(data: Tensor) -> None:
    with pyro.plate("time", len(data)):
        drift = pyro.sample("drift", dist.Normal(0.0, 0.4))
        pyro.sample("residual", dist.Normal(drift, 0.5), obs=data)


def pair_of(model: Callable[[Tensor], Any]) -> Any:
    return ModelGuidePair.from_callables(model, AutoNormal(model), unpack=True)


@pytest.mark.parametrize("model", [random_walk, centred, walk_of_one])
def test_refused_by_name(model: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    with pytest.raises(PairError, match=r"of datum \d and its latents|once datum \d(?s:.*)as_one_datum"):
        check_pair(pair_of(model), {"data": torch.randn(6)})


def test_independent_data_are_served() -> None:
    torch.manual_seed(0)
    check_pair(pair_of(independent), {"data": torch.randn(6)})
