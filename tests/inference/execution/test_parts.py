"""Parameters for every datum: trained on all data together, refused on minibatches."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from core.pairs import Discrete, GlobalWeight, Hierarchy, Regression
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import constraints

from ppvae.core import ModelGuidePair, PairError, structure
from ppvae.core.parts import size_conflict
from ppvae.data import Dataset
from ppvae.inference import elbo, fit
from ppvae.models import bernoulli_vae

N = 400


def model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])


def bare(x: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(len(x)))
    scale = pyro.param("scale", torch.ones(len(x)), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


GUIDES: dict[str, tuple[Callable[[], Any], str]] = {
    "automatic": (lambda: AutoNormal(model), "program_0.locs.z_unconstrained"),
    "bare": (lambda: bare, "adopted.loc"),
}


@pytest.mark.parametrize("case", GUIDES)
def test_minibatches_are_refused_and_all_data_reach_the_posterior(case: str) -> None:
    """E log p(x) = log N(x; 0, 2), reached where every datum has its own posterior N(x / 2, 1 / 2)."""
    make, name = GUIDES[case]
    x = 2 * torch.randn(N, 1, generator=torch.Generator().manual_seed(0))
    pair = ModelGuidePair.from_callables(model, make())
    state = torch.get_rng_state()
    with pytest.raises(PairError, match="parameters for every datum") as error:
        fit(pair, x, progress=False)
    assert name in str(error.value) and "batch_size=None" in str(error.value) and "encoder" in str(error.value)
    assert torch.equal(torch.get_rng_state(), state)
    # and the same pair, as the message says
    options: dict[str, Any] = {"batch_size": None, "num_epochs": 300, "learning_rate": 0.05, "compile": "graph"}
    row = fit(pair, x, elbo=elbo.TraceELBO(num_particles=8), progress=False, **options).history[-1]
    assert {tuple(p.shape) for p in pair.parameters()} == {(N,)}
    exact = float(torch.distributions.Normal(0.0, 2**0.5).log_prob(x).mean())
    assert row["elbo_train"] == pytest.approx(exact, abs=0.02)
    for size in (1, 200):
        for again in (pair, ModelGuidePair.from_callables(model, make())):
            with pytest.raises(PairError, match="parameters for every datum"):
                fit(again, x, batch_size=size, progress=False)


def test_validation_data_have_no_parameters(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(50, 1)
    options: dict[str, Any] = {"batch_size": None, "num_epochs": 1, "progress": False}
    with pytest.raises(PairError, match="none for those of the validation data"):
        fit(ModelGuidePair.from_callables(model, AutoNormal(model)), x, validation=x[:20], **options)
    data = Dataset(x, validation=Dataset(x[:20], name="held-out rows"))
    with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
        found = fit(ModelGuidePair.from_callables(model, AutoNormal(model)), data, **options)
    assert "elbo_validation" not in found.history[-1]
    assert "held-out rows: not validated on" in caplog.text


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_pairs_that_serve_any_part(size: int) -> None:
    mapping = {"y": torch.randn(size), "covariates": torch.randn(size, 2), "seen": torch.rand(size) < 0.7}
    for pair, x in (
        (bernoulli_vae(4, latent_dim=2, hidden=(size,)), torch.ones(size, 4)),
        (Hierarchy(), torch.randn(size, 4)),
        (GlobalWeight(), torch.randn(size, 3)),
        (Discrete(), torch.randn(size, 2)),
        (Regression(), mapping),
    ):
        structure(pair, x)
        state = torch.get_rng_state()
        assert size_conflict(pair, x) == ""
        assert torch.equal(torch.get_rng_state(), state)
        assert pair.training


@pytest.mark.parametrize("size", [2, 3, 9])
@pytest.mark.parametrize("case", GUIDES)
def test_pairs_that_do_not(case: str, size: int) -> None:
    pair, x = ModelGuidePair.from_callables(model, GUIDES[case][0]()), torch.randn(size, 1)
    structure(pair, x)
    names = [name for name, _ in pair.named_parameters()]
    assert size_conflict(pair, x) != ""
    assert [name for name, _ in pair.named_parameters()] == names


def test_a_guide_of_global_sites_alone_is_trained_on_minibatches() -> None:
    def model(x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with ModelGuidePair.data_plate(x, num_data):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x[:, 0])

    guide = AutoNormal(model)
    pair = ModelGuidePair.from_callables(model, lambda x, num_data=None: guide(x, num_data), modules=[guide])
    row = fit(pair, torch.randn(N, 1) + 2, num_epochs=40, learning_rate=0.05, progress=False).history[-1]
    assert float(guide.median()["w"]) == pytest.approx(2.0, abs=0.2)
    assert row["step"] == 160
