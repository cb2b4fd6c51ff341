"""Estimators side by side: the ladder, exactness, refusals, the plates, Pyro's own classes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.elbo_oracles import ReplayPair, binary_vae, linear_vae, log_evidence, some_data
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError, PpvaeError, draw
from ppvae.distributions import DiagonalNormal
from ppvae.inference import elbo
from ppvae.inference.elbo.vimco import _learning_signal
from ppvae.models import FactorAnalysis
from ppvae.networks import MLP


def mean_and_error(estimator: elbo.ELBO, pair: ModelGuidePair, x: Tensor, repeats: int) -> tuple[float, float]:
    values = estimator.terms(pair, x.repeat(repeats, 1)).local.detach().reshape(repeats, len(x)).mean(1)
    return float(values.mean()), float(values.std()) / repeats**0.5


def test_the_ladder(float64: torch.dtype) -> None:
    """ELBO < Rényi < IWAE-5 < IWAE-50 <= log p, with a guide that is wrong by a known amount."""
    model = FactorAnalysis(4, 2)
    pair, x = model.with_wrong_guide(shift=0.8, stretch=1.4), torch.randn(5, 4)
    truth = model.log_evidence(x).mean().item()
    ladder = [
        elbo.TraceELBO(),
        elbo.RenyiELBO(0.5, num_particles=5),
        elbo.ImportanceWeightedELBO(5),
        elbo.ImportanceWeightedELBO(50),
    ]
    found = [mean_and_error(estimator, pair, x, 2000) for estimator in ladder]
    assert found[0][0] == pytest.approx(truth - pair.guide_divergence(), abs=4 * found[0][1])
    for (low, low_error), (high, high_error) in itertools.pairwise(found):
        assert high - low > 4 * (low_error**2 + high_error**2) ** 0.5
    assert found[-1][0] <= truth + 4 * found[-1][1]


@pytest.mark.parametrize(
    "estimator", [elbo.StickingTheLandingELBO(num_particles=3), elbo.DoublyReparameterizedELBO(3)], ids=repr
)
def test_no_gradient_of_an_exact_guide(estimator: elbo.ELBO, float64: torch.dtype) -> None:
    model = FactorAnalysis(4, 2)
    pair, x = model.with_posterior(model.exact_encoder()), torch.randn(5, 4)
    encoder = list(pair.encoder.parameters())
    for seed in range(5):
        torch.manual_seed(seed)
        found = torch.autograd.grad(estimator.terms(pair, x).objective(), encoder)
        assert max(float(g.abs().max()) for g in found) < 1e-9
    noisy = torch.autograd.grad(elbo.TraceELBO(num_particles=3).terms(pair, x).objective(), encoder)
    assert max(float(g.abs().max()) for g in noisy) > 1e-2


def test_relations_under_one_seed() -> None:
    """IWAE-1 is the ELBO, Rényi at 0 is IWAE, VIMCO and DReG have IWAE's value."""
    pair, x = linear_vae(), some_data()

    def value(estimator: elbo.ELBO) -> Tensor:
        torch.manual_seed(1)
        return estimator.terms(pair, x).local.detach()

    same = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(value(elbo.ImportanceWeightedELBO(1)), value(elbo.TraceELBO()), **same)
    iwae = value(elbo.ImportanceWeightedELBO(4))
    for other in (
        elbo.RenyiELBO(0.0, num_particles=4),
        elbo.VIMCO(4),
        elbo.DoublyReparameterizedELBO(4),
        elbo.ReweightedWakeSleep(4),
    ):
        torch.testing.assert_close(value(other), iwae, **same)
    near = value(elbo.RenyiELBO(1 - 1e-7, num_particles=4))
    torch.testing.assert_close(near, value(elbo.TraceELBO(num_particles=4)), rtol=0, atol=1e-5)
    trace = value(elbo.TraceELBO(num_particles=4))
    torch.testing.assert_close(value(elbo.StickingTheLandingELBO(num_particles=4)), trace, **same)
    torch.testing.assert_close(value(elbo.ScoreFunctionELBO(num_particles=4)), trace, **same)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (elbo.TraceELBO(num_particles=3), pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True)),
        (
            elbo.TraceMeanFieldELBO(num_particles=3),
            pyro.infer.TraceMeanField_ELBO(num_particles=3, vectorize_particles=True),
        ),
    ],
    ids=["trace", "mean field"],
)
def test_equal_to_pyro(ours: elbo.ELBO, theirs: pyro.infer.ELBO) -> None:
    pair, x = linear_vae(), some_data()
    theirs.loss(pair.model, pair.guide, x, 30)  # the first call counts the plates, with draws of its own
    torch.manual_seed(1)
    expected = theirs.loss(pair.model, pair.guide, x, 30)
    torch.manual_seed(1)
    assert ours.loss(pair.model, pair.guide, x, 30) == pytest.approx(expected, rel=1e-12)


