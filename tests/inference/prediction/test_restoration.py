"""Inpainting, super-resolution and denoising against closed forms, quadrature and enumeration; and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset
from ppvae.distributions import LinearNormal, StandardNormal
from ppvae.inference import AdditiveNormal, Flips, coarse_grid, denoise, hide, inpaint
from ppvae.models import FactorAnalysis, Latent, LinearGaussian, Observed, bayesianise, bernoulli_vae, gaussian_vae

SEEN = torch.tensor([True, False, True, False])
MANY: dict[str, Any] = {"num_steps": 60, "num_burn_in": 40, "num_chains": 500, "chunk_size": 4000}
HMC: dict[str, Any] = MANY | {"num_steps": 120, "num_burn_in": 100}
# Where the numbers are not looked at, or are compared with those of the same chains.
QUICK: dict[str, Any] = {"num_steps": 20, "num_burn_in": 10, "compile": "eager"}
GIBBS: dict[str, Any] = MANY | {"method": "metropolis-within-gibbs"}


@pytest.fixture
def factors(float64: torch.dtype) -> FactorAnalysis:
    return FactorAnalysis.from_parameters(
        [0.5, -1.0, 2.0, 0.0], [[1.0, 0.2], [-0.7, 0.9], [0.3, -1.2], [0.8, 0.5]], [0.4, 0.7, 0.5, 0.9]
    )


def normal_posterior(loc: Tensor, covariance: Tensor, y: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x ~ N(loc, covariance) given the seen entries of it, plus N(0, scale^2)."""
    index = seen.nonzero()[:, 0]
    of_y = covariance[index][:, index] + scale**2 * torch.eye(len(index), dtype=loc.dtype)
    gain = torch.linalg.solve(of_y, covariance[index]).mT
    variance = (covariance - gain @ covariance[index]).diagonal().clamp(min=0)
    return (loc + (y[:, index] - loc[index]) @ gain.mT).detach(), variance.sqrt().expand_as(y).detach()


class Coins(ModelGuidePair):
    """Binary data of a one-dimensional z, and a guide that is far from the posterior."""

    WEIGHT = torch.tensor([2.0, -1.5, 1.0, 0.5, -2.5], dtype=torch.float64)
    BIAS = torch.tensor([0.3, -0.2, 1.0, -1.0, 0.0], dtype=torch.float64)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            logits = z[..., None] * self.WEIGHT + self.BIAS
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.3 * (x[:, 0] - x[:, 4]) + 0.2, 1.1))

    def truth(self, y: Tensor, seen: Tensor, flips: float | None) -> Tensor:
        """E[x | y] by quadrature over z."""
        z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
        theta = torch.sigmoid(z[:, None] * self.WEIGHT + self.BIAS)  # [Q, D]
        epsilon = flips or 0.0
        one, zero = (torch.where(y[:, None] == v, 1 - epsilon, epsilon) for v in (1, 0))  # p(y | x = 1), p(y | x = 0)
        one, zero = (torch.where(seen, p, torch.ones_like(p)) for p in (one, zero))
        each = theta * one + (1 - theta) * zero  # [B, Q, D]
        weight = (each.log().sum(-1) - z.square() / 2).softmax(1)
        return (weight[..., None] * theta * one / each).sum(1)


class Switch(ModelGuidePair):
    """Two kinds of coins, the kind summed out, beside a continuous latent."""

    LOGITS = torch.tensor([[2.0, 2.0, -1.0], [-2.0, -1.0, 2.0]], dtype=torch.float64)
    summed = True

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            infer = {"enumerate": "parallel"} if self.summed else {}
            y = pyro.sample("y", dist.Categorical(logits=x.new_tensor([0.4, -0.4])), infer=infer)
            logits = self.LOGITS[y] + z[..., None]
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(0.2 * x[:, 0], 1.1))
            if not self.summed:
                pyro.sample("y", dist.Categorical(probs=torch.stack([0.3 + 0.4 * x[:, 0], 0.7 - 0.4 * x[:, 0]], -1)))

    def truth(self, y: Tensor, seen: Tensor, flips: float | None) -> Tensor:
        z = torch.linspace(-9, 9, 2001, dtype=torch.float64)
        theta = torch.sigmoid(self.LOGITS[:, None] + z[:, None])  # [K, Q, D]
        prior = torch.tensor([0.4, -0.4], dtype=torch.float64).softmax(0).log()[:, None] - z.square() / 2
        epsilon = flips or 0.0
        one, zero = (torch.where(y == v, 1 - epsilon, epsilon)[:, None, None] for v in (1, 0))
        one, zero = (torch.where(seen, p, torch.ones_like(p)) for p in (one, zero))
        each = theta * one + (1 - theta) * zero
        weight = (each.log().sum(-1) + prior).flatten(1).softmax(1).reshape(len(y), 2, -1)
        return (weight[..., None] * theta * one / each).sum((1, 2))


