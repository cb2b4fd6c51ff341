"""Programs whose latents are all global: a coin, a mean, regressions, a Gaussian process."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from stock.record import ALL, AS_ONE_DATUM, EXAMPLES, TUTORIALS, Case, Refusal, Stock
from torch import Tensor, nn
from torch.distributions import constraints

GLOBAL = ("fit", "evaluate_bound", "log_evidence_of_data_set")


def noise(seed: int) -> torch.Generator:
    """A seeded source of data."""
    return torch.Generator().manual_seed(seed)


def average(logs: Tensor, dims: int) -> Tensor:
    """The log of the mean over the first axes: a midpoint rule over [0, 1]^dims."""
    flat = logs.flatten(0, dims - 1)
    return flat.logsumexp(0) - math.log(len(flat))


def midpoints(count: int) -> Tensor:
    """The midpoints of equal parts of [0, 1]."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


# --- mini-pyro: the mean of a normal ---


def mean_model(data: Tensor) -> None:
    """Unknown mean, unit scale."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(data), dim=-1):
        pyro.sample("obs", dist.Normal(loc, 1.0), obs=data)


def mean_guide(data: Tensor) -> None:
    """A normal with two parameters."""
    guide_loc = pyro.param("guide_loc", torch.tensor(0.0))
    guide_scale = pyro.param("guide_scale_log", torch.tensor(0.0)).exp()
    pyro.sample("loc", dist.Normal(guide_loc, guide_scale))


def mean() -> Case:
    """Eight numbers."""
    return Case(mean_model, mean_guide, {"data": 1.5 + torch.randn(8, generator=noise(1))}, unpack=True)


def mean_exact(case: Case, _: Any) -> Tensor:
    """All data are one normal."""
    data = case.data["data"]
    size = len(data)
    return dist.MultivariateNormal(torch.zeros(size), torch.eye(size) + 1.0).log_prob(data).reshape(1)


# --- SVI part I: is a coin fair? ---


def coin_model(data: Tensor) -> None:
    """One site for every toss, in a loop."""
    fairness = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    for i in range(len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(fairness), obs=data[i])


def coin_guide(data: Tensor) -> None:
    """A Beta with two parameters."""
    alpha = pyro.param("alpha_q", torch.tensor(15.0), constraint=constraints.positive)
    beta = pyro.param("beta_q", torch.tensor(15.0), constraint=constraints.positive)
    pyro.sample("latent_fairness", dist.Beta(alpha, beta))


def coin_loop_model(data: Tensor) -> None:
    """The same in a sequential plate, as in SVI part II."""
    fairness = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    for i in pyro.plate("data_loop", len(data)):
        pyro.sample(f"obs_{i}", dist.Bernoulli(fairness), obs=data[i])


def coin_plate_model(data: Tensor) -> None:
    """The same in a vectorised plate, as at the end of SVI part II."""
    fairness = pyro.sample("latent_fairness", dist.Beta(torch.tensor(10.0), torch.tensor(10.0)))
    with pyro.plate("observe_data", len(data)):
        pyro.sample("obs", dist.Bernoulli(fairness), obs=data)


def tosses() -> dict[str, Tensor]:
    """Six heads, four tails."""
    return {"data": torch.tensor([1.0] * 6 + [0.0] * 4)}


def coin() -> Case:
    """A loop of sites."""
    return Case(coin_model, coin_guide, tosses(), unpack=True)


def coin_loop() -> Case:
    """A sequential plate."""
    return Case(coin_loop_model, coin_guide, tosses(), unpack=True)


def coin_plate() -> Case:
    """A vectorised plate."""
    return Case(coin_plate_model, coin_guide, tosses(), unpack=True)


def coin_exact(case: Case, _: Any) -> Tensor:
    """A ratio of Beta functions."""
    heads, size = float(case.data["data"].sum()), case.data["data"].numel()

    def log_beta(a: float, b: float) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    return torch.tensor([log_beta(10 + heads, 10 + size - heads) - log_beta(10, 10)])


# --- Bayesian regression: PyroSample weights, an AutoGuide ---


class BayesianRegression(PyroModule):
    """A linear layer whose weights have priors."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, in_features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 3.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The mean; y is observed in the plate over data."""
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 2.0))
        mean: Tensor = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def line() -> dict[str, Tensor]:
    """Ten points near a plane."""
    x = torch.randn(10, 2, generator=noise(2))
    return {"x": x, "y": x @ torch.tensor([1.0, -0.5]) + 0.4 + 0.5 * torch.randn(10, generator=noise(3))}


def regression() -> Case:
    """With AutoDiagonalNormal."""
    model = BayesianRegression(2)
    return Case(model, AutoDiagonalNormal(model), line(), unpack=True)


