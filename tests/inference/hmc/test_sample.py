"""Sampling posteriors that are known: moments, distributions, calibration, and every kind of bad input."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from contracts.kernel import FALSE_ALARM, assert_distributed, assert_mean
from torch import Tensor

import ppvae.inference.hmc.sample as verb
import ppvae.inference.hmc.target as starts
from ppvae.core import ModelGuidePair, PairError, PpvaeError, log_joint, simulate, structure, unconstrained
from ppvae.core.compile import state_of
from ppvae.inference.hmc import HMC, ChainOutcome, ChEES, PosteriorDraws, sample_posterior
from ppvae.inference.hmc.integrator import Target, leapfrog
from ppvae.inference.hmc.kernel import HMCParameters, draw_noise, hmc_kernel, initial_state
from ppvae.inference.hmc.target import posterior_target
from ppvae.models import FactorAnalysis, bernoulli_vae

from .pairs import Blow, GammaPoisson, GlobalShift, Switch, assert_within


def factor_analysis() -> FactorAnalysis:
    """Factors that the posterior correlates, scales of all sizes; a guide that is off."""
    loading = [[2.0, 1.8], [-1.0, 0.5], [0.3, 1.0]]
    exact = FactorAnalysis.from_parameters([1.0, -2.0, 0.5], loading, [0.3, 1.0, 2.0])
    return exact.with_wrong_guide(shift=1.0, stretch=1.5)


def quick(pair: Any, x: Any, **options: Any) -> PosteriorDraws:
    return sample_posterior(pair, x, **{"progress": False, "compile": "graph", **options})


def check_factor_analysis(draws: PosteriorDraws, pair: FactorAnalysis, x: Tensor) -> None:
    """Moments against the exact ones in measured standard errors, and each chain's last draw by Kolmogorov-Smirnov."""
    posterior = pair.posterior(x)
    # Whitened by the exact posterior, every coordinate of every datum is a standard normal.
    centred = (draws.samples["z"] - posterior.mean).detach()
    white = torch.linalg.solve_triangular(posterior.scale_tril.detach(), centred.unsqueeze(-1), upper=False)[..., 0]
    from ppvae.inference.hmc.diagnostics import ess

    assert_within(white.mean((0, 1)), torch.zeros(()), ess(white) ** -0.5)
    square = white.square()
    assert_within(square.mean((0, 1)), torch.ones(()), square.flatten(0, 1).std(0) * ess(square) ** -0.5)
    cross = white.prod(-1)
    assert_within(cross.mean((0, 1)), torch.zeros(()), cross.flatten(0, 1).std(0) * ess(cross) ** -0.5)
    assert_distributed(white[:, -1].flatten(), scipy.stats.norm.cdf)


@pytest.mark.parametrize("num_warmup", [10, 20, 24, 40, 100])
def test_short_warm_up_accepts_as_often_as_asked(num_warmup: int) -> None:
    """The step size settles for the last mass: with two transitions for it, the acceptance was 0.3 after 24."""
    x = factor_analysis().marginal().sample((50,))
    draws = quick(
        factor_analysis(), x, num_samples=40, num_warmup=num_warmup, num_chains=2, start="prior", num_leapfrog=5
    )
    assert abs(float(draws.stats["acceptance"].mean()) - 0.8) < 0.15


@pytest.mark.parametrize(
    ("kernel", "start"),
    [(HMC(), "guide"), (HMC(4, target_acceptance=0.9), "prior"), (ChEES(), "guide")],
    ids=["fixed", "paper", "chees"],
)
def test_factor_analysis_is_sampled_exactly(kernel: Any, start: Any, float64: torch.dtype) -> None:
    pair = factor_analysis()
    x = simulate(pair, torch.zeros(60, 3)).observed["x"].detach()
    draws = quick(pair, x, kernel=kernel, start=start, num_samples=150, num_warmup=150, num_chains=8)
    check_factor_analysis(draws, pair, x)
    assert bool(draws.ok.all())
    assert float(draws.rhat()["z"].max()) < 1.15
    target = kernel.target_acceptance
    assert abs(float(draws.stats["acceptance"].mean()) - target) < 0.1
    with pytest.raises(AssertionError):
        check_factor_analysis(draws, factor_analysis(), x + 0.2)  # the check has power