def test_the_minibatch_factor_stands_outside_the_logarithm() -> None:
    """Where pyro.infer.RenyiELBO differs: its value with N = 30 is not N / B times that of the batch; ours is."""
    pair, x = linear_vae(), some_data()

    def loss(estimator: pyro.infer.ELBO, num_data: int) -> float:
        torch.manual_seed(1)
        return estimator.loss(pair.model, pair.guide, x, num_data)

    ours = elbo.ImportanceWeightedELBO(8)
    theirs = pyro.infer.RenyiELBO(alpha=0.0, num_particles=8, vectorize_particles=True)
    assert loss(ours, 30) == pytest.approx(10 * loss(ours, 3), rel=1e-12)
    assert loss(theirs, 30) != pytest.approx(10 * loss(theirs, 3), rel=1e-3)


# --- plates -----------------------------------------------------------------------------------------------------


class NestedPlatePair(ModelGuidePair):
    """One latent for each of two views of a datum, the views in a plate of their own; or as one event."""

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        self.nested = nested
        self.shift = nn.Parameter(torch.tensor([0.3, -0.2]))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            if self.nested:
                with pyro.plate("views", 2, dim=-2):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    pyro.sample("x", dist.Normal(z, 0.7), obs=x.mT)
            else:
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            loc = 0.5 * x + self.shift
            if self.nested:
                with pyro.plate("views", 2, dim=-2):
                    pyro.sample("z", dist.Normal(loc.mT, 0.9))
            else:
                pyro.sample("z", dist.Normal(loc, 0.9).to_event(1))


@pytest.mark.parametrize("estimator", [elbo.ImportanceWeightedELBO(2), elbo.VIMCO(2)], ids=repr)
def test_a_plate_inside_a_datum_is_one_weight(estimator: elbo.ELBO) -> None:
    """Latents in a plate to the left of the data are one draw of a datum: the bound is that of one event."""
    x = some_data(2, 2).float()
    nested, event = (NestedPlatePair(nested=flag) for flag in (True, False))
    estimator.check(nested, x)
    found, _ = mean_and_error(estimator, nested, x, 20_000)
    expected, error = mean_and_error(estimator, event, x, 20_000)
    assert found == pytest.approx(expected, abs=6 * error)
    per_view, _ = mean_and_error(elbo.TraceELBO(), event, x, 20_000)
    assert abs(per_view - expected) > 20 * error  # power


def test_a_bound_joint_over_the_batch_is_refused(float64: torch.dtype) -> None:
    def model(x: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.5 * x, 1.0).to_event(1))

    pair = ModelGuidePair.from_callables(model, guide)
    with pytest.raises(PairError, match=r"'z' is global \(there is no data plate\).*joint over the data"):
        elbo.ImportanceWeightedELBO(5).check(pair, torch.randn(4))
    with pytest.raises(PairError, match=r"'w' is global \(outside the plate 'data'\)"):
        elbo.DoublyReparameterizedELBO(5).check(ReplayPair(with_global=True), torch.randn(4, 2))