class SwitchInGuide(Switch):
    """The same, its kind drawn by the guide."""

    summed = False


# --- the truth ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [None, 0.6], ids=["exact", "noisy"])
@pytest.mark.parametrize("stretch", [1.0, 1.3], ids=["the posterior as guide", "a wrong guide"])
@pytest.mark.parametrize("options", [HMC, GIBBS], ids=["hmc", "gibbs"])
def test_normal_data_have_the_moments_of_the_closed_form(
    factors: FactorAnalysis, scale: float | None, stretch: float, options: Any
) -> None:
    """Mean within its own errors, standard deviation within 3 %; draws have both."""
    truth = factors.marginal()
    x = truth.sample((4,))
    noise = None if scale is None else AdditiveNormal(scale)
    y = x if noise is None else noise.corrupt(x, seed=5)
    y = torch.where(SEEN, y, math.nan)
    pair = factors if stretch == 1.0 else factors.with_wrong_guide(shift=0.4, stretch=stretch)
    found = inpaint(pair, y, SEEN, noise=noise, num_draws=4000, **options)
    mean, deviation = normal_posterior(factors.loc, truth.covariance_matrix, y, SEEN, scale or 0.0)
    hidden = ~SEEN if scale is None else torch.ones_like(SEEN)
    z = (found.mean - mean)[:, hidden] / found.standard_error[:, hidden]
    assert z.abs().max() < 5
    assert float(z.square().mean()) < 3  # the errors are of the size that they say
    torch.testing.assert_close(found.standard_deviation[:, hidden], deviation[:, hidden], rtol=0.03, atol=0)
    assert found.draws.shape == (4000, 4, 4)
    assert ((found.draws.mean(0) - mean)[:, hidden].abs() < 0.1 * deviation[:, hidden]).all()
    torch.testing.assert_close(found.draws.std(0)[:, hidden], deviation[:, hidden], rtol=0.1, atol=0)
    if scale is None:
        for value in (found.mean, *found.draws[:3]):
            assert torch.equal(value[:, SEEN], y[:, SEEN])
        assert float(found.standard_deviation[:, SEEN].abs().max()) == 0
        assert float(found.standard_error[:, SEEN].abs().max()) == 0
    assert (found.r_hat < 1.3).all()  # of chains this short
    assert float(found.acceptance.max()) <= 1
    if options is HMC:
        assert (found.acceptance > 0.6).all()
    else:
        assert (found.acceptance > 0.999).all() if stretch == 1.0 else (found.acceptance < 0.95).all()


@pytest.mark.parametrize("options", [HMC, GIBBS], ids=["hmc", "gibbs"])
def test_denoising_a_hierarchy(options: Any, float64: torch.dtype) -> None:
    """Two layers, all entries noisy: the posterior of x under LinearGaussian's own joint normal."""
    torch.manual_seed(2)
    pair = LinearGaussian(
        z2=Latent(StandardNormal(1)),
        z1=Latent(LinearNormal([1], 2).given("z2")),
        x=Observed(LinearNormal([2], 4).given("z1")),
    ).double()
    for parameter in pair.parameters():
        parameter.data = torch.randn_like(parameter) * 0.6
    joint = pair.joint({"x": torch.zeros(1, 4)})
    part = joint.slices["x"]
    loc, covariance = joint.loc[0, part], joint.covariance[part, part]
    y = dist.MultivariateNormal(loc, covariance + 0.49 * torch.eye(4)).sample((3,))
    fewer = options | {"num_chains": 200}
    found = denoise(pair, y, AdditiveNormal(0.7), **fewer)
    mean, deviation = normal_posterior(loc, covariance, y, torch.ones(4, dtype=torch.bool), 0.7)
    assert ((found.mean - mean).abs() < 5 * found.standard_error).all()
    torch.testing.assert_close(found.standard_deviation, deviation, rtol=0.05, atol=0)
    wrong = denoise(pair, y, AdditiveNormal(1.4), **fewer)
    assert ((wrong.mean - mean).abs() > 5 * wrong.standard_error).any()


