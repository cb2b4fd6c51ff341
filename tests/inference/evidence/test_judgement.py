"""An estimate knows when it does not know: weights, missed modes, chains, few draws of the weights, and Auto."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.evidence_oracles import DiscreteLatent, factor_analysis
from torch import Tensor

from ppvae.core import ModelGuidePair, PpvaeError
from ppvae.inference.evidence import (
    AIS,
    RIS,
    Auto,
    BridgeSampling,
    Evidence,
    EvidenceMethod,
    ImportanceSampling,
    Outcome,
    importance,
    log_evidence,
)
from ppvae.inference.evidence.ais import _above
from ppvae.inference.evidence.annealing import judge_path
from ppvae.inference.evidence.base import Estimate
from ppvae.inference.evidence.global_latents import average
from ppvae.inference.evidence.posterior import Draws, Posterior
from ppvae.inference.evidence.probe import Probe, from_prior_against, too_few_there
from ppvae.inference.evidence.ris import judge_by_prior
from ppvae.inference.evidence.run import prepare
from ppvae.inference.evidence.weights import from_weights, gain_of_doubling, verdict

NOISE = 0.3


class Folded(ModelGuidePair):
    """z ~ N(0, 1), x ~ N(|z|, 0.3): two modes, of which the guide has the right one."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.abs(), NOISE).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            precision = 1 + NOISE**-2
            pyro.sample("z", dist.Normal(x / NOISE**2 / precision, precision**-0.5).to_event(1))


def folded(num_data: int = 8) -> tuple[Folded, Tensor, Tensor]:
    """The pair, data whose modes are far apart, and log p(x), by quadrature."""
    x = torch.linspace(1.0, 1.8, num_data, dtype=torch.float64).unsqueeze(-1)
    z = torch.linspace(-6, 6, 20_001, dtype=torch.float64)
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.abs(), NOISE).log_prob(x)
    return Folded().double(), x, log_p.logsumexp(-1) + math.log(float(z[1] - z[0]))


def run(pair: ModelGuidePair, x: Tensor, method: EvidenceMethod, seed: int = 0) -> Evidence:
    return log_evidence(pair, x, method=method, seed=seed, progress=False, compile="graph", device="cpu")


@pytest.mark.parametrize(
    "method",
    [
        ImportanceSampling(1000),
        AIS(60, 16, num_leapfrog=2),
        BridgeSampling(800, 3, num_warmup=60),
        RIS(800, 3, num_warmup=60),
    ],
)
def test_a_missed_mode_is_flagged(method: EvidenceMethod) -> None:
    pair, x, exact = folded()
    found = run(pair, x, method)
    wrong = ~((found.log_evidence - exact).abs() < 3 * found.standard_error + 1e-3)
    assert not bool((wrong & found.trusted).any())
    assert bool((found.outcome != Outcome.OK).any())


