"""What a pair's programs read: every change is seen, a run of a program that changes nothing is none."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from core.pairs import GammaLatent, GlobalWeight, Hierarchy, Nested
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, check_pair, draw, log_joint, structure
from ppvae.core.compile import bind, state_of
from ppvae.core.conditioning import DerivedPair, prior_as_guide
from ppvae.core.fingerprint import differences, fingerprint
from ppvae.inference import log_evidence
from ppvae.inference.evidence import PriorSampling
from ppvae.models import bayesianise, bernoulli_vae

FACTOR = 1.0
CONFIG = types.SimpleNamespace(scale=1.0, more={"list": [1.0, 2.0]})


def factor() -> float:
    return FACTOR


class Plain(ModelGuidePair):
    width = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.beta, self.table, self.prior = 0.5, {"rates": [0.1, 0.2]}, dist.Normal(0.0, 1.0)
        self.constant = torch.tensor(1.0)
        self.loc = nn.Parameter(torch.zeros(()))
        self.net = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1))
        self.register_buffer("weight", torch.tensor(1.0))

    def scale(self) -> float:
        return factor() * CONFIG.scale

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z, self.scale()), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.loc + self.net(x[:, None])[:, 0], 1.0))


def set_global(name: str, value: Any) -> None:
    globals()[name] = value


@pytest.fixture(autouse=True)
def _put_back() -> Any:
    yield
    set_global("FACTOR", 1.0)
    CONFIG.scale, CONFIG.more["list"][0] = 1.0, 1.0
    Plain.width = 1.0


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an attribute": (lambda p: setattr(p, "beta", 0.25), "beta"),
    "in a container": (lambda p: p.table["rates"].__setitem__(1, 0.3), "table['rates'][1]"),
    "a new attribute": (lambda p: setattr(p, "gamma", None), "gamma"),
    "a distribution": (lambda p: setattr(p, "prior", dist.Normal(0.0, 1.0)), "prior"),
    "a tensor in place": (lambda p: p.constant.add_(1), "constant in place"),
    "a mode": (lambda p: p.net[1].eval(), "net.1.training"),
    "a rate": (lambda p: setattr(p.net[1], "p", 0.2), "net.1.p"),
    "a module": (lambda p: p.net.__setitem__(1, nn.Identity()), "net.1"),
    "a parameter": (lambda p: setattr(p, "loc", nn.Parameter(torch.ones(()))), "loc"),
    "freezing": (lambda p: p.loc.requires_grad_(False), "loc.requires_grad"),
    "a buffer": (lambda p: setattr(p, "weight", torch.tensor(1.0)), "weight"),
    "the class": (lambda p: setattr(Plain, "width", 2.0), "width"),
    "a global, through a function": (lambda p: set_global("FACTOR", 2.0), "FACTOR in factor"),
    "an object of the file": (lambda p: setattr(CONFIG, "scale", 2.0), "CONFIG in scale.scale"),
    "deep in it": (lambda p: CONFIG.more["list"].__setitem__(0, 9.0), "CONFIG in scale.more['list'][0]"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_every_change_is_seen_by_name(case: str) -> None:
    pair = Plain()
    change, name = CHANGES[case]
    before = fingerprint(pair)
    again = fingerprint(prior_as_guide(pair, torch.zeros(2)))
    assert differences(before, fingerprint(pair)) == []
    change(pair)
    assert name in differences(before, fingerprint(pair))
    assert differences(again, fingerprint(prior_as_guide(pair, torch.zeros(2))))


def test_closures_of_wrapped_programs() -> None:
    beta, offset, net = 1.0, torch.tensor(0.0), nn.Linear(1, 1)

    def inner() -> float:
        return beta

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, inner()))
            pyro.sample("x", dist.Normal(net(z[..., None])[..., 0] + offset, 1.0), obs=x)

    pair = ModelGuidePair.from_callables(model, AutoNormal(model))
    check_pair(pair, torch.randn(3))
    before = fingerprint(pair)
    beta = 0.5
    offset.fill_(2.0)
    assert differences(before, fingerprint(pair)) == ["beta in inner", "offset in model in place"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: (bernoulli_vae(6, latent_dim=2, hidden=(4,)), torch.bernoulli(torch.full((4, 6), 0.5))),
        lambda: (bayesianise(bernoulli_vae(6, latent_dim=2, hidden=(4,))), torch.ones(4, 6)),
        lambda: (bayesianise(bernoulli_vae(6, latent_dim=2, hidden=(4,)), posterior=AutoNormal), torch.ones(4, 6)),
        lambda: (Hierarchy(), torch.randn(4, 4)),
        lambda: (GammaLatent(), torch.ones(4, 3)),
        lambda: (GlobalWeight(), torch.randn(4, 3)),
        lambda: (Nested(), torch.randn(4, 3)),
    ],
)
def test_a_run_changes_nothing(make: Callable[[], tuple[ModelGuidePair, Tensor]]) -> None:
    pair, x = make()
    check_pair(pair, x)
    before = fingerprint(pair)
    latents = draw(pair, x, 3).latents
    log_joint(pair, x, latents)
    bind(pair, lambda pair: log_joint(pair, x, latents))(state_of(pair))
    optimizer = torch.optim.Adam(pair.parameters())
    log_joint(pair, x, latents).local.sum().backward()
    optimizer.step()
    assert differences(before, fingerprint(pair)) == []


def test_a_copy_remembers_nothing_of_the_programs() -> None:
    pair = Plain()
    structure(pair, torch.randn(3))
    assert pair._structures and not copy.deepcopy(pair)._structures


# --- the structure of a pair ---


class Positive(ModelGuidePair):
    """x observed in N(z, 1) under a prior that can be swapped."""

    def __init__(self) -> None:
        super().__init__()
        self.prior: Any = dist.Normal(0.0, 1.0)
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", self.prior)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", type(self.prior)(*(self.loc.exp(),) * len(self.prior.arg_constraints)))


def test_a_swapped_prior_is_not_seen_as_the_old_one() -> None:
    pair, x = Positive(), torch.tensor([[1.0], [2.0]])
    rewired = DerivedPair(pair, model=pair.model, guide=pair.guide)
    for seen in (pair, rewired):
        assert structure(seen, x).site("z").family_name == "Normal"
    pair.prior = dist.Exponential(1.0)
    for seen in (pair, rewired):
        assert structure(seen, x).site("z").family_name == "Exponential"
    # p(x) = exp(1/2 - x) Phi(x - 1), the exponential and the normal convolved
    exact = 0.5 - x[:, 0] + torch.distributions.Normal(0.0, 1.0).cdf(x[:, 0] - 1).log()
    found = log_evidence(pair, x, method=PriorSampling(20_000), progress=False)
    assert bool(((found.log_evidence - exact).abs() < 4 * found.standard_error).all())


def test_bound_tensors_are_no_change() -> None:
    """In eager mode every call holds other tensors: the programs must not be run anew for that."""
    pair, x = Positive(), torch.randn(3, 1)
    structure(pair, x)
    known = dict(pair._structures)
    latents = draw(pair, x, 2).latents
    bind(pair, lambda pair: log_joint(pair, x, latents))(state_of(pair))
    assert pair._structures == known
    assert all(pair._structures[key] is known[key] for key in known)


def test_what_a_bound_function_finds_is_kept_and_asks_for_no_second_audit() -> None:
    pair, x = Positive(), torch.randn(3, 1)
    pair.eval()
    check_pair(pair, x)
    audits = set(pair._audits)
    assert audits
    bind(pair, lambda pair: structure(pair, x[:2]))(state_of(pair))
    assert len(pair._structures) > 1
    structure(pair, x)
    assert pair._audits == audits and len(pair._structures) > 1
    pair.prior = dist.Exponential(1.0)
    bind(pair, lambda pair: structure(pair, x[:1]))(state_of(pair))  # reads the new prior: what is older is older still
    structure(pair, x)
    assert not pair._audits