@pytest.mark.parametrize(
    ("pair", "options"),
    [(Coins(), HMC), (Coins(), GIBBS), (Switch(), HMC), (Switch(), GIBBS), (SwitchInGuide(), MANY)],
    ids=["Coins, hmc", "Coins, gibbs", "Switch, hmc", "Switch, gibbs", "SwitchInGuide"],
)
@pytest.mark.parametrize("flips", [None, 0.2], ids=["exact", "flipped"])
def test_binary_data_against_quadrature(pair: Any, options: Any, flips: float | None, float64: torch.dtype) -> None:
    size = 5 if isinstance(pair, Coins) else 3
    y = torch.bernoulli(torch.full((4, size), 0.5))
    seen = torch.arange(size) < size - 1
    noise = None if flips is None else Flips(flips)
    found = inpaint(pair, y, seen, noise=noise, num_draws=4000, **options)
    mean = pair.truth(y, seen, flips)
    moves = found.standard_error > 0
    assert torch.equal(moves, torch.ones_like(moves) if flips else (~seen).expand_as(moves))
    z = (found.mean - mean)[moves] / found.standard_error[moves]
    assert z.abs().max() < 5
    assert float(z.square().mean()) < 3
    assert float(found.standard_error.max()) < 0.02
    torch.testing.assert_close(found.mean[~moves], y[~moves])
    # Zeros and ones: the mean says the standard deviation.
    torch.testing.assert_close(found.standard_deviation, (mean * (1 - mean)).clamp(min=0).sqrt(), atol=0.02, rtol=0)
    assert set(found.draws.unique().tolist()) <= {0.0, 1.0}
    torch.testing.assert_close(found.draws.mean(0), mean, atol=0.07, rtol=0)
    if flips:  # power: what another noise, or none, would say
        other = inpaint(pair, y, seen, noise=Flips(0.35), **options)
        assert ((other.mean - mean).abs() > 5 * other.standard_error).any()


def test_flips_that_say_nothing_leave_the_prior(float64: torch.dtype) -> None:
    y = torch.ones(2, 5)
    fewer = HMC | {"num_chains": 200}
    found = denoise(Coins(), y, Flips(0.5), **fewer)
    none = torch.zeros(5, dtype=torch.bool)
    assert ((found.mean - Coins().truth(y, none, None)).abs() < 5 * found.standard_error).all()
    assert ((found.mean[0] - inpaint(Coins(), y, none, seed=1, **fewer).mean[0]).abs() < 0.1).all()


def test_noise_may_lead_out_of_where_the_mean_can_be() -> None:
    """A mean in (0, 1), and noisy values outside."""
    torch.manual_seed(0)
    pair, y = gaussian_vae(4, latent_dim=2, hidden=(5,)), torch.tensor([[-0.5, 0.4, 1.7, 0.9]])
    found = denoise(pair, y, AdditiveNormal(0.5), **QUICK)
    assert found.mean.isfinite().all() and float(found.mean[0, 0]) > -0.5 and float(found.mean[0, 2]) < 1.7


def test_without_correction_a_wrong_guide_shows(float64: torch.dtype) -> None:
    class Far(Coins):
        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(x[:, 0] - 1.5, 0.8))

    y, seen = torch.ones(1, 5), torch.arange(5) < 4
    mean = Coins().truth(y, seen, None)
    found = inpaint(Far(), y, seen, **(MANY | {"method": "pseudo-gibbs"}))
    assert float((found.mean - mean).abs()[0, 4]) > 5 * float(found.standard_error[0, 4])
    assert torch.equal(found.acceptance, torch.ones(1))


