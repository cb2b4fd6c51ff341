"""Annealed importance sampling, and the sandwich."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.evidence import EvidenceContract
from contracts.evidence_oracles import DiscreteLatent, Explosive, factor_analysis
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, PpvaeError
from ppvae.data import Dataset, load
from ppvae.inference.evidence import (
    AIS,
    BDMC,
    EvidenceMethod,
    ImportanceSampling,
    SimulatedData,
    annealing,
    bdmc,
    log_evidence,
    simulate_data,
)
from ppvae.inference.evidence.annealing import Path, anneal, temperatures, tune
from ppvae.inference.evidence.run import prepare
from ppvae.models import FactorAnalysis


class TestAISFromGuide(EvidenceContract):
    def make(self) -> EvidenceMethod:
        return AIS(30, 48, num_leapfrog=3)

    def brief(self) -> EvidenceMethod:
        return AIS(4, 16, num_leapfrog=1)

    def test_a_guide_without_a_density(self) -> None:
        def model(x: Tensor, num_data: int | None = None) -> None:
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

        x = torch.randn(5, 2)
        guide = AutoNormal(model)
        guide(x)
        pair = ModelGuidePair.from_callables(model, guide)
        with pytest.raises(PairError, match=r"needs log q\(z \| x\) at any z(?s:.*)AIS\(start='prior'\)"):
            self.run(pair, x, method=AIS(4, 4))
        exact = Explosive.log_evidence_of(x)
        found = self.run(pair, x, method=AIS(30, 16, start="prior", num_leapfrog=3))
        assert bool(((found.log_evidence - exact).abs() < 7 * found.standard_error).all())
        # Its parameters belong to these five data, all at once; untrained, it is a bad proposal, from below.
        found = self.run(pair, x, method=ImportanceSampling(500))
        assert bool((found.log_evidence < exact).all())
        assert found.worst_pareto_k > 0.7


class TestAISFromPrior(EvidenceContract):
    trusted = False  # so few temperatures from the prior are a loose bound, which it says

    def make(self) -> EvidenceMethod:
        return AIS(60, 48, start="prior", schedule="geometric", num_leapfrog=3)

    def brief(self) -> EvidenceMethod:
        return AIS(25, 16, start="prior", num_leapfrog=1)

    def test_more_temperatures_close_the_gap(self) -> None:
        pair, x = factor_analysis(num_data=200)
        exact = pair.log_evidence(x).detach()
        few, many = (self.run(pair, x, method=AIS(n, 4, start="prior", num_leapfrog=2)) for n in (3, 60))
        bias = [float((exact - found.log_evidence).mean()) for found in (few, many)]
        assert bias[0] > 0.5
        assert bias[1] < bias[0] / 4


class TestBDMC(EvidenceContract):
    def make(self) -> EvidenceMethod:
        return BDMC(30, 48, num_leapfrog=3)

    def brief(self) -> EvidenceMethod:
        return BDMC(4, 16, num_leapfrog=1)

    def data(self, pair: ModelGuidePair, x: Tensor) -> Any:
        return simulate_data(pair, x, len(x), seed=7)

    def data_held(self, pair: ModelGuidePair, x: Tensor, w: Tensor) -> Any:
        return simulate_data(pair, x, len(x), seed=7, global_sites={"w": w})

    def test_acceptance_and_divergences_are_of_both_directions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found: list[Any] = []

        def noted(*args: Any) -> Any:
            result = anneal(*args)
            found.append(result._replace(divergences=result.divergences + len(found) + 1))
            return found[-1]

        monkeypatch.setattr(bdmc, "anneal", noted)
        pair, x = factor_analysis(num_data=5)
        info = self.run(pair, self.data(pair, x), method=self.brief()).info
        forward, reverse = found
        torch.testing.assert_close(info["divergences"].double(), (forward.divergences + reverse.divergences).double())
        mean = (forward.acceptance + reverse.acceptance) / 2
        torch.testing.assert_close(info["acceptance"].double(), mean.double(), rtol=1e-6, atol=0)
        assert 0.3 < float(info["acceptance"].mean()) <= 1

    def troubled(self, pair: ModelGuidePair, x: Tensor) -> Any:
        z = torch.randn(x.shape)
        return SimulatedData(torch.where(x > 10, x, z + 0.5 * torch.randn(x.shape)), {"z": z})

    def observed(self, data: Any) -> Tensor:
        return data.x

    def discrete(self, pair: ModelGuidePair, x: Tensor) -> Any:
        return SimulatedData(x, {"k": torch.zeros(len(x))})

    def changed(self, data: Any, row: int) -> Any:
        other = data.x.clone()
        other[row] += 1.5
        return SimulatedData(other, data.latents)

    def test_sandwich(self) -> None:
        pair, x = factor_analysis(shift=0.8, stretch=1.4)
        data = simulate_data(pair, x, 400, seed=5)
        found = self.run(pair, data, method=BDMC(4, 4, num_leapfrog=1))
        exact = pair.log_evidence(data.x).detach()
        below, above = found.log_evidence - exact, found.upper - exact
        for value, sign in ((below, 1), (above, -1)):
            assert sign * float(value.mean()) < 5 * float(value.std()) / 400**0.5
        width = found.info["width"]
        torch.testing.assert_close(width, found.upper - found.log_evidence, rtol=1e-4, atol=1e-4)
        # Wide enough here that the two sides are told apart: the width is more than its error.
        assert float(width.mean()) > 5 * float(width.std()) / 400**0.5

    def test_real_data_are_refused(self) -> None:
        pair, x = factor_analysis(num_data=3)
        with pytest.raises(DataError, match=r"valid on simulated data only(?s:.*)simulate_data\(pair"):
            log_evidence(pair, x, method=BDMC(), progress=False)


def test_simulated_data_are_from_the_model() -> None:
    pair, x = factor_analysis(dtype=torch.float64)
    data = simulate_data(pair, x, 4000, seed=1)
    assert len(data) == 4000
    marginal = pair.marginal()
    centred = (data.x - marginal.mean) @ torch.linalg.cholesky(marginal.covariance_matrix).inverse().mT
    assert abs(float(centred.detach().square().mean()) - 1) < 5 * (2 / centred.numel()) ** 0.5
    residual = (data.x - pair.loc - data.latents["z"] @ pair.loading.mT) / pair.scale
    assert abs(float(residual.detach().square().mean()) - 1) < 5 * (2 / residual.numel()) ** 0.5


def test_simulated_mappings() -> None:
    class Regression(ModelGuidePair):
        def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("y", dist.Normal(z * x["covariate"], 0.1).to_event(1), obs=x["y"])

        def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
            with self.data_plate(x, num_data):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).expand((len(x["y"]), 1)).to_event(1))

    pair, like = Regression(), {"covariate": torch.tensor([[10.0], [-10.0]]), "y": torch.zeros(2, 1)}
    data = simulate_data(pair, like, 6)
    assert isinstance(data.x, dict)
    assert data.x["covariate"].flatten().tolist() == [10, -10] * 3
    # Whatever data go in elsewhere go in here: a Dataset, arrays in another precision, earlier simulated data.
    for same in (Dataset(like), {key: value.double().numpy() for key, value in like.items()}, data):
        assert torch.equal(simulate_data(pair, same, 6).latents["z"], data.latents["z"])
    assert float((data.x["y"] - data.latents["z"] * data.x["covariate"]).abs().max()) < 1
    with pytest.raises(PairError, match=r"observed site 'y': expected a value that stands in the batch"):
        simulate_data(ModelGuidePair.from_callables(_log_of_u, _no_latent), {"u": torch.ones(2, 1)})
    with pytest.raises(DataError, match=r"num_data of at least 1"):
        simulate_data(pair, like, 0)


def _no_latent(x: dict[str, Tensor]) -> None:
    pass


def _log_of_u(x: dict[str, Tensor]) -> None:
    with pyro.plate("data", len(x["u"]), dim=-1):
        pyro.sample("y", dist.Normal(0.0, torch.ones(1)).to_event(1), obs=x["u"].log())


def _last_step_alone(x: Tensor) -> None:
    """A walk that reads its last step from x, where nothing that is drawn arrives."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x_0", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("x_1", dist.Normal(x[:, 0] + z, 1.0), obs=x[:, 1])