class GlobalObservation(ModelGuidePair):
    """A global latent, seen outside the data plate as well as inside."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros_like(self.loc), 1.0))
        pyro.sample("y", dist.Normal(w, 0.8), obs=torch.full_like(w, 1.3))
        with self.data_plate(x, num_data):
            pyro.sample("x", dist.Normal(w, 0.9), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("w", dist.Normal(self.loc, 0.5))


@pytest.mark.parametrize("kl_weight", [1.0, 0.5])
def test_observations_outside_the_plate(kl_weight: float) -> None:
    """They belong to the global part, which the weight of the KL leaves alone."""
    pair, x = GlobalObservation(), torch.tensor([0.2, -0.7, 1.1], dtype=torch.float64)
    torch.manual_seed(2)
    w = draw(pair, x, 5).latents["w"].detach()
    log_y = torch.distributions.Normal(w, 0.8).log_prob(torch.tensor(1.3, dtype=torch.float64)).mean()
    kl = 0.5 * (0.4**2 + 0.5**2 - 1) - math.log(0.5)
    torch.manual_seed(2)
    terms = elbo.TraceMeanFieldELBO(num_particles=5).terms(pair, x, 30, kl_weight=kl_weight)
    torch.testing.assert_close(terms.global_.detach(), log_y - kl)
    torch.testing.assert_close(terms.objective_global.detach(), log_y - kl_weight * kl)
    seen = torch.distributions.Normal(w[:, None], 0.9).log_prob(x).mean(0)
    torch.testing.assert_close(terms.local.detach(), seen)
    torch.testing.assert_close(terms.reconstruction.detach(), seen)


def test_the_path_derivative_of_a_global_latent() -> None:
    """Sticking the landing leaves the score of global latents out as well."""
    pair, x = GlobalObservation(), torch.tensor([0.2, -0.7, 1.1], dtype=torch.float64)
    torch.manual_seed(2)
    w = draw(pair, x, 5).latents["w"].detach()
    torch.manual_seed(2)
    objective = elbo.StickingTheLandingELBO(num_particles=5).terms(pair, x, 30).objective_global
    (found,) = torch.autograd.grad(objective, [pair.loc])
    torch.testing.assert_close(found, (-w + (1.3 - w) / 0.8**2 + (w - 0.4) / 0.5**2).mean())


@pytest.mark.parametrize("baseline", ["none", "leave-one-out"])
def test_the_score_of_a_global_latent(baseline: Any) -> None:
    """It meets its own log weight in the global part, and that of every datum in the local one."""
    pair, x = GlobalObservation(), torch.tensor([0.2, -0.7, 1.1], dtype=torch.float64)
    torch.manual_seed(2)
    w = draw(pair, x, 5).latents["w"].detach()

    def normal(value: Tensor, loc: Tensor | float, scale: float) -> Tensor:
        return -0.5 * ((value - loc) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)

    own = normal(w, 0.0, 1.0) + normal(torch.full_like(w, 1.3), w, 0.8) - normal(w, 0.4, 0.5)
    of_data = normal(x, w[:, None], 0.9)
    if baseline == "leave-one-out":
        own, of_data = own - (own.sum() - own) / 4, of_data - (of_data.sum(0) - of_data) / 4
    score = (w - 0.4) / 0.5**2
    torch.manual_seed(2)
    terms = elbo.ScoreFunctionELBO(num_particles=5, baseline=baseline).terms(pair, x, 30)
    (found,) = torch.autograd.grad(terms.objective_global, [pair.loc], retain_graph=True)
    torch.testing.assert_close(found, (score * own).mean())
    (found,) = torch.autograd.grad(terms.objective_local.sum(), [pair.loc])
    torch.testing.assert_close(found, (score[:, None] * of_data).mean(0).sum())


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_guide_without_rsample_under_a_pathwise_estimator() -> None:
    with pytest.raises(PairError, match=r"TraceELBO.*'z' has a\s+Bernoulli") as caught:
        elbo.TraceELBO().check(binary_vae(), some_data())
    for remedy in ("ScoreFunctionELBO", "VIMCO", "ReweightedWakeSleep"):
        assert remedy in str(caught.value)


def test_particles() -> None:
    with pytest.raises(PpvaeError, match=r"leave-one-out[\s\S]*at least 2, found 1"):
        elbo.ScoreFunctionELBO(baseline="leave-one-out")
    with pytest.raises(PpvaeError, match=r"VIMCO.*at least 2, found 1"):
        elbo.VIMCO(1)
    with pytest.raises(PpvaeError, match="at least 1, found 0"):
        elbo.ImportanceWeightedELBO(0)


def test_renyi_of_order_one() -> None:
    with pytest.raises(PpvaeError, match=r"alpha = 1 is the ELBO itself[\s\S]*TraceELBO"):
        elbo.RenyiELBO(1.0)


def test_score_function_options() -> None:
    with pytest.raises(PpvaeError, match="did you mean 'leave-one-out'"):
        elbo.ScoreFunctionELBO(num_particles=3, baseline="leave-one")  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match=r"decay in \[0, 1\), found 1"):
        elbo.ScoreFunctionELBO(baseline="decaying-average", decay=1)


class StudentPosterior(DiagonalNormal):
    """A Student posterior: no KL between it and a normal is registered."""

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        loc, log_scale = self.head(*context)
        return dist.StudentT(5.0, loc, log_scale.exp()).to_event(1)


def test_no_registered_kl_in_strict_mode(caplog: pytest.LogCaptureFixture) -> None:
    pair, x = FactorAnalysis(3, 2).with_posterior(StudentPosterior(MLP(3, []), 2)), torch.randn(4, 3)
    with pytest.raises(PairError, match=r"'z'.*no closed form is registered[\s\S]*on_missing_kl='sample'"):
        elbo.TraceMeanFieldELBO().check(pair, x)
    sampled = elbo.TraceMeanFieldELBO(on_missing_kl="sample")
    torch.manual_seed(1)
    with caplog.at_level("WARNING"):
        value = sampled.terms(pair, x).local
    assert "samples the KL of site 'z'" in caplog.text
    torch.manual_seed(1)
    torch.testing.assert_close(value, elbo.TraceELBO().terms(pair, x).local)


def test_auxiliary_sites_under_sticking_the_landing() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    pair = ModelGuidePair.from_callables(model, pyro.infer.autoguide.AutoNormal(model))
    with pytest.raises(PairError, match=r"auxiliary[\s\S]*TraceELBO"):
        elbo.StickingTheLandingELBO().check(pair, torch.ones(3))


# --- reweighted wake-sleep ----------------------------------------------------------------------------------------


class LabelledPair(ModelGuidePair):
    """A batch with two tensors of one shape, of which one is a covariate."""

    def __init__(self, site: str, copies: bool = False) -> None:
        super().__init__()
        self.site, self.copies = site, copies
        self.gain = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x["covariate"], 1.0))
            pyro.sample(self.site, dist.Normal(z, 1.0), obs=x["seen"] + 0 if self.copies else x["seen"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.gain * x["seen"] + x["covariate"], 1.0))


def test_dreams_keep_the_covariates() -> None:
    """Sleep with a mapping batch: what the site observes is dreamt of, the covariate stays; else it is refused."""
    x = {"seen": torch.zeros(40_000, dtype=torch.float64), "covariate": torch.full((40_000,), 3.0, dtype=torch.float64)}
    estimator = elbo.ReweightedWakeSleep(1, sleep=1.0)
    for pair in (LabelledPair("seen"), LabelledPair("other"), LabelledPair("seen", copies=True)):
        estimator.check(pair, x)
        (found,) = torch.autograd.grad(estimator.terms(pair, x).objective(), [pair.gain])
        # d/dg E[-(z - g x' - c)^2 / 2] = E[(z - c) x'] - g E[x'^2] - ... with z = c + e, x' = c + e + f.
        per_datum = float(found) / 40_000
        assert per_datum == pytest.approx(1.0 - 0.4 * (9.0 + 2.0), abs=0.1)
    with pytest.raises(PairError, match=r"'other': expected a value that stands in the batch(?s:.*)sleep=0"):
        estimator.check(LabelledPair("other", copies=True), x)


@pytest.mark.parametrize(("sleep", "runs"), [(1.0, 2), (0.5, 3), (0.0, 2)])
def test_wake_sleep_runs_the_guide_no_more_than_it_must(
    sleep: float, runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the data to draw, and for a score there; on the dreams. Sleep alone wants no score at the data."""
    pair, x = linear_vae(), some_data(4, 3)
    estimator = elbo.ReweightedWakeSleep(1, sleep=sleep)
    estimator.terms(pair, x)  # its structure is found here
    seen: list[bool] = []
    original = type(pair).guide

    def guide(*args: Any, **kwargs: Any) -> None:
        seen.append(torch.is_grad_enabled())
        original(*args, **kwargs)

    monkeypatch.setattr(type(pair), "guide", guide)
    estimator.terms(pair, x)
    assert seen == [False] + [True] * (runs - 1)