class SmallMode(ModelGuidePair):
    """z ~ 0.96 N(-2.5, 0.5) + 0.04 N(2.5, 0.5), x ~ N(z, 4): of the posterior a per cent or two in the second mode."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            parts = dist.Normal(x.new_tensor([-2.5, 2.5]), 0.5)
            z = pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(x.new_tensor([0.96, 0.04])), parts))
            pyro.sample("x", dist.Normal(z, 4.0), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))


def test_a_small_mode_where_no_chain_came_is_flagged() -> None:
    """Of 2000 draws from the prior the second mode gets eighty; their total has an error of one per cent."""
    pair, x = SmallMode().double(), torch.tensor([[-3.0], [-2.0]], dtype=torch.float64)
    means, noise = torch.tensor([-2.5, 2.5], dtype=torch.float64), torch.tensor([0.96, 0.04], dtype=torch.float64).log()
    logits = noise + dist.Normal(means, (0.25 + 16.0) ** 0.5).log_prob(x)  # [B, 2]
    precision = 1 / 0.25 + 1 / 16
    loc, scale = (means / 0.25 + x / 16) / precision, precision**-0.5
    setting, batch = prepare(pair, x, 0, "cpu", "eager", 2**28, None)
    torch.manual_seed(0)
    for both in (False, True):
        share = torch.softmax(logits, -1)[:, 1].expand(4, 100, 2) if both else torch.zeros(4, 100, 2).double()
        second = torch.rand(4, 100, 2, dtype=torch.float64) < share
        u = torch.where(second, loc[:, 1], loc[:, 0]) + scale * torch.randn(4, 100, 2, dtype=torch.float64)
        log_p = Posterior(setting).log_density(batch, u.flatten(0, 1).unsqueeze(-1)).unflatten(0, (4, 100))
        draws = Draws(u.unsqueeze(-1), log_p, torch.ones(4, 2, dtype=torch.bool), {})
        value = logits.logsumexp(-1) if both else logits[:, 0]
        zero = torch.zeros(2, dtype=torch.int64)
        found = judge_by_prior(
            Estimate(value, torch.full_like(value, 0.01), value, value, zero, {}), setting, batch, draws
        )
        assert bool((found.outcome == (Outcome.OK if both else Outcome.MISSED_MASS)).all())


def test_chains_that_seldom_cross_are_flagged() -> None:
    """Two of every hundred draws weigh e^5 times the others. Posterior draws that go there in that proportion stand;
    where fewer do, by more than three of the errors claimed, they do not; nor does chance in a smooth tail tell."""
    torch.manual_seed(0)
    second = torch.arange(5000, dtype=torch.float64) % 50 < 1
    ratio = torch.where(second, 5.0, 0.0) + 0.1 * torch.randn(5000, dtype=torch.float64)
    mass = torch.where(second, 1.5, 1.0).log()  # 0.03 of it in the second mode
    probe = Probe(mass.unsqueeze(-1), ratio.unsqueeze(-1))
    value = (mass.logsumexp(0) - math.log(5000)).reshape(1)
    for share, error, few in ((0.0, 0.004, True), (0.003, 0.004, True), (0.03, 0.004, False), (0.003, 0.02, False)):
        there = torch.arange(1000) < round(1000 * share)
        draws = torch.where(there, 5.0, 0.0).double() + 0.1 * torch.randn(1000, dtype=torch.float64)
        found = too_few_there(value, torch.tensor([error]), draws.unsqueeze(-1), probe)
        assert bool(found.all()) is few


@pytest.mark.parametrize(("draws", "probed"), [(20, {100}), (2000, {200, 400})])
def test_a_fifth_and_a_tenth_as_many_draws_test_the_sample(
    draws: int, probed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def probe(*args: Any) -> Any:
            asked.append(args[-1])
            return function(*args)

        return probe

    monkeypatch.setattr(importance, "from_prior", noting(importance.from_prior))
    monkeypatch.setattr(importance, "from_wide_guide", noting(importance.from_wide_guide))
    pair, x = factor_analysis(num_data=3)
    run(pair, x, ImportanceSampling(draws))
    assert set(asked) == probed and len(asked) == 2


def test_a_defensive_proposal_sees_both_modes() -> None:
    pair, x, exact = folded()
    plain = run(pair, x, ImportanceSampling(2000))
    assert float((plain.log_evidence - exact + math.log(2)).abs().max()) < 0.01  # one mode of two equal ones
    found = run(pair, x, ImportanceSampling(2000, defensive=0.5))
    assert found.bound == "lower"
    assert bool(found.trusted.all())
    assert bool(((found.log_evidence - exact).abs() < 5 * found.standard_error).all())
    with pytest.raises(PpvaeError, match="defensive, a share"):
        ImportanceSampling(10, defensive=1.0)


def test_a_guide_half_as_wide_is_flagged_and_the_exact_one_is_not() -> None:
    pair, x = factor_analysis(shift=0.0, stretch=0.5, dtype=torch.float64)
    assert float(run(pair, x, ImportanceSampling(500)).trusted.double().mean()) < 0.1
    exact, x = factor_analysis(shift=0.0, stretch=1.0, dtype=torch.float64)
    for draws in (2, 50, 500):
        assert bool(run(exact, x, ImportanceSampling(draws)).trusted.all())


def test_few_weights_are_judged_too() -> None:
    """Annealing has sixteen: with a spread of three nats the mean weight is far below the truth of 4.5 nats."""
    generator = torch.Generator().manual_seed(0)
    log_w = 3 * torch.randn(16, 400, generator=generator, dtype=torch.float64)
    found = from_weights(log_w)
    assert float((found.outcome == Outcome.OK).double().mean()) < 0.02
    assert bool(found.standard_error[found.effective_sample_size < 4].isnan().all())  # not "one nat at most"
    good = from_weights(0.3 * log_w / 3)
    assert bool((good.outcome == Outcome.OK).all())


def test_rounding_is_no_mass_that_was_missed() -> None:
    """Weights that are all equal have no error: a difference in the last digits is none."""
    value, zero = torch.full((2,), -3.0, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    estimate = Estimate(value, zero, value, value, torch.zeros(2, dtype=torch.int64), {})
    others = value.expand(6, 2) + torch.tensor([1e-9, 1e-3], dtype=torch.float64)
    assert _above(others, estimate).tolist() == [False, True]


def test_chains_of_a_path_are_judged_along_the_path() -> None:
    """Sixteen log-normal weights of variance s^2, twenty stretches each: the stretches tell s^2, the weights do not."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(21, 16, 4000, generator=generator, dtype=torch.float64)
    for variance, share in ((2.0, 0.0), (0.3, 1.0)):
        stretches = (variance / 78) ** 0.5 * (noise[1:] + noise[:-1])  # neighbours are correlated
        alone = from_weights(stretches.sum(0) - variance / 2)  # of mean one
        found = judge_path(alone, stretches)
        told = float((found.outcome == Outcome.OK).double().mean())
        assert abs(told - share) < 0.005
        assert float(found.info["log_weight_variance"].mean()) == pytest.approx(variance, rel=0.05)
        by_weights = (alone.outcome == Outcome.OK) | (alone.effective_sample_size >= 0.6 * 16)
        if share == 0.0:
            assert float(by_weights.double().mean()) > 0.01
            lucky = found.log_evidence[by_weights] / alone.standard_error[by_weights]
            assert float(lucky.square().mean().sqrt()) > 1.5  # equal by chance where the large weights are missing
        else:
            scaled = found.log_evidence / found.standard_error
            assert 0.9 < float(scaled.square().mean().sqrt()) < 1.1
    two_modes = torch.zeros(10, 16, 1, dtype=torch.float64)
    two_modes[:, :3] = 0.3  # three chains in a mode of larger weights
    assert int(judge_path(from_weights(two_modes.sum(0)), two_modes).outcome) == Outcome.LOOSE