def _walk(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        first = pyro.sample("x_0", dist.Normal(z, 1.0), obs=x[:, 0])
        pyro.sample("x_1", dist.Normal(first + z, 1.0), obs=x[:, 1])


def _of_walk(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)), 0.7))


def test_simulated_steps() -> None:
    """Sites that observe columns of the data: each draw stands where its site reads it, and reaches the next."""
    data = simulate_data(ModelGuidePair.from_callables(_walk, _of_walk), torch.full((3, 2), 50.0), 4000)
    assert isinstance(data.x, Tensor)
    z, x = data.latents["z"], data.x
    for step in (x[:, 0] - z, x[:, 1] - x[:, 0] - z):
        assert abs(float(step.mean())) < 4 / 4000**0.5 and abs(float(step.std()) - 1) < 0.05
    with pytest.raises(PairError, match=r"'x_1' depends on observed values that the model reads from x"):
        simulate_data(ModelGuidePair.from_callables(_last_step_alone, _of_walk), torch.zeros(3, 2))


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "geometric"])
def test_temperatures(schedule: Any) -> None:
    betas = temperatures(schedule, 50)
    assert len(betas) == 51
    assert betas[0] == 0
    assert betas[-1] == 1
    assert bool((betas.diff() > 0).all())


def test_weights_of_a_path_without_transitions_are_importance_weights() -> None:
    """With one temperature, forward weights are p / q at draws from the guide: annealing adds up to that."""
    pair, x = factor_analysis(num_data=4, dtype=torch.float64)
    run, data = prepare(pair, x, 0, "cpu", "graph", 2**28, None)
    with torch.no_grad():
        one = AIS(1, 200).path(run)
        one.others = 0
        torch.manual_seed(1)
        u = one.draw(data, 200)
        tuning = annealing.Tuning(torch.full((1, 1, 4), 0.3, dtype=u.dtype), torch.ones(1, 1, 4, 3, dtype=u.dtype))
        torch.manual_seed(1)
        found = anneal(one, data, tuning, 200, 0.0)
        posterior = pair.posterior(data)
        guide_loc = posterior.mean + pair.guide_shift * posterior.scale_tril.sum(-1)
        guide = dist.MultivariateNormal(guide_loc, scale_tril=pair.guide_stretch * posterior.scale_tril)
        expected = pair.log_evidence(data) + posterior.log_prob(u) - guide.log_prob(u)
    torch.testing.assert_close(found.log_weights, expected, rtol=1e-8, atol=1e-8)