def regression_exact(case: Case, _: Any) -> Tensor:
    """Conjugate in the weights, the midpoint rule over sigma."""
    x, y = case.data["x"].double(), case.data["y"].double()
    covariance = x @ x.T + 9.0
    sigma = 2 * midpoints(2000)[:, None, None]
    return average(dist.MultivariateNormal(0 * y, covariance + sigma**2 * torch.eye(len(y))).log_prob(y), 1).reshape(1)


# --- logistic regression ---


def logistic_model(x: Tensor, y: Tensor) -> None:
    """Coefficients and an intercept, of normal priors."""
    coefs = pyro.sample("coefs", dist.Normal(torch.zeros(x.shape[-1]), 1.0).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(torch.tensor(0.0), 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=(coefs * x).sum(-1) + intercept), obs=y)


def logistic() -> Case:
    """One covariate, so that the evidence is an integral over a plane."""
    x = torch.randn(12, 1, generator=noise(4))
    y = (x[:, 0] + 0.5 * torch.randn(12, generator=noise(5)) > 0).float()
    return Case(logistic_model, AutoMultivariateNormal(logistic_model), {"x": x, "y": y}, unpack=True)


def logistic_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule in the priors' quantiles."""
    x, y = case.data["x"].double(), case.data["y"].double()
    normal = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    z = normal.icdf(midpoints(600))
    logits = z[:, None, None] * x[:, 0] + 2 * z[:, None]
    return average(dist.Bernoulli(logits=logits).log_prob(y).sum(-1), 2).reshape(1)


# --- a Gaussian process: one observation that is the whole data set ---


def kernel(x: Tensor, length: Tensor, variance: Tensor) -> Tensor:
    """Squared exponential, with noise of variance 0.1."""
    square = (x[:, None] - x).square()
    length, variance = length[..., None, None], variance[..., None, None]
    return variance * (-0.5 * square / length**2).exp() + 0.1 * torch.eye(len(x), dtype=x.dtype)


def process_model(x: Tensor, y: Tensor) -> None:
    """Priors over the kernel's parameters, and one normal over all data."""
    length = pyro.sample("lengthscale", dist.LogNormal(torch.tensor(0.0), 1.0))
    variance = pyro.sample("variance", dist.LogNormal(torch.tensor(0.0), 1.0))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), kernel(x, length, variance)), obs=y)


def process() -> Case:
    """A curve at seven places."""
    x = torch.linspace(-2, 2, 7)
    y = x.sin() + 0.3 * torch.randn(7, generator=noise(6))
    return Case(process_model, AutoNormal(process_model), {"x": x, "y": y}, unpack=True)


def process_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule in the priors' quantiles."""
    x = torch.linspace(-2, 2, 7).double()
    y = case.data["y"][0].double()
    grid = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).icdf(midpoints(200)).exp()
    covariance = kernel(x, grid[:, None].expand(200, 200), grid.expand(200, 200))
    return average(dist.MultivariateNormal(0 * y, covariance).log_prob(y), 2).reshape(1)


PROGRAMS: dict[str, Stock] = {
    "minipyro": Stock("mini-Pyro: the mean of a normal", EXAMPLES + "minipyro.py", mean, GLOBAL, exact=mean_exact),
    "coin": Stock(
        "SVI part I: a coin, a site for every toss",
        TUTORIALS + "svi_part_i.html",
        coin,
        ALL,
        refusal=Refusal(
            "observed site 'obs_0' stands outside the plate over data", AS_ONE_DATUM, lambda: coin().whole()
        ),
        exact=coin_exact,
    ),
    "coin-loop": Stock(
        "SVI part II: the coin in a sequential plate",
        TUTORIALS + "svi_part_ii.html",
        coin_loop,
        ALL,
        refusal=Refusal("site 'obs_0' stands in a sequential plate", AS_ONE_DATUM, lambda: coin_loop().whole()),
        exact=coin_exact,
    ),
    "coin-plate": Stock(
        "SVI part II: the coin in a vectorised plate",
        TUTORIALS + "svi_part_ii.html",
        coin_plate,
        GLOBAL,
        exact=coin_exact,
    ),
    "regression": Stock(
        "Bayesian regression: `PyroSample` weights, `AutoDiagonalNormal`",
        TUTORIALS + "bayesian_regression.html",
        regression,
        GLOBAL,
        exact=regression_exact,
    ),
    "logistic": Stock(
        "logistic regression, `AutoMultivariateNormal`",
        TUTORIALS + "intro_long.html",
        logistic,
        GLOBAL,
        exact=logistic_exact,
    ),
    "gp": Stock(
        "a Gaussian process whose one observation is the data set",
        TUTORIALS + "gp.html",
        process,
        ALL,
        refusal=Refusal(
            "observed site 'y' stands outside the plate over data", AS_ONE_DATUM, lambda: process().whole()
        ),
        exact=process_exact,
    ),
}
