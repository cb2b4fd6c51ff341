"""Pairs side by side, wrapped programs, adopted parameters."""

from __future__ import annotations

import copy
import functools

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from core.pairs import GammaLatent, Nested, PyroExampleVAE
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.core import ModelGuidePair, PairError, check_pair, draw, log_joint
from ppvae.inference import elbo, fit
from ppvae.models import VAE, FactorAnalysis, bernoulli_vae


def _binary(n: int = 20, d: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((n, d), 0.3))


@pytest.mark.parametrize("loss", [Trace_ELBO, elbo.TraceELBO, elbo.TraceMeanFieldELBO])
def test_two_pairs_of_one_class_train_in_stock_svi(loss: type) -> None:
    """Under one name in Pyro's store the second would run, return a loss and change nothing."""
    x = _binary()
    pairs = [bernoulli_vae(6, latent_dim=2, hidden=(4,)) for _ in range(2)]
    for pair in pairs:
        before = copy.deepcopy(pair.state_dict())
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.05}), loss=loss())
        losses = [svi.step(x, num_data=20) for _ in range(60)]
        assert sum(losses[-10:]) < sum(losses[:10])
        changed = [name for name, value in pair.state_dict().items() if not torch.equal(value, before[name])]
        assert changed == list(before)


def test_two_pairs_train_independently_in_our_trainer() -> None:
    x = _binary()
    first, second = (bernoulli_vae(6, latent_dim=2, hidden=(4,)) for _ in range(2))
    untouched = copy.deepcopy(second.state_dict())
    fit(first, x, num_epochs=2, batch_size=10, progress=False)
    assert all(torch.equal(value, untouched[name]) for name, value in second.state_dict().items())


def test_our_trainer_leaves_pyros_store_alone() -> None:
    pyro.clear_param_store()
    fit(bernoulli_vae(6, latent_dim=2, hidden=(4,)), _binary(), num_epochs=1, batch_size=10, progress=False)
    assert len(pyro.get_param_store()) == 0


def test_our_estimator_in_stock_svi_reports_what_pyro_reports() -> None:
    """Same seed, same loss in Pyro's convention: negative, in nats, for the whole data set."""
    pair, x = bernoulli_vae(6, latent_dim=2, hidden=(4,)), _binary()
    losses = []
    for loss in (Trace_ELBO(), elbo.TraceELBO()):
        torch.manual_seed(4)
        losses.append(SVI(pair.model, pair.guide, pyro.optim.Adam({}), loss=loss).evaluate_loss(x, num_data=70))
    assert losses[0] > 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_copies_train_apart() -> None:
    pair, x = bernoulli_vae(6, latent_dim=2, hidden=(4,)), _binary()
    pair.guide(x)
    other = copy.deepcopy(pair)
    assert other._pyro_name != pair._pyro_name
    svi = SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO())
    before = copy.deepcopy(pair.state_dict())
    start = copy.deepcopy(other.state_dict())
    svi.step(x)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert any(not torch.equal(value, start[name]) for name, value in other.state_dict().items())


# --- programs written elsewhere ---


def _model(x: Tensor) -> None:
    scale = pyro.param("noise", torch.tensor(1.5), constraint=constraints.positive)
    with pyro.plate("rows", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), scale).to_event(1), obs=x)


def _guide(x: Tensor) -> None:
    slope = pyro.param("slope", lambda: torch.tensor([0.2, 0.1]))
    spread = pyro.param("spread", torch.tensor(0.8), constraint=constraints.interval(0.1, 2.0))
    with pyro.plate("rows", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x @ slope, spread))


def test_bare_parameters_are_adopted_and_trained_to_the_truth() -> None:
    """The exact posterior is in the guide's family: slope = 1 / (2 + noise^2) each, and ELBO = log p(x)."""
    torch.manual_seed(1)
    z = torch.randn(400, 1)
    x = z + 0.7 * torch.randn(400, 2)
    pair = ModelGuidePair.from_callables(_model, _guide)
    check_pair(pair, x)
    assert dict(pair.named_parameters()).keys() == {"adopted.noise", "adopted.slope", "adopted.spread"}
    fit(pair, x, num_epochs=600, batch_size=None, learning_rate=0.03, progress=False)
    noise = pair.adopted_value("noise")
    slope = pair.adopted_value("slope")
    spread = pair.adopted_value("spread")
    assert noise is not None and slope is not None and spread is not None
    torch.testing.assert_close(slope, (1 / (2 + noise**2)).expand(2), atol=0.02, rtol=0)
    torch.testing.assert_close(spread**2, noise**2 / (2 + noise**2), atol=0.02, rtol=0)
    assert len(pyro.get_param_store()) == 0


def test_autoguides_are_wrapped_with_their_parameters() -> None:
    pair = ModelGuidePair.from_callables(_model, AutoNormal(_model))
    x = torch.randn(5, 2)
    check_pair(pair, x)
    names = [name for name, _ in pair.named_parameters()]
    assert any("locs" in name for name in names) and "adopted.noise" in names
    drawn = draw(pair, x, 3)
    assert drawn.log_q.shape == (3, 5)
    # AutoNormal of a real latent is a plain normal: the auxiliary site's density and the Delta's make its log q.
    loc, scale = (dict(pair.named_parameters())[n] for n in names if "locs" in n or "scales" in n)
    scale = nn.functional.softplus(scale)
    torch.testing.assert_close(drawn.log_q, dist.Normal(loc, scale).log_prob(drawn.latents["z"]))