def test_the_pilot_finds_step_sizes_and_variances() -> None:
    pair, x = factor_analysis(num_data=6)
    run, data = prepare(pair, x, 0, "cpu", "graph", 2**28, None)
    options: dict[str, Any] = {"start": "prior", "schedule": "sigmoid", "num_leapfrog": 4, "target_acceptance": 0.8}
    path = Path(run, num_temperatures=150, **options)
    with torch.no_grad():
        torch.manual_seed(0)
        tuning = tune(path, data, 16, 0.0)
        found = anneal(path, data, tuning, 32, 0.0)
        exact = pair.posterior(data).variance
    assert bool(((found.acceptance - 0.8).abs() < 0.1).all())
    ratio = tuning.inverse_mass[-1] / exact
    assert 0.5 < float(ratio.log().mean().exp()) < 2
    assert float(found.divergences.max()) < 0.02 * 32 * 150


def test_a_path_that_adapts_or_lacks_a_term_is_found() -> None:
    """The contract has power: a path whose far end is not the joint density misses the truth."""

    class Wrong(AIS):
        def path(self, run: Any) -> Path:
            path = super().path(run)
            path.betas = path.betas * 0.98
            return path

    pair, x = factor_analysis()
    exact = pair.log_evidence(x).detach()
    right, wrong = (log_evidence(pair, x, method=kind(40, 16, num_leapfrog=3), progress=False) for kind in (AIS, Wrong))
    assert abs(float((right.log_evidence - exact).mean())) < 5 * right.mean_standard_error
    assert abs(float((wrong.log_evidence - exact).mean())) > 5 * wrong.mean_standard_error


@pytest.mark.parametrize("method", [AIS, BDMC])
def test_options(method: Any) -> None:
    with pytest.raises(PpvaeError, match=r"num_temperatures of at least 1, found 0"):
        method(0)
    with pytest.raises(PpvaeError, match=r"unknown start 'guid': did you mean 'guide'"):
        method(start="guid")
    with pytest.raises(PpvaeError, match=r"unknown schedule 'sigmoidal': did you mean 'sigmoid'"):
        method(schedule="sigmoidal")


def test_discrete_latents_name_the_site() -> None:
    with pytest.raises(PairError, match=r"latent site 'k' is discrete(?s:.*)sum_out(?s:.*)ImportanceSampling"):
        log_evidence(DiscreteLatent(), torch.randn(3, 1), method=AIS(), progress=False)


@pytest.mark.slow
def test_digits() -> None:
    """Factor analysis of the digits, all 300 held-out data: the mean absolute error is within 0.02 nat."""
    digits = load("digits")
    model = FactorAnalysis.maximum_likelihood(digits.x, 5)
    pair, x = model.with_wrong_guide(shift=0.3, stretch=1.2), digits.test.x
    exact = pair.log_evidence(x).detach()
    found = log_evidence(pair, x, method=AIS(500), progress=False)
    assert len(found) == 300
    assert float((found.log_evidence - exact).abs().mean()) < 0.02
    prior = log_evidence(pair, x, method=AIS(1000, start="prior"), progress=False)
    assert abs(prior.mean - float(exact.double().mean())) < 0.02
