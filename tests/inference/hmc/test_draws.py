"""What sampling returns, and its way to ArviZ."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair
from ppvae.inference.hmc import PosteriorDraws, sample_posterior
from ppvae.models import FactorAnalysis

from .pairs import GammaPoisson


@pytest.fixture(scope="module")
def drawn() -> tuple[FactorAnalysis, Tensor, PosteriorDraws]:
    torch.manual_seed(0)
    pair = FactorAnalysis.from_parameters([0.0, 1.0, 2.0], [[1.0, 0.5], [-1.0, 2.0], [0.0, 1.0]], [1.0, 0.5, 1.0])
    x = torch.randn(7, 3)
    return pair, x, sample_posterior(pair, x, num_samples=120, num_warmup=100, num_leapfrog=5, progress=False)


def test_shapes(drawn: tuple[FactorAnalysis, Tensor, PosteriorDraws]) -> None:
    _, _, draws = drawn
    assert draws.samples["z"].shape == (4, 120, 7, 2)
    assert set(draws.stats) == {
        "acceptance",
        "energy",
        "log_density",
        "step_size",
        "diverging",
        "num_leapfrog",
    }
    assert all(value.shape == (4, 120, 7) for value in draws.stats.values())
    assert draws.outcome.shape == draws.ok.shape == (4, 7)
    assert draws.rhat()["z"].shape == draws.ess()["z"].shape == (7, 2)
    assert "4 chains x 120 draws x 7 data, d = 2; acceptance 0." in repr(draws)


def test_statistics_are_those_of_the_draws(drawn: tuple[FactorAnalysis, Tensor, PosteriorDraws]) -> None:
    pair, x, draws = drawn
    z = draws.samples["z"]
    normal = torch.distributions.Normal
    log_prior = normal(0.0, 1.0).log_prob(z).sum(-1)
    log_likelihood = normal(pair.loc + z @ pair.loading.mT, pair.scale).log_prob(x).sum(-1)
    torch.testing.assert_close(draws.stats["log_density"], log_prior + log_likelihood, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(draws.log_likelihood(), log_likelihood, rtol=1e-4, atol=1e-4)
    # At a draw's start the energy is at least minus the density of the draw before it.
    kinetic = draws.stats["energy"][:, 1:] + draws.stats["log_density"][:, :-1]
    assert float(kinetic.min()) > -1e-4
    assert abs(float(kinetic.mean()) - 1.0) < 4 * float(kinetic.std()) / kinetic.numel() ** 0.5  # d / 2


def test_log_density_holds_the_jacobian() -> None:
    pair, x = GammaPoisson(), torch.tensor([[1.0, 4.0], [0.0, 2.0]])
    draws = sample_posterior(pair, x, num_samples=20, num_warmup=50, num_leapfrog=3, progress=False)
    z = draws.samples["z"]
    assert bool((z > 0).all())
    joint = torch.distributions.Gamma(3.0, 1.0).log_prob(z)
    joint = joint + torch.distributions.Poisson(z.unsqueeze(-1)).log_prob(x).sum(-1)
    torch.testing.assert_close(draws.stats["log_density"], joint + z.log(), rtol=1e-4, atol=1e-4)


def test_arviz_takes_it(drawn: tuple[FactorAnalysis, Tensor, PosteriorDraws]) -> None:
    import arviz as az

    _, x, draws = drawn
    data = draws.to_arviz(posterior_predictive=True)
    found = set(data.groups())
    assert {"posterior", "sample_stats", "observed_data", "log_likelihood", "posterior_predictive"} == {
        name.strip("/") for name in found
    } - {""}
    assert data.posterior["z"].dims == ("chain", "draw", "datum", "z_dim_0")
    assert data.log_likelihood["x"].dims == ("chain", "draw", "datum")
    assert data.posterior_predictive["x"].shape == (4, 120, 7, 3)
    assert data.sample_stats["lp"].shape == data.sample_stats["diverging"].shape == (4, 120, 7)
    np.testing.assert_array_equal(data.observed_data["x"].values, x.numpy())
    assert data.posterior.attrs["inference_library"] == "ppvae"
    assert data.posterior.attrs["inference_library_version"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_allclose(az.rhat(data)["z"].values, draws.rhat()["z"], rtol=1e-3)
        np.testing.assert_allclose(az.ess(data)["z"].values, draws.ess()["z"], rtol=1e-4)
        summary = az.summary(data)
        assert len(summary) == 14
        assert summary["r_hat"].max() < 1.1
        loo = az.loo(data, pointwise=True)
        assert loo.loo_i.shape == (7,)
        az.plot_trace(data, var_names=["z"], coords={"datum": [0]})
        import matplotlib.pyplot as plt

        plt.close("all")


def test_posterior_predictive_has_the_data_s_moments(
    drawn: tuple[FactorAnalysis, Tensor, PosteriorDraws],
) -> None:
    pair, _, draws = drawn
    new = draws.posterior_predictive(seed=1)["x"]
    assert torch.equal(new, draws.posterior_predictive(seed=1)["x"])
    noise = new - (pair.loc + draws.samples["z"] @ pair.loading.mT)
    scale = noise.flatten(0, 2).std(0)
    count = noise[..., 0].numel()
    assert bool(((scale / pair.scale - 1).abs() < 4 / (2 * count) ** 0.5).all())


class Regression(ModelGuidePair):
    """A mapping as data: a covariate c and a response y, z the intercept of each datum."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def model(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("y", dist.Normal(z.unsqueeze(-1) + x["c"], torch.tensor(1.0)).to_event(1), obs=x["y"])

    def guide(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(x["y"][..., 0], self.scale))


def test_a_mapping_is_sampled_and_exported() -> None:
    x = {"y": torch.randn(4, 2), "c": torch.randn(4, 2)}
    draws = sample_posterior(Regression(), x, num_samples=20, num_warmup=50, num_leapfrog=3, progress=False)
    found = draws.groups(log_likelihood=False)
    assert set(found.groups) == {"posterior", "sample_stats", "observed_data", "constant_data"}
    assert set(found.groups["observed_data"]) == {"y"}
    assert set(found.groups["constant_data"]) == {"c"}
    assert found.dims["constant_data"]["c"] == ["datum", "c_dim_0"]
    assert found.coords["datum"].tolist() == [0, 1, 2, 3]
    assert all(isinstance(value, np.ndarray) for group in found.groups.values() for value in group.values())
