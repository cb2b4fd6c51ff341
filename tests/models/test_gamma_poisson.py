"""The gamma-Poisson model: closed forms against scipy and quadrature, and its answers from the methods of the suite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from contracts.exact_twins import gradients, log_density, scramble
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, check_pair, draw, log_joint, simulate
from ppvae.distributions import Reparameterized
from ppvae.inference import elbo, log_evidence, sample_posterior
from ppvae.inference.evidence import AIS, BridgeSampling, ImportanceSampling
from ppvae.models import GammaPoisson
from ppvae.networks import MLP

DATA = 10


def model_of_three() -> GammaPoisson:
    return GammaPoisson.from_parameters(2.5, 0.5, [0.7, 1.6, 0.2])


def counts_of(pair: GammaPoisson, num_data: int = DATA) -> dict[str, Tensor]:
    """Drawn from the model under exposures that differ tenfold."""
    torch.manual_seed(5)
    exposure = torch.linspace(0.3, 3.0, num_data)
    like = {"x": torch.zeros(num_data, pair.data_dim), "exposure": exposure}
    return {"x": simulate(pair, like).observed["x"].detach(), "exposure": exposure}


class TestGammaPoisson(PairContract):
    def make_pair(self) -> ModelGuidePair:
        pair = GammaPoisson(3, posterior=Reparameterized("gamma", MLP(3, [4]), 1))
        scramble(pair, 0.2)
        return pair

    def make_data(self) -> Tensor:
        return torch.poisson(torch.full((6, 3), 2.0))


def test_evidence_in_one_dimension_is_scipys_negative_binomial(float64: torch.dtype) -> None:
    pair = GammaPoisson.from_parameters(2.5, 0.5, [1.7])
    x = torch.tensor([0.0, 1, 5, 30, 400])[:, None]
    for exposure in (0.1, 1.0, 50.0):
        found = pair.log_evidence({"x": x, "exposure": torch.full((5,), exposure)}).detach()
        expected = scipy.stats.nbinom.logpmf(x[:, 0], 2.5, 0.5 / (0.5 + 1.7 * exposure))
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-9, atol=1e-9)


def test_evidence_and_posterior_equal_quadrature(float64: torch.dtype) -> None:
    pair = model_of_three()
    data = counts_of(pair, 5)
    data = {name: value.double() for name, value in data.items()}
    evidence, exact = pair.log_evidence(data).detach(), pair.posterior(data)
    for b in range(5):
        x, rates = data["x"][b].numpy(), float(data["exposure"][b]) * pair.loading.detach().numpy()

        def joint(z: float, power: int = 0, x: Any = x, rates: Any = rates) -> float:
            return float(
                z**power * scipy.stats.gamma.pdf(z, 2.5, scale=2) * scipy.stats.poisson.pmf(x, rates * z).prod()
            )

        total, mean = (scipy.integrate.quad(joint, 0, 200, args=(power,), epsabs=0, limit=200)[0] for power in (0, 1))
        assert float(evidence[b]) == pytest.approx(np.log(total), abs=1e-7)
        assert float(exact.mean[b, 0].detach()) == pytest.approx(mean / total, rel=1e-7)


def test_the_model_program_and_the_closed_forms_are_one(float64: torch.dtype) -> None:
    pair = model_of_three()
    data = {name: value.double() for name, value in counts_of(pair).items()}
    drawn = draw(pair, data, 3)
    local = log_joint(pair, data, drawn.latents).local
    torch.testing.assert_close(local - drawn.log_q, pair.log_evidence(data).expand(3, DATA))
    first = {"z": drawn.latents["z"][0]}
    torch.testing.assert_close(log_density(pair, data, first), local[0].detach())
    bare = data["x"]
    ones = {"x": bare, "exposure": torch.ones(DATA, 1)}
    assert torch.equal(pair.log_evidence(bare), pair.log_evidence(ones))
    assert all(bool(g.abs().sum() > 0) for g in gradients(pair.log_evidence(data), pair))


def test_the_exact_guide_makes_the_bound_the_evidence(float64: torch.dtype) -> None:
    pair = model_of_three()
    data = {name: value.double() for name, value in counts_of(pair).items()}
    check_pair(pair, data)
    for bound in (elbo.TraceELBO(), elbo.ImportanceWeightedELBO(3)):
        torch.testing.assert_close(bound.terms(pair, data).local, pair.log_evidence(data))


def test_a_guide_of_its_own_shares_the_parameters() -> None:
    pair = model_of_three()
    other = pair.with_posterior(Reparameterized("gamma", MLP(3, [4]), 1))
    assert other.log_loading is pair.log_loading and other.encoder is not None
    x = counts_of(pair)["x"]
    assert bool((elbo.TraceELBO().terms(other, x).local < pair.log_evidence(x) + 5).all())


class Wide(ModelGuidePair):
    """The twin's model under a Gamma of half the posterior's concentration and rate: its mean, twice its variance."""

    def __init__(self, twin: GammaPoisson) -> None:
        super().__init__()
        self.twin = twin

    def model(self, x: Any, num_data: int | None = None) -> None:
        self.twin.model(x, num_data)

    def guide(self, x: Any, num_data: int | None = None) -> None:
        exact: Any = self.twin.posterior(x)
        with self.data_plate(x, num_data):
            halves = (0.5 * value.detach() for value in (exact.base_dist.concentration, exact.base_dist.rate))
            pyro.sample("z", dist.Gamma(*halves).to_event(1))


@pytest.mark.parametrize(
    "method",
    [ImportanceSampling(1500), AIS(num_temperatures=60), pytest.param(BridgeSampling(), marks=pytest.mark.slow)],
    ids=lambda method: type(method).__name__,
)
def test_every_method_gives_the_exact_evidence(method: Any) -> None:
    twin = model_of_three()
    data = counts_of(twin)
    found = log_evidence(Wide(twin), data, method=method, seed=1, progress=False)
    score = (found.log_evidence - twin.log_evidence(data).detach()) / found.standard_error
    assert bool((found.outcome == 0).all())
    assert float(score.abs().max()) < 4
    assert float(found.standard_error.max()) < 0.2


def test_hmc_on_the_positive_latent_has_the_gammas_moments() -> None:
    twin = model_of_three()
    data = counts_of(twin)
    draws = sample_posterior(Wide(twin), data, num_samples=250, num_warmup=120, num_chains=4, seed=1, progress=False)
    values = draws.samples["z"].double()
    assert bool((values > 0).all())
    exact = twin.posterior(data)
    mean, variance = exact.mean.detach(), exact.variance.detach()
    score = (values.mean(1).mean(0) - mean) / (values.mean(1).std(0) / 2).clamp_min(0.03 * variance.sqrt())
    assert float(score.square().mean().sqrt()) < 2
    ratio = values.flatten(0, 1).var(0) / variance
    assert bool(((ratio > 0.7) & (ratio < 1.4)).all())


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: GammaPoisson(0), PairError, "data_dim of at least 1, found 0"),
        (
            lambda: GammaPoisson(3, posterior=Reparameterized("gamma", MLP(3, []), 2)),
            PairError,
            r"\(1,\), found \(2,\)",
        ),
        (lambda: GammaPoisson.from_parameters(1.0, [1.0], [1.0]), PairError, r"found \[\], \[1\] and \[1\]"),
        (lambda: GammaPoisson.from_parameters(1.0, -1.0, [1.0]), PairError, "a positive rate, found a minimum of -1"),
        (lambda: GammaPoisson(3).log_evidence(torch.ones(4, 2)), DataError, r"D = 3, found \[4, 2\]"),
        (
            lambda: GammaPoisson(3).posterior({"x": torch.ones(4, 3), "exposure": torch.ones(3)}),
            DataError,
            r"exposure: expected one number for each datum, \[4\] or \[4, 1\], found \[3\]",
        ),
        (lambda: check_pair(GammaPoisson(2), torch.full((4, 2), 0.5)), PairError, "support of its likelihood"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()