def test_gain_of_doubling_is_the_bias() -> None:
    """At weights of standard deviation s, L_K lies s^2 / 2K below, and L_{K/2} twice as far."""
    s, draws = 0.5, 50
    log_w = s * torch.randn(draws, 40_000, dtype=torch.float64)
    gain = gain_of_doubling(log_w)
    assert bool((gain >= -1e-12).all())
    expected = math.expm1(s * s) / (2 * draws)
    assert abs(float(gain.mean()) - expected) < 5 * float(gain.std()) / 200 + 0.1 * expected


def test_a_density_wider_than_its_draws_is_flagged() -> None:
    """The reciprocal average lacks what q has beyond the draws; its weights are bounded by what was seen."""
    pair, x = factor_analysis(shift=0.0, stretch=2.5, dtype=torch.float64, num_data=20)
    found = run(pair, x, RIS(320, 3, "encoder", num_warmup=60, trust=True))
    assert not bool(found.trusted.any())
    assert float(found.info["uncovered"].min()) > 0.02
    fine, x = factor_analysis(shift=0.0, stretch=0.8, dtype=torch.float64, num_data=20)
    found = run(fine, x, RIS(320, 3, "encoder", num_warmup=60))
    assert float(found.info["uncovered"].max()) < 0.02
    assert float(found.info["rhat"].max()) < 1.3 and float(found.info["ess"].min()) > 25


@pytest.mark.parametrize("count", [5, 10])
def test_few_draws_of_the_weights(count: int) -> None:
    """p(x | w_s) log-normal of spread 0.8 and mean 1: the log of an average of few is low, and is corrected."""
    generator, spread, trials = torch.Generator().manual_seed(2), 0.5, 3000
    log_p = spread * torch.randn(count, trials, generator=generator, dtype=torch.float64) - 0.5 * spread**2
    zero = torch.zeros(trials, dtype=torch.float64)
    codes = zero.long()
    parts = [
        Evidence(row, zero, zero, zero, "exact", codes, "given", info={"acceptance": zero + k, "rhat": zero + k})
        for k, row in enumerate(log_p)
    ]
    found = average(parts, {})
    plain, corrected = float(found.info["uncorrected"].mean()), float(found.log_evidence.mean())
    assert plain < -0.5 * spread**2 / (2 * count)
    assert abs(corrected) < 0.4 * abs(plain)
    assert found.bound == "consistent"
    beyond = ((found.log_evidence.abs() > 3 * found.standard_error) & found.trusted).double().mean()
    assert float(beyond) < 0.05
    assert float(found.info["acceptance"][0]) == (count - 1) / 2  # of all draws, not of the first
    assert float(found.info["rhat"][0]) == count - 1