def test_methods_that_a_pair_does_not_have(float64: torch.dtype) -> None:
    y, seen, few = torch.ones(2, 3), torch.arange(3) < 2, {"num_steps": 4, "num_burn_in": 2}
    with pytest.raises(PairError, match=r"'y' is discrete|latent site 'y'"):
        inpaint(SwitchInGuide(), y, seen, method="hmc", **few)
    with pytest.raises(PairError, match=r"'y' is summed out, and what is seen went through noise"):
        denoise(Switch(), y, Flips(0.1), method="hmc", **few)


def test_what_is_hidden_moves_no_chain_of_hmc(float64: torch.dtype) -> None:
    """A guide that reads hidden entries, or has any other fault, is no part of what is sampled."""

    class Elsewhere(Coins):
        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(5 + x[:, 4], 0.1))

    y, seen = torch.bernoulli(torch.full((2, 5), 0.5)), torch.arange(5) < 3
    found, again = (inpaint(pair, y, seen, **QUICK) for pair in (Coins(), Elsewhere()))
    assert torch.equal(found.mean, again.mean) and torch.equal(found.draws, again.draws)


def test_entries_may_stand_in_a_plate(float64: torch.dtype) -> None:
    """Pixels as independent sites of a plate, the plate over data in the middle."""

    class Plates(Coins):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                with pyro.plate("pixels", x.shape[1], dim=-1):
                    pyro.sample("x", dist.Bernoulli(logits=z * self.WEIGHT + self.BIAS), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("z", dist.Normal(x[:, :1], 1.0))

    y, seen = torch.bernoulli(torch.full((2, 5), 0.5)), torch.tensor([[True, False, True, True, False], [False] * 5])
    fewer = HMC | {"num_chains": 100}
    for noise in (None, Flips(0.2)):
        found, again = (inpaint(pair, y, seen, noise=noise, **fewer) for pair in (Coins(), Plates()))
        for key in ("mean", "standard_deviation", "draws"):
            torch.testing.assert_close(getattr(found, key), getattr(again, key))
        truth = torch.cat([Coins().truth(y[[b]], seen[b], noise and noise.probability) for b in range(2)])
        assert ((again.mean - truth).abs() <= 5 * again.standard_error + 1e-9).all()


def test_a_chain_that_fails_is_not_trusted(float64: torch.dtype) -> None:
    """A density without gradient far out: chains that begin there never move."""

    class Stuck(Coins):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                steep = 1e8 * z.clamp(min=0.0) * torch.sin(1e8 * z)
                logits = z[..., None] * self.WEIGHT + self.BIAS + steep[..., None]
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    with pytest.warns(RuntimeWarning, match="of 64 chains"):
        found = inpaint(Stuck(), torch.ones(8, 5), torch.arange(5) < 3, num_steps=30, num_burn_in=10)
    assert found.r_hat.isinf().any() and not found.trusted.all()


def test_chains_that_disagree_are_told(float64: torch.dtype) -> None:
    """Two modes far apart: a chain stays in the one in which it began."""

    class Modes(Coins):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                size, side = 40 * (z.abs() - 1.5), 40 * z
                logits = torch.stack([size, size, size, size, side], -1)
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    found = inpaint(Modes(), torch.ones(2, 5), torch.arange(5) < 4, num_steps=100, num_burn_in=50)
    assert (found.r_hat > 1.5).all() and not found.trusted.any()
    assert (found.standard_error > 0.05)[:, 4].all()
    assert "of 0 the chains agree" in repr(found)
    settled = inpaint(Coins(), torch.zeros(2, 5), torch.zeros(5, dtype=torch.bool), num_steps=100, num_burn_in=50)
    assert settled.trusted.all() and "of 2 the chains agree" in repr(settled)


# --- draws, seeds, chunks -----------------------------------------------------------------------


def test_draws_are_of_different_chains_first(factors: FactorAnalysis) -> None:
    """Those of one chain are as far apart as it is long."""
    x = factors.marginal().sample((3,))
    options: dict[str, Any] = {"num_steps": 18, "num_burn_in": 8, "num_chains": 3, "compile": "eager"}
    hmc = inpaint(factors, x, SEEN, num_draws=30, **options).draws
    assert hmc.shape == (30, 3, 4) and len(hmc[:, 0, 1].unique()) == 30
    options = {"num_steps": 12, "num_burn_in": 2, "num_chains": 3, "method": "metropolis-within-gibbs"}
    few, all_ = (inpaint(factors, x, SEEN, num_draws=n, **options).draws for n in (3, 30))
    assert few.shape == (3, 3, 4) and all_.shape == (30, 3, 4)
    assert torch.equal(few, all_[27:])  # the last states
    assert len(all_[:, 0, 1].unique()) == 30
    assert torch.equal(inpaint(factors, x, SEEN, num_draws=2, **options).draws, few[:2])
    assert torch.equal(inpaint(factors, x, SEEN, num_draws=6, **options).draws, torch.cat([all_[12:15], all_[27:]]))
    assert inpaint(factors, x, SEEN, num_draws=0, **options).draws.shape == (0, 3, 4)


def test_one_chain_has_no_error_bar(factors: FactorAnalysis) -> None:
    found = inpaint(factors, factors.marginal().sample((3,)), SEEN, num_chains=1, num_draws=1, **QUICK)
    assert found.standard_error[:, ~SEEN].isnan().all() and found.r_hat.isnan().all() and not found.trusted.any()
    assert found.standard_deviation.isfinite().all()
    gibbs: dict[str, Any] = {"num_steps": 1, "num_burn_in": 0, "method": "metropolis-within-gibbs"}
    one_step = inpaint(factors, factors.marginal().sample((3,)), SEEN, **gibbs)
    assert one_step.r_hat.isnan().all() and one_step.standard_error.isfinite().all()


def test_all_seen_is_as_it_was(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((3,))
    found = inpaint(factors, x, torch.ones(4), **QUICK)
    assert torch.equal(found.mean, x) and torch.equal(found.r_hat, torch.ones(3))


def test_seeds_and_modes(factors: FactorAnalysis) -> None:
    x = factors.marginal().sample((5,))
    before = torch.get_rng_state()
    runs = [denoise(factors, x, AdditiveNormal(0.5), seed=seed, **QUICK) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    for key in ("mean", "standard_deviation", "standard_error", "draws", "acceptance", "r_hat"):
        assert torch.equal(getattr(runs[0], key), getattr(runs[1], key))
    assert not torch.equal(runs[0].mean, runs[2].mean)
    graph = denoise(factors, x, AdditiveNormal(0.5), **(QUICK | {"compile": "graph"}))
    torch.testing.assert_close(graph.mean, runs[0].mean)
    pieces = denoise(factors, x, AdditiveNormal(0.5), chunk_size=16, **QUICK)  # two data at a time
    torch.testing.assert_close(pieces.mean, runs[0].mean)  # what the chains are, memory decides alone
    gibbs: dict[str, Any] = {"num_steps": 24, "num_burn_in": 4, "method": "metropolis-within-gibbs"}
    whole, parts, graph = (
        denoise(factors, x, AdditiveNormal(0.5), **gibbs, **options)
        for options in ({}, {"chunk_size": 16}, {"compile": "graph"})
    )
    assert parts.mean.shape == x.shape and not torch.equal(parts.mean, whole.mean)
    torch.testing.assert_close(graph.mean, whole.mean)


def test_masks_of_every_datum(factors: FactorAnalysis) -> None:
    """Each datum is restored from what is seen of it, whichever chunk it is in."""
    x = factors.marginal().sample((6,))
    seen = hide([4], 0.5, num=6, seed=3)
    assert len(seen.unique(dim=0)) > 2
    found = inpaint(factors, x, seen, num_steps=70, num_burn_in=50, num_chains=200, chunk_size=800)
    for row in range(6):
        mean, deviation = normal_posterior(factors.loc, factors.marginal().covariance_matrix, x[[row]], seen[row], 0.0)
        assert ((found.mean[row] - mean[0]).abs() <= 5.5 * found.standard_error[row] + 1e-9).all()
        torch.testing.assert_close(found.standard_deviation[row], deviation[0], rtol=0.08, atol=1e-7)


def test_weights_are_held_where_it_is_said() -> None:
    torch.manual_seed(0)
    pair = bayesianise(gaussian_vae(4, latent_dim=2, hidden=(5,)), modules=["likelihood"])
    x = torch.rand(3, 4)
    with pytest.raises(PairError, match=r"global latent site(?s:.*)global_sites=\"mean\""):
        inpaint(pair, x, SEEN)
    found = inpaint(pair, x, SEEN, global_sites="mean", **QUICK)
    assert torch.equal(found.mean[:, SEEN], x[:, SEEN])
    with pytest.raises(PairError, match="no global latent site"):
        denoise(gaussian_vae(4, latent_dim=2), x, AdditiveNormal(1.0), global_sites={"w": x})


def test_values_that_no_likelihood_has_stand_where_nothing_is_seen() -> None:
    """A Gamma has no zero, and what is hidden may be anything."""

    class Waits(ModelGuidePair):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Gamma(2.0, z.exp()[..., None].expand(*z.shape, 3)).to_event(1), obs=x)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(-x.abs().log().mean(-1), 0.6))

    x = torch.tensor([[1.0, 2.0, -5.0], [0.5, 0.5, math.nan]])
    found = inpaint(Waits(), x, torch.tensor([True, True, False]), **QUICK)
    assert found.mean.isfinite().all() and (found.draws > 0).all()
    with pytest.raises(DataError, match="datum 0 has a value that is seen and that a Gamma does not have"):
        inpaint(Waits(), x, ~x.isnan())


# --- noise and masks ----------------------------------------------------------------------------


def test_noise_is_what_it_says() -> None:
    x = torch.bernoulli(torch.full((200, 100), 0.3))
    y = Flips(0.1).corrupt(x, seed=2)
    assert torch.equal(y, Flips(0.1).corrupt(x, seed=2)) and not torch.equal(y, Flips(0.1).corrupt(x, seed=3))
    for value in (0, 1):
        flipped = (y != x)[x == value].float()
        assert abs(float(flipped.mean()) - 0.1) < 5 * 0.3 / math.sqrt(len(flipped))
    moved = AdditiveNormal(0.7).corrupt(x.double()) - x
    assert moved.dtype == torch.float64
    assert abs(float(moved.mean())) < 5 * 0.7 / 141 and abs(float(moved.std()) - 0.7) < 5 * 0.7 / 200
    for bad in (0.0, 1.0, -0.1, math.nan):
        with pytest.raises(DataError, match="a probability strictly between 0 and 1"):
            Flips(bad)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DataError, match="positive, finite scale"):
            AdditiveNormal(bad)