def test_step_size_and_mass_belong_to_each_chain(float64: torch.dtype) -> None:
    """The frozen mass is the posterior's variance; chains differ in step size; nothing moves after warm-up."""
    pair = factor_analysis()
    x = torch.randn(5, 3)
    draws = quick(pair, x, num_samples=5, num_warmup=500, num_chains=16, num_leapfrog=4)
    variance = pair.posterior(x).variance.detach()
    torch.testing.assert_close(draws.inverse_mass, variance, rtol=0.25, atol=0.0)
    step_size = draws.stats["step_size"]
    assert bool((step_size == step_size[:, :1]).all())
    assert float(step_size[:, 0].std()) > 0


def check_joint(target: Target, pair: GammaPoisson, num: int = 20_000) -> None:
    """Geweke's joint test: (z, x) from the model, z moved given x, is a draw from the model still."""
    found = simulate(pair, torch.zeros(num, 2))
    z, x = found.latents["z"].detach(), found.observed["x"].detach()
    coordinates = unconstrained(pair, x)
    context = (state_of(pair), x)
    state = initial_state(target, coordinates.unconstrain({"z": z[None]}), *context)
    kernel = hmc_kernel(leapfrog(target), 4, jitter=0.2)
    parameters = HMCParameters(torch.full((1, num), 0.35), torch.ones(num, 1))
    for _ in range(5):
        state, _ = kernel(state, draw_noise(state.u), parameters, *context)
    moved = coordinates.constrain(state.u)[0]["z"][0]
    assert float((moved - z).abs().mean()) > 0.3
    assert_mean(moved, 3.0)
    assert_mean(moved * x[:, 0], 12.0)  # E z^2 = 3 (3 + 1)
    assert_mean(moved.square() * x[:, 1], 60.0)  # E z^3
    assert_distributed(moved, scipy.stats.gamma(3).cdf)


def test_geweke_joint_test_with_a_constrained_latent(float64: torch.dtype) -> None:
    pair = GammaPoisson()
    coordinates = unconstrained(pair, torch.ones(20_000, 2))
    target = posterior_target(pair, coordinates)
    check_joint(target, pair)

    def without_jacobian(u: Tensor, state: Any, x: Tensor) -> Tensor:
        return log_joint(pair, x, coordinates.constrain(u)[0]).local

    with pytest.raises(AssertionError, match=r"expected|Kolmogorov"):
        check_joint(without_jacobian, pair)


def check_calibration(draws: PosteriorDraws, truth: Tensor) -> None:
    """Simulation-based calibration: the rank of the truth among posterior draws is uniform (Talts et al. 2018)."""
    values = draws.samples["z"][:, -1]  # the last draw of every chain: 15 independent ones, 16 ranks
    ranks = (values < truth).sum(0).flatten()
    counts = np.bincount(ranks.numpy(), minlength=values.shape[0] + 1)
    p = scipy.stats.chisquare(counts).pvalue
    assert p > FALSE_ALARM, f"ranks are not uniform: p = {p:.1e}, {counts}"


def test_simulation_based_calibration(float64: torch.dtype) -> None:
    pair = GammaPoisson()
    found = simulate(pair, torch.zeros(600, 2))
    x, z = found.observed["x"].detach(), found.latents["z"].detach()
    draws = quick(pair, x, num_samples=10, num_warmup=150, num_chains=15, kernel=HMC(5))
    check_calibration(draws, z)
    with pytest.raises(AssertionError, match="not uniform"):
        check_calibration(draws, z * 1.15)
    exact = torch.distributions.Gamma(3 + x.sum(-1), torch.tensor(3.0))
    uniform = scipy.stats.gamma.cdf(draws.samples["z"][:, -1], 3 + x.sum(-1), scale=1 / 3)
    assert_distributed(torch.as_tensor(uniform).flatten(), scipy.stats.uniform.cdf)
    mean = draws.samples["z"].mean((0, 1))
    assert_within(mean, exact.mean, exact.variance.sqrt() * draws.ess()["z"].clamp(max=150) ** -0.5)