def test_wake_sleep_finds_the_exact_guide() -> None:
    """Both updates of the guide lead to the exact posterior, which the linear guide can be."""
    for sleep in (0.0, 1.0):
        torch.manual_seed(0)
        pair = linear_vae()
        x = pair.likelihood(torch.randn(4000, 1, dtype=torch.float64)).sample()
        optimizer = torch.optim.Adam(pair.posterior.parameters(), lr=0.04)
        estimator = elbo.ReweightedWakeSleep(10, sleep=sleep)
        before = (log_evidence(pair, x) - elbo.TraceELBO().terms(pair, x).local).mean().item()
        for _ in range(200):
            batch = x[torch.randint(len(x), (100,))]
            optimizer.zero_grad()
            (-estimator.terms(pair, batch).objective() / 100).backward()
            optimizer.step()
        after = (log_evidence(pair, x) - elbo.TraceELBO().terms(pair, x).local).mean().item()
        assert after < 0.02 < 0.1 < before


def test_vimco_with_particles_of_zero_density() -> None:
    """Minus infinity among the log weights makes no NaN: the signal is that of the definition, computed one by one."""
    log_w = torch.tensor(
        [[0.3, -torch.inf, -0.7], [1.1, 0.4, -torch.inf], [-0.5, 0.9, -torch.inf]], dtype=torch.float64
    )
    found = _learning_signal(log_w)
    for k in range(3):
        for b in range(3):
            others = [log_w[j, b] for j in range(3) if j != k]
            replaced = torch.stack([*others, sum(others) / 2])  # type: ignore[arg-type]
            bound, baseline = (v.logsumexp(0) - math.log(3) for v in (log_w[:, b], replaced))
            expected = bound - (baseline if torch.isfinite(baseline) else 0.0)
            torch.testing.assert_close(found[k, b], expected)
    assert bool(torch.isfinite(found).all())