def test_auto_does_as_much_as_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [(ImportanceSampling(1000), 1300.0), (AIS(60, 16, num_leapfrog=2), 9e3)]
    monkeypatch.setattr(Auto, "_ladder", small)
    exact, x = factor_analysis(shift=0.0, stretch=1.0, dtype=torch.float64, num_data=6)
    found = run(exact, x, Auto())
    assert found.info["stage"].tolist() == [0.0] * 6
    assert found.info["stages"][0] == "ImportanceSampling(num_samples=1000, defensive=0.0)"
    wrong, x = factor_analysis(shift=0.0, stretch=0.5, dtype=torch.float64, num_data=6)
    first = run(wrong, x, Auto(budget=2000))
    assert len(first.info["stages"]) == 1
    found = log_evidence(wrong, x, method="auto", progress=False, device="cpu")
    assert found.bound == "consistent"
    assert float(found.info["stage"].max()) == 1
    good = found.trusted
    assert bool(good.any())
    error = (found.log_evidence - wrong.log_evidence(x).detach()).abs()
    assert bool((error[good] < 5 * found.standard_error[good]).all())
    discrete = run(DiscreteLatent(), torch.randn(4, 1), Auto())
    assert all("ImportanceSampling" in stage for stage in discrete.info["stages"])
    with pytest.raises(PpvaeError, match="positive target_error"):
        Auto(target_error=0.0)


def test_auto_ends_with_annealing_from_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no guide that knows both modes; its path is not that of annealing from the guide, in the same run."""
    from_guide, from_prior = AIS(60, 16, num_leapfrog=3), AIS(60, 16, num_leapfrog=3, start="prior")
    monkeypatch.setattr(Auto, "_ladder", [(ImportanceSampling(200), 2e2), (from_guide, 1e4), (from_prior, 1e4)])
    pair, x, exact = folded(20)
    found = run(pair, x, Auto(target_error=0.2))
    assert float((found.info["stage"] == 2).double().mean()) > 0.4
    error, ok = (found.log_evidence - exact).abs(), found.trusted
    assert float(ok.double().mean()) > 0.8
    assert float((error[ok] / found.standard_error[ok]).square().mean().sqrt()) < 1.5


@pytest.mark.parametrize(
    ("ess", "k", "outcome"),
    [
        (290.0, 0.1, Outcome.OK),  # light tails need a hundred
        (99.0, 0.1, Outcome.LOOSE),
        (290.0, 0.4, Outcome.LOOSE),  # heavier ones three hundred
        (301.0, 0.4, Outcome.OK),
        (301.0, 0.6, Outcome.LOOSE),
        (301.0, 0.8, Outcome.UNRELIABLE),
        (3100.0, 0.8, Outcome.OK),  # three draws of ten: k is noise
    ],
)
def test_the_verdict_on_ten_thousand_draws(ess: float, k: float, outcome: Outcome) -> None:
    assert int(verdict(10_000, torch.tensor([ess]), torch.tensor([k]))) == outcome


class Absent(ModelGuidePair):
    """z ~ N(0, 30), masked out of every datum: where the prior's draws of it lie must not matter."""

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 30.0).mask(x[:, 0] > 1))
            pyro.sample("x", dist.Normal(x.new_zeros(len(x)), 1.0), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x[:, 0] * 0, 1.0).mask(x[:, 0] > 1))


def test_what_is_masked_out_is_probed_where_chains_sample_it() -> None:
    setting, batch = prepare(Absent(), torch.zeros(2, 1), 0, "cpu", "eager", 2**28, None)
    torch.manual_seed(0)
    probe = from_prior_against(setting, batch, 2000, lambda u: u.square().sum(-1))
    # log N(x) + log N(u) - u^2, at u ~ N(0, 1): -log(2 pi) - 3/2 in the mean, and -1350 at draws from the prior
    assert float(probe.log_ratio.mean()) == pytest.approx(-math.log(2 * math.pi) - 1.5, abs=0.15)
    assert torch.allclose(probe.log_weights, probe.log_weights.new_tensor(-0.5 * math.log(2 * math.pi)))