def test_same_seed_same_draws_and_no_global_state_touched() -> None:
    pair, x = factor_analysis(), torch.randn(4, 3)
    before = torch.random.get_rng_state()
    one = quick(pair, x, num_samples=10, num_warmup=15, num_leapfrog=3, compile="eager", seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    two = quick(pair, x, num_samples=10, num_warmup=15, num_leapfrog=3, compile="eager", seed=3)
    other = quick(pair, x, num_samples=10, num_warmup=15, num_leapfrog=3, compile="eager", seed=4)
    assert torch.equal(one.unconstrained, two.unconstrained)
    assert not torch.equal(one.unconstrained, other.unconstrained)


def test_chunks_cover_the_data(float64: torch.dtype) -> None:
    """A small budget cuts the data into padded chunks of one size; the draws are as good, and in order."""
    pair = factor_analysis()
    x = simulate(pair, torch.zeros(61, 3)).observed["x"].detach()
    whole = verb._Work(pair, x, 4, HMC(), "guide", None).measure()
    budget = whole["fixed"].peak + 20 * whole["datum"].peak
    draws = quick(pair, x, num_samples=100, num_warmup=100, num_chains=4, num_leapfrog=5, memory_budget=budget)
    assert draws.unconstrained.shape == (4, 100, 61, 2)
    assert {tuple(value.shape) for value in draws.stats.values()} == {(4, 100, 61)}
    assert draws.inverse_mass.shape == (61, 2)
    check_factor_analysis(draws, pair, x)


def test_measured_footprint_is_honest() -> None:
    """Per datum and chain, a VAE with 784 pixels holds a few rows of pixels, and twice the chains hold twice that."""
    pair = bernoulli_vae(784, latent_dim=3, hidden=(100,))
    x = (torch.rand(4, 784) > 0.5).float()
    four, eight = (verb._Work(pair, x, chains, HMC(), "guide", None).measure() for chains in (4, 8))
    row = 784 * 4 * 4
    assert 2 * row < four["datum"].peak < 12 * row
    assert eight["datum"].peak == pytest.approx(2 * four["datum"].peak, rel=0.15)
    parameters = sum(value.numel() * 4 for value in state_of(pair).values())
    assert parameters < four["fixed"].peak < 3 * parameters


def test_a_budget_too_small_says_how_much_it_takes() -> None:
    with pytest.raises(PpvaeError, match=r"memory_budget of 1,000 bytes is too small: one datum with 4 chains"):
        quick(factor_analysis(), torch.randn(3, 3), memory_budget=1000)


def test_an_interrupt_keeps_the_finished_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, x = factor_analysis(), torch.randn(6, 3)
    sample_chunk, calls = verb.sample_chunk, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample_chunk(*args)

    monkeypatch.setattr(verb, "sample_chunk", interrupted)
    monkeypatch.setattr(verb, "data_per_chunk", lambda *args: 2)
    with pytest.raises(KeyboardInterrupt) as caught:
        quick(pair, x, num_samples=5, num_warmup=5)
    partial = caught.value.partial  # type: ignore[attr-defined]
    assert partial.unconstrained.shape == (4, 5, 4, 2)
    assert torch.equal(partial.x, x[:4])
    assert "2 of 3 chunks" in caught.value.__notes__[0]


def test_global_sites_are_held_where_they_are_told_to() -> None:
    pair, x = GlobalShift(), torch.tensor([[0.0], [3.0]])
    with pytest.raises(PairError, match=r"global latent site 'w'[\s\S]*global_sites=\"mean\""):
        quick(pair, x)
    options: dict[str, Any] = {"num_samples": 200, "num_warmup": 100, "num_leapfrog": 4}
    mean = quick(pair, x, global_sites="mean", **options)
    held = quick(pair, x, global_sites={"w": torch.tensor(-1.0)}, **options)
    for draws, w in ((mean, 2.0), (held, -1.0)):  # z | x, w ~ N((w + x) / 2, 1 / 2)
        z = draws.samples["z"]
        assert_within(z.mean((0, 1)), (w + x[:, 0]) / 2, z.flatten(0, 1).std(0) * draws.ess()["z"] ** -0.5 + 0.01)
    with pytest.raises(PairError, match=r"'v' is not a global latent site: .*w"):
        quick(pair, x, global_sites={"v": torch.tensor(0.0)})
    with pytest.raises(PairError, match=r"site 'w': expected a value of shape \[\], found \[2\]"):
        quick(pair, x, global_sites={"w": torch.zeros(2)})
    with pytest.raises(PairError, match="expected 'mean' or a mapping"):
        quick(pair, x, global_sites="median")


def test_a_discrete_latent_is_refused_by_name() -> None:
    with pytest.raises(PairError, match=r"'k' is discrete \(Bernoulli\)"):
        quick(Switch(), torch.zeros(2, 1))


def test_an_infinite_density_is_an_outcome_of_its_chains_alone() -> None:
    x = torch.tensor([[0.5], [1e30], [-0.5]])
    with pytest.warns(RuntimeWarning, match="4 of 12 chains: the density or its gradient was not finite at the start"):
        draws = quick(Blow(), x, num_samples=50, num_warmup=50)
    assert (draws.outcome == int(ChainOutcome.NO_START)).all(0).tolist() == [False, True, False]
    assert bool(draws.samples["z"][:, :, 1].isnan().all())
    assert bool(torch.isfinite(draws.samples["z"][:, :, [0, 2]]).all())
    assert bool(draws.rhat()["z"][1].isnan())
    clean = quick(Blow(), x[[0, 2]], num_samples=50, num_warmup=50)
    assert bool(clean.ok.all())


def test_a_start_that_fails_is_tried_again() -> None:
    """Where a fifth of the guide's draws have no density, every chain starts at one that has."""
    import pyro
    import pyro.distributions as dist

    class Cut(Blow):
        def model(self, x: Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
                scale = torch.where(z > -0.84, 1.0, torch.nan).unsqueeze(-1)
                pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale, validate_args=False).to_event(1), obs=x)

    pair, x = Cut(), torch.ones(50, 1)
    draws = quick(pair, x, num_samples=50, num_warmup=200, num_leapfrog=4)
    assert bool(draws.ok.all())
    assert float(draws.samples["z"].min()) > -0.84
    assert bool(draws.stats["diverging"].any())