def picture(mask: Tensor) -> list[str]:
    return ["".join(".#"[int(seen)] for seen in row) for row in mask.tolist()]


def test_what_is_hidden() -> None:
    assert picture(hide([3, 4], "left")) == ["..##"] * 3
    assert picture(hide([3, 5], "right")) == ["###.."] * 3
    assert picture(hide([3, 2], "top")) == ["..", "##", "##"]
    assert picture(hide([3, 2], "bottom")) == ["##", "##", ".."]
    assert picture(hide([4, 5], "box")) == ["#####", "#...#", "#...#", "#####"]
    assert hide([5], "right").tolist() == [True, True, True, False, False]
    for shape in ([3, 4, 6], [1, 4, 6]):
        assert torch.equal(hide(shape, "top"), hide([4, 6], "top").expand(shape))
    assert torch.equal(hide([4, 6, 3], "right"), hide([4, 6], "right")[..., None].expand(4, 6, 3))
    assert hide([2, 4], "left", num=3).shape == (3, 2, 4)
    share = hide([50, 40], 0.3, num=5, seed=1)
    assert share.shape == (5, 50, 40) and len(share.unique(dim=0)) == 5
    assert abs(float(share.float().mean()) - 0.7) < 5 * math.sqrt(0.21 / share.numel())
    assert torch.equal(share, hide([50, 40], 0.3, num=5, seed=1))
    assert not torch.equal(share, hide([50, 40], 0.3, num=5, seed=2))