def test_autonormal_of_a_constrained_latent_keeps_its_jacobian() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = ModelGuidePair.from_callables(model, AutoNormal(model))
    x = torch.tensor([0.5, 2.0, 3.0])
    check_pair(pair, x)
    drawn = draw(pair, x, 200)
    named = dict(pair.named_parameters())
    loc = next(value for name, value in named.items() if "locs" in name)
    scale = nn.functional.softplus(next(value for name, value in named.items() if "scales" in name))
    torch.testing.assert_close(
        drawn.log_q, dist.LogNormal(loc, scale).log_prob(drawn.latents["z"]), atol=1e-4, rtol=1e-4
    )


def test_modules_are_found_in_closures_partials_and_plain_objects() -> None:
    net = nn.Linear(2, 1)

    def guide(x: Tensor) -> None:
        pyro.module("net", net)
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("z", dist.Normal(net(x)[..., 0], 0.5))

    class Program:
        def __init__(self) -> None:
            self.net = net

        def guide(self, x: Tensor, width: float = 0.5) -> None:
            pyro.module("net", self.net)
            with pyro.plate("rows", len(x), dim=-1):
                pyro.sample("z", dist.Normal(self.net(x)[..., 0], width))

    x = torch.randn(8, 2)
    for program in (guide, Program().guide, functools.partial(Program().guide, width=0.4)):
        pair = ModelGuidePair.from_callables(_model, program)
        before = net.weight.detach().clone()
        fit(pair, x, num_epochs=1, batch_size=4, progress=False)
        assert not torch.equal(before, net.weight)


def test_a_module_that_cannot_be_found_is_refused_not_left_untrained() -> None:
    hidden = {"net": nn.Linear(2, 1)}

    def guide(x: Tensor) -> None:
        pyro.module("net", hidden["net"])
        with pyro.plate("rows", len(x), dim=-1):
            pyro.sample("z", dist.Normal(hidden["net"](x)[..., 0], 0.5))

    x = torch.randn(8, 2)
    with pytest.raises(PairError, match=r"(?s)'net\$\$\$weight' belongs to no module.*modules="):
        fit(ModelGuidePair.from_callables(_model, guide), x, num_epochs=1, batch_size=4, progress=False)
    pair = ModelGuidePair.from_callables(_model, guide, modules=[hidden["net"]])
    before = hidden["net"].weight.detach().clone()
    fit(pair, x, num_epochs=1, batch_size=4, progress=False)
    assert not torch.equal(before, hidden["net"].weight)


def test_a_mapping_is_unpacked_on_request() -> None:
    def model(first: Tensor, second: Tensor) -> None:
        with pyro.plate("data", len(first)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(z, 1.0), obs=first)
            pyro.sample("b", dist.Normal(z, 2.0), obs=second)

    def guide(first: Tensor, second: Tensor) -> None:
        with pyro.plate("data", len(first)):
            pyro.sample("z", dist.Normal(first, 1.0))

    x = {"first": torch.randn(4), "second": torch.randn(4)}
    pair = ModelGuidePair.from_callables(model, guide, unpack=True)
    drawn = draw(pair, x, 2)
    z = drawn.latents["z"]
    expected = dist.Normal(z, 1.0).log_prob(x["first"]) + dist.Normal(z, 2.0).log_prob(x["second"])
    torch.testing.assert_close(log_joint(pair, x, drawn.latents).observed, expected)


def test_pyros_example_trains_unmodified() -> None:
    x = _binary(60, 12)
    vae = PyroExampleVAE()
    result = fit(
        ModelGuidePair.from_callables(vae.model, vae.guide),
        x,
        num_epochs=30,
        batch_size=20,
        learning_rate=0.02,
        progress=False,
    )
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"] + 0.3


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(PairError, match="the guide must be callable, found int"):
        ModelGuidePair.from_callables(_model, 3)  # type: ignore[arg-type]


def test_a_pair_is_abstract_until_it_has_both_programs() -> None:
    class Half(ModelGuidePair):
        def model(self, x: Tensor, num_data: int | None = None) -> None: ...

    with pytest.raises(TypeError, match="guide"):
        Half()  # type: ignore[abstract]


def test_constrained_parameters_of_pyro_train() -> None:
    pair = GammaLatent()
    x = torch.poisson(torch.full((40, 3), 3.0))
    before = pair.rate_unconstrained.detach().clone()
    fit(pair, x, num_epochs=2, batch_size=20, progress=False, elbo=elbo.TraceELBO())
    assert not torch.equal(before, pair.rate_unconstrained)
    assert bool((pair.rate > 0).all())


def test_vae_refuses_unequal_latent_dimensions() -> None:
    good = bernoulli_vae(6, latent_dim=2, hidden=(4,))
    other = bernoulli_vae(6, latent_dim=3, hidden=(4,))
    with pytest.raises(PairError, match=r"posterior's event shape to be the prior's \(2,\), found \(3,\)"):
        VAE(good.prior, good.likelihood, other.posterior)


def test_sub_modules_that_are_pairs_do_not_disturb_each_other() -> None:
    a, b = FactorAnalysis(3, 1), FactorAnalysis(3, 1)
    assert a._pyro_name != b._pyro_name
    assert isinstance(Nested(), ModelGuidePair)