@pytest.mark.parametrize(("good", "found"), [(10, True), (11, False)])
def test_ten_starts_are_tried(good: int, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def start_positions(*args: Any) -> Tensor:
        tries.append(1)
        return torch.full((2, 3, 1), 1.0 if len(tries) >= good else 2.0)

    monkeypatch.setattr(starts, "start_positions", start_positions)
    pair, x = FactorAnalysis(5, 1), torch.zeros(3, 5)

    def density(u: Tensor) -> Tensor:
        return torch.where(u == 1.0, u, torch.nan).sum(-1)

    state, bad = starts.start_chains(pair, x, unconstrained(pair, x), density, (), 2, "guide")
    assert len(tries) == 10
    assert bool(bad.all()) != found and bool((state.u == (1.0 if found else 0.0)).all())


def test_all_chains_divergent_is_said() -> None:
    with pytest.warns(RuntimeWarning, match="12 of 12 chains: every trajectory diverged"):
        draws = quick(
            factor_analysis(),
            torch.randn(3, 3),
            kernel=HMC(5, step_size=1e4),
            num_warmup=0,
            num_samples=5,
        )
    assert (draws.outcome == int(ChainOutcome.DIVERGENT)).all()
    assert "nan" in draws.summary()


def test_zero_warmup_needs_a_step_size() -> None:
    pair, x = factor_analysis(), torch.randn(3, 3)
    with pytest.raises(PpvaeError, match=r"num_warmup=0 leaves no transition[\s\S]*step_size=0.1"):
        quick(pair, x, num_warmup=0)
    draws = quick(pair, x, num_warmup=0, num_samples=30, kernel=HMC(3, step_size=0.25))
    assert bool((draws.stats["step_size"] == 0.25).all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples: expected at least 1, found 0"),
        ({"num_warmup": -1}, "num_warmup: expected at least 0, found -1"),
        ({"num_chains": 0}, "num_chains: expected at least 1, found 0"),
        ({"num_leapfrog": 0}, "num_leapfrog of at least 1, found 0"),
        ({"num_leapfrog": 3, "kernel": HMC(4)}, "both given"),
        ({"start": "origin"}, "start: expected 'guide' or 'prior', found 'origin'"),
        ({"compile": "jit"}, "compile: expected"),
        ({"device": "abacus"}, "unknown device 'abacus'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        quick(factor_analysis(), torch.randn(3, 3), **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: HMC(target_acceptance=1.0),
        lambda: HMC(jitter=1.0),
        lambda: HMC(step_size=0.0),
        lambda: ChEES(initial_leapfrog=0),
        lambda: ChEES(initial_leapfrog=6, max_leapfrog=5),
        lambda: ChEES(learning_rate=0.0),
    ],
)
def test_bad_kernels_are_refused(make: Any) -> None:
    with pytest.raises(PpvaeError, match=r"expected|below"):
        make()


def test_the_structure_is_that_of_the_pair() -> None:
    """Sites that are not latent and local do not appear among the samples."""
    pair = GlobalShift()
    assert [info.name for info in structure(pair, torch.zeros(2, 1)).local_latents] == ["z"]
    draws = quick(pair, torch.zeros(2, 1), global_sites="mean", num_samples=30, num_warmup=50)
    assert set(draws.samples) == {"z"}


def test_progress_shows_acceptance_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    sample_posterior(factor_analysis(), torch.randn(3, 3), num_samples=10, num_warmup=15, compile="eager")
    assert capsys.readouterr().err == ""  # a file has a line every thirty seconds
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sample_posterior(factor_analysis(), torch.randn(3, 3), num_samples=10, num_warmup=15, compile="eager")
    assert "acceptance=" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sharp_asymmetric_posterior_in_many_dimensions(float64: torch.dtype) -> None:
    """Twenty factors whose scales span a thousand, from the prior: mass and trajectory have to be found."""
    torch.manual_seed(1)
    loading = torch.randn(40, 20) * torch.logspace(-1, 2, 20)
    pair = FactorAnalysis.from_parameters(torch.zeros(40), loading, torch.ones(40))
    x = simulate(pair, torch.zeros(10, 40)).observed["x"].detach()
    draws = quick(
        pair,
        x,
        kernel=ChEES(max_leapfrog=400),
        start="prior",
        num_samples=1000,
        num_warmup=1500,
        num_chains=8,
    )
    posterior = pair.posterior(x)
    error = posterior.variance.sqrt() * draws.ess()["z"] ** -0.5
    assert_within(draws.samples["z"].mean((0, 1)), posterior.mean.detach(), error.detach())


def test_a_program_that_cannot_be_recorded_is_sampled_eagerly() -> None:
    """z | x ~ N(x / 2, 1 / 2), by a program that reads a number back at every run."""

    class ReadsBack(ModelGuidePair):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

        def model(self, x: torch.Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                pyro.sample("x", dist.Normal(z, self.scale if float(z.sum()) < 1e9 else 2.0), obs=x[:, 0])

        def guide(self, x: torch.Tensor, num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(x[:, 0] / 2, self.scale))

    x = torch.tensor([[1.0], [-2.0]])
    draws = sample_posterior(
        ReadsBack(), x, num_samples=100, num_warmup=50, kernel=HMC(3), seed=1, compile="eager", progress=False
    )
    z = draws.samples["z"]
    error = z.var((0, 1)).sqrt() / draws.ess()["z"].sqrt()
    assert bool(((z.mean((0, 1)) - x[:, 0] / 2).abs() < 4 * error).all())