def test_a_coarse_grid() -> None:
    assert picture(coarse_grid([4, 6], 2)) == ["......", ".#.#.#", "......", ".#.#.#"]
    assert picture(coarse_grid([3, 3], 3)) == ["...", ".#.", "..."]
    assert torch.equal(coarse_grid([3, 4, 6], 2), coarse_grid([4, 6], 2).expand(3, 4, 6))
    for factor, message in ((1, "factor: expected at least 2"), (4, "a factor of at most 3")):
        with pytest.raises(PpvaeError, match=message):
            coarse_grid([6, 3], factor)
    with pytest.raises(DataError, match=r"expected data of shape \[D\], \[H, W\]"):
        coarse_grid([5, 5, 5, 5], 2)


@pytest.mark.parametrize(
    ("shape", "what", "message"),
    [
        ([4], "box", "'box' needs rows and columns"),
        ([4, 4], "middle", "unknown region 'middle'"),
        ([4, 4], 0.0, r"a share of entries in \(0, 1\], found 0.0"),
        ([4, 4], 1.5, r"a share of entries in \(0, 1\], found 1.5"),
        ([4, 4, 4], "left", r"expected data of shape"),
    ],
)
def test_masks_that_make_no_sense(shape: list[int], what: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        hide(shape, what)


# --- what a chain would be wrong about ----------------------------------------------------------


class Given(ModelGuidePair):
    """A likelihood by hand."""

    def __init__(self, likelihood: Any) -> None:
        super().__init__()
        self.likelihood = likelihood

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            self.likelihood(z, x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x.flatten(1).mean(-1), 1.0))


