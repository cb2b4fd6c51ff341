"""Global sites held at values, under automatic guides: what they are computed from is held with them."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import ModelGuidePair, check_pair, structure
from ppvae.core.conditioning import hold_sites
from ppvae.inference import evidence, log_evidence

X = torch.tensor([-1.0, 0.2, 0.9, 2.0])
HELD = {"mu": torch.tensor(0.3), "tau": torch.tensor(1.7), "rate": torch.tensor([0.4, 0.6])}


def model(x: Tensor) -> None:
    """A mean of each datum under a common mean and scale; two rates that a plate holds."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(1.0)))
    with pyro.plate("rates", 2):
        rate = pyro.sample("rate", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(mu, tau))
        pyro.sample("x", dist.Normal(z, rate.sum(-1, keepdim=True)), obs=x)


EXACT = dist.Normal(HELD["mu"], (HELD["tau"] ** 2 + 1) ** 0.5).log_prob(X)


def pair_of(guide: Any) -> ModelGuidePair:
    """The pair, checked."""
    pair = ModelGuidePair.from_callables(model, guide, unpack=True)
    check_pair(pair, {"x": X})
    return pair


def test_importance_sampling_by_an_automatic_guide() -> None:
    pair = pair_of(AutoNormal(model, init_scale=0.8))
    method = evidence.ImportanceSampling(4000)
    found = log_evidence(pair, {"x": X}, method=method, global_sites=HELD, progress=False, compile="eager")
    assert bool(((found.log_evidence - EXACT).abs() <= 4 * found.standard_error + 1e-4).all()), (found, EXACT)
    mean = log_evidence(pair, {"x": X}, method=method, global_sites="mean", progress=False, compile="eager")
    assert bool(torch.isfinite(mean.log_evidence).all())


def test_nothing_global_is_left_in_the_guide() -> None:
    held = hold_sites(pair_of(AutoNormal(model)), {"x": X}, HELD)
    names = {info.name for info in structure(held, {"x": X}).guide}
    assert {"z", "z_unconstrained"} <= names and not names & {f"{name}_unconstrained" for name in HELD}


def test_what_follows_an_auxiliary_site_follows_its_held_value() -> None:
    """The guide of z reads the logarithm of tau: held at tau, it has to be log tau and no draw."""
    seen = []

    def guide(x: Tensor) -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        log_tau = pyro.sample("tau_unconstrained", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("tau", dist.Delta(log_tau.exp(), log_density=-log_tau))
        with pyro.plate("rates", 2):
            pyro.sample("rate", dist.Beta(2.0, 2.0))
        seen.append(log_tau)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, log_tau.exp()))

    held = hold_sites(pair_of(guide), {"x": X}, HELD)
    seen.clear()
    held.guide({"x": X})
    torch.testing.assert_close(seen, [HELD["tau"].log()])


@pytest.mark.parametrize("method", [evidence.PriorSampling(5000), evidence.ImportanceSampling(5000)])
def test_one_draw_where_nothing_is_drawn(method: evidence.EvidenceMethod) -> None:
    """All draws are equal: the programs run for one of them, also where they run particle by particle."""
    runs = []

    def flat(x: Tensor) -> None:
        runs.append(len(x))
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        assert mu.dim() < 2  # does not broadcast
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    pair = ModelGuidePair.from_callables(flat, AutoNormal(flat), unpack=True)
    held: Any = {"mu": torch.tensor(0.3)}
    found = log_evidence(pair, {"x": X}, method=method, global_sites=held, progress=False, compile="eager")
    torch.testing.assert_close(found.log_evidence.float(), dist.Normal(0.3, 1.0).log_prob(X))
    assert bool((found.standard_error < 1e-6).all()) and len(runs) < 500


def test_programs_that_broadcast_once_their_global_sites_are_held() -> None:
    """A table that is drawn and looked up by a latent: with particles on the left of both it is another look-up."""

    def table(x: Tensor) -> None:
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 2.0]), 0.5))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(locs[y], 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("components", 2):
            pyro.sample("locs", dist.Normal(torch.tensor([-1.0, 2.0]), 0.4))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5])))

    pair, data = ModelGuidePair.from_callables(table, guide, unpack=True), {"x": X}
    check_pair(pair, data)
    values = {"locs": torch.tensor([-1.0, 2.0])}
    assert not pair.vectorizes and hold_sites(pair, data, values).vectorizes
    method = evidence.ImportanceSampling(4000)
    found = log_evidence(pair, data, method=method, global_sites=values, progress=False, compile="eager")
    exact = dist.Normal(torch.tensor([-1.0, 2.0]), 1.0).log_prob(X[:, None]) + torch.tensor([0.3, 0.7]).log()
    assert bool(((found.log_evidence - exact.logsumexp(-1)).abs() <= 4 * found.standard_error + 1e-5).all())