def _multinomial(z: Tensor, x: Tensor) -> None:
    probs = torch.stack([z, -z, 0 * z, z / 2], -1).softmax(-1)
    pyro.sample("x", dist.Multinomial(8, probs), obs=x)


def _full(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.MultivariateNormal(z[..., None].expand(*z.shape, 4), torch.eye(4) + 0.5), obs=x)


def _autoregressive(z: Tensor, x: Tensor) -> None:
    for step in range(4):
        before = x[:, step - 1] if step else torch.zeros(())
        pyro.sample(f"x{step}", dist.Normal(z + before, 1.0), obs=x[:, step])


def _of_its_own_values(z: Tensor, x: Tensor) -> None:
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], -1)
    pyro.sample("x", dist.Normal(z[..., None] + before, 1.0).to_event(1), obs=x)


def _two(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 4), 1.0).to_event(1), obs=x)
    pyro.sample("label", dist.Bernoulli(logits=z), obs=(x[:, 0] > 0).float())


def _part(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 3), 1.0).to_event(1), obs=x[:, :3])


def _computed(z: Tensor, x: Tensor) -> None:
    pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 4), 1.0).to_event(1), obs=x / 2 + 1)


def _factor(z: Tensor, x: Tensor) -> None:
    pyro.factor("x", -(x - z[..., None]).square().sum(-1))


COUNTS = torch.tensor([[1.0, 3.0, 4.0, 0.0]])
HALF = torch.tensor([[0.5, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("pair", "x", "noise", "message"),
    [
        (Given(_multinomial), COUNTS, None, r"the entries of a Multinomial of shape \[4\] depend on each other"),
        (Given(_full), COUNTS, None, r"the entries of a MultivariateNormal of shape \[4\] depend on each other"),
        (Given(_autoregressive), COUNTS, None, "the pair observes 4 sites"),
        (Given(_of_its_own_values), COUNTS, None, "depends on observed values that the model reads from x"),
        (Given(_two), COUNTS, None, r"the pair observes 2 sites \('x', 'label'\)"),
        (Given(_part), COUNTS, None, r"site 'x' observes values of shape \[3\]: expected all of the data, \[4\]"),
        (Given(_computed), COUNTS, None, "expected a value that stands in the batch"),
        (Given(_factor), COUNTS, None, r"site 'x' observes values of shape \[0\]|pyro.factor"),
        (bernoulli_vae(4, latent_dim=1), HALF, None, "datum 0 has grey values, and a Bernoulli draws zeros and ones"),
        (bernoulli_vae(4, latent_dim=1, allow_grey=True), HALF, None, "has grey values"),
        (bernoulli_vae(4, latent_dim=1), HALF, Flips(0.1), "has grey values"),
        (bernoulli_vae(4, latent_dim=1), 1 - HALF, AdditiveNormal(0.1), "AdditiveNormal is exact for a Normal, found"),
        (gaussian_vae(4, latent_dim=1), HALF, Flips(0.1), "Flips is exact for a Bernoulli, found Normal"),
        (Given(_multinomial), COUNTS, Flips(0.1), "depend on each other|Flips is exact for a Bernoulli"),
        (gaussian_vae(4, latent_dim=1), HALF, 0.1, "noise: expected a channel, found 0.1"),
        (gaussian_vae(4, latent_dim=1), HALF / 0, None, r"the value at \[0, 0\] is inf, and the mask says"),
    ],
)
def test_refused_by_name(pair: Any, x: Tensor, noise: Any, message: str) -> None:
    with pytest.raises(PpvaeError, match=message) as error:
        inpaint(pair, x.expand(3, 4), SEEN, noise=noise, num_steps=2, num_burn_in=1)
    assert "Try one of" in str(error.value)


def test_a_site_that_is_named_beside_a_mask() -> None:
    pair, x = gaussian_vae(4, latent_dim=1), HALF.expand(3, 4)
    named, unnamed = (inpaint(pair, x, SEEN, site=site, **QUICK) for site in ("x", None))
    assert torch.equal(named.draws, unnamed.draws)
    with pytest.raises(PairError, match="no observed site 'y'"):
        inpaint(pair, x, SEEN, site="y")


def test_events_that_are_seen_whole_or_not_at_all() -> None:
    """Pixels of classes as indicators: each pixel is one event."""

    def classes(z: Tensor, x: Tensor) -> None:
        logits = torch.stack([z, -z, 0 * z], -1)[..., None, :].expand(*z.shape, 4, 3)
        pyro.sample("x", dist.OneHotCategorical(logits=logits).to_event(1), obs=x)

    x = torch.eye(3)[torch.tensor([[0, 1, 2, 0], [1, 1, 1, 1]])]
    found = inpaint(Given(classes), x, SEEN[:, None], **QUICK)
    assert torch.equal(found.mean[:, SEEN], x[:, SEEN])
    torch.testing.assert_close(found.mean.sum(-1), torch.ones(2, 4))
    assert torch.equal(found.draws.sum(-1), torch.ones(4, 2, 4))
    with pytest.raises(PairError, match=r"the entries of a OneHotCategorical of shape \[3\] depend on each other"):
        inpaint(Given(classes), x, torch.tensor([True, False, True]))
    whole = inpaint(Given(_multinomial), COUNTS.expand(2, 4), torch.tensor([[True], [False]]), **QUICK)
    assert torch.equal(whole.mean[0], COUNTS[0])
    torch.testing.assert_close(whole.draws.sum(-1), torch.full((4, 2), 8.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 9, "num_steps": 2, "num_burn_in": 1}, "num_draws: expected at most (?s:.*) = 8, found 9"),
        ({"num_chains": 0}, "num_chains: expected at least 1, found 0"),
        ({"num_burn_in": 300}, "num_burn_in < num_steps"),
        ({"num_burn_in": 0}, "num_burn_in of at least 1, in which HMC adapts its steps, found 0"),
        ({"method": "gibbs"}, "unknown method 'gibbs': (?s:.*)pseudo-gibbs"),
        ({"noise": None, "num_draws": -1}, "num_draws: expected at least 0"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        inpaint(Coins(), torch.ones(2, 5), torch.ones(5), **options)


def test_a_data_set_of_grey_values_is_binarised_once() -> None:
    grey = Dataset(torch.full((6, 4), 0.5), value_space="unit", binarization="dynamic")
    found = denoise(bernoulli_vae(4, latent_dim=1, hidden=(3,)), grey, Flips(0.1), **QUICK)
    assert set(found.draws.unique().tolist()) <= {0.0, 1.0}
