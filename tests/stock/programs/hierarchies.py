"""Hierarchies: eight schools, baseball, capture and recapture."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from stock.programs.regressions import GLOBAL, average, midpoints
from stock.record import ALL, AS_ONE_DATUM, EXAMPLES, Case, Refusal, Stock
from torch import Tensor
from torch.distributions import constraints

# --- eight schools ---

SCHOOLS = torch.tensor(
    [[28.0, 15.0], [8.0, 10.0], [-3.0, 16.0], [7.0, 11.0], [-1.0, 9.0], [1.0, 11.0], [18.0, 10.0], [12.0, 18.0]]
)


def schools_model(data: Tensor) -> None:
    """Effects and standard errors as columns; no plate."""
    y, sigma = data[:, 0], data[:, 1]
    eta = pyro.sample("eta", dist.Normal(torch.zeros(len(data)), torch.ones(len(data))))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(1), 10 * torch.ones(1)))
    tau = pyro.sample("tau", dist.HalfCauchy(scale=25 * torch.ones(1)))
    pyro.sample("obs", dist.Normal(mu + tau * eta, sigma), obs=y)


def schools_guide(data: Tensor) -> None:
    """Means and log scales for everything."""
    m_eta = pyro.param("loc_eta", torch.randn(len(data)))
    s_eta = pyro.param("scale_eta", 0.1 * torch.rand(len(data)), constraint=constraints.positive)
    m_mu, m_tau = pyro.param("loc_mu", torch.randn(1)), pyro.param("loc_logtau", torch.randn(1))
    s_mu = pyro.param("scale_mu", 0.1 * torch.rand(1), constraint=constraints.positive)
    s_tau = pyro.param("scale_logtau", 0.1 * torch.rand(1), constraint=constraints.positive)
    pyro.sample("eta", dist.Normal(m_eta, s_eta))
    pyro.sample("mu", dist.Normal(m_mu, s_mu))
    pyro.sample("tau", dist.TransformedDistribution(dist.Normal(m_tau, s_tau), [dist.transforms.ExpTransform()]))


def schools() -> Case:
    """As it is published."""
    return Case(schools_model, schools_guide, SCHOOLS)


def schools_exact(case: Case, _: Any) -> Tensor:
    """A normal given tau; the midpoint rule in the quantiles of tau."""
    y, sigma = case.data[0].double().unbind(-1)
    tau = 25 * (torch.pi / 2 * midpoints(20_000)).tan()
    covariance = 100 + torch.diag_embed(tau[:, None] ** 2 + sigma**2)
    return average(dist.MultivariateNormal(0 * y, covariance).log_prob(y), 1).reshape(1)


# --- baseball ---

BATS: dict[str, Tensor] = {"at_bats": torch.tensor([45.0, 45, 40, 30, 20]), "hits": torch.tensor([18.0, 12, 7, 10, 3])}


def fully_pooled(at_bats: Tensor, hits: Tensor) -> Any:
    """One probability; no plate."""
    phi = pyro.sample("phi", dist.Uniform(at_bats.new_tensor(0), at_bats.new_tensor(1)))
    return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)


def not_pooled(at_bats: Tensor, hits: Tensor) -> Any:
    """A probability for every player."""
    with pyro.plate("num_players", at_bats.shape[0]):
        phi = pyro.sample("phi", dist.Uniform(at_bats.new_tensor(0), at_bats.new_tensor(1)))
        return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)


def partially_pooled(at_bats: Tensor, hits: Tensor) -> Any:
    """The probabilities have a common prior."""
    m = pyro.sample("m", dist.Uniform(at_bats.new_tensor(0), at_bats.new_tensor(1)))
    kappa = pyro.sample("kappa", dist.Pareto(at_bats.new_tensor(1), at_bats.new_tensor(1.5)))
    with pyro.plate("num_players", at_bats.shape[0]):
        phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
        return pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)


def partially_pooled_logit(at_bats: Tensor, hits: Tensor) -> Any:
    """The logits have a normal prior."""
    loc = pyro.sample("loc", dist.Normal(at_bats.new_tensor(-1), at_bats.new_tensor(1)))
    scale = pyro.sample("scale", dist.HalfCauchy(scale=at_bats.new_tensor(1)))
    with pyro.plate("num_players", at_bats.shape[0]):
        alpha = pyro.sample("alpha", dist.Normal(loc, scale))
        return pyro.sample("obs", dist.Binomial(at_bats, logits=alpha), obs=hits)


def baseball(model: Any) -> Case:
    """Pyro samples these by NUTS: the guide is an AutoNormal."""
    return Case(model, AutoNormal(model, init_scale=0.3), BATS, unpack=True)


def log_choose(n: Tensor, k: Tensor) -> Tensor:
    """log of n over k."""
    return (n + 1).lgamma() - (k + 1).lgamma() - (n - k + 1).lgamma()


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """log of the Beta function."""
    return a.lgamma() + b.lgamma() - (a + b).lgamma()


def fully_pooled_exact(case: Case, _: Any) -> Tensor:
    """A Beta function of all hits."""
    n, k = case.data["at_bats"], case.data["hits"]
    return (log_choose(n, k).sum() + log_beta(k.sum() + 1, (n - k).sum() + 1)).reshape(1)


def not_pooled_exact(case: Case, _: Any) -> Tensor:
    """Every number of hits has the same probability."""
    return -(case.data["at_bats"] + 1).log()


def partially_pooled_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """Given m and kappa: a Beta-binomial."""
    n, k = case.data["at_bats"], case.data["hits"]
    a, b = held["m"] * held["kappa"], (1 - held["m"]) * held["kappa"]
    return log_choose(n, k) + log_beta(k + a, n - k + b) - log_beta(a, b)


def logit_exact(case: Case, held: dict[str, Tensor]) -> Tensor:
    """Given loc and scale: the midpoint rule in the quantiles of alpha."""
    quantiles = dist.Normal(torch.zeros((), dtype=torch.float64), 1.0).icdf(midpoints(4000))
    alpha = held["loc"].double() + held["scale"].double() * quantiles[:, None]
    n, k = case.data["at_bats"].double(), case.data["hits"].double()
    return average(dist.Binomial(n, logits=alpha).log_prob(k), 1)


# --- capture and recapture: Cormack, Jolly and Seber ---

CAPTURES = torch.tensor(
    [[1.0, 1, 0, 1], [1.0, 0, 0, 0], [0.0, 1, 1, 0], [0.0, 1, 0, 0], [1.0, 1, 1, 1], [0.0, 0, 1, 1]],
)


def captures_model_1(capture_history: Tensor, sex: Tensor | None) -> None:
    """Survival and recapture are the same at all times; whether an animal lives is summed out."""
    size, steps = capture_history.shape
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    with pyro.plate("animals", size, dim=-1):
        z = torch.ones(size)
        seen = torch.zeros(size).bool()
        for t in pyro.markov(range(steps)):
            with poutine.mask(mask=seen):
                alive = seen.float() * phi * z + (1 - seen.float())
                z = pyro.sample(f"z_{t}", dist.Bernoulli(alive), infer={"enumerate": "parallel"})
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
            seen |= capture_history[:, t].bool()


def captures_model_2(capture_history: Tensor, sex: Tensor | None) -> None:
    """A survival for every time, between entries of one plate."""
    size, steps = capture_history.shape
    rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
    z = torch.ones(size)
    seen = torch.zeros(size).bool()
    animals = pyro.plate("animals", size, dim=-1)
    for t in pyro.markov(range(steps)):
        phi = pyro.sample(f"phi_{t}", dist.Uniform(0.0, 1.0)) if t > 0 else 1.0
        with animals, poutine.mask(mask=seen):
            alive = seen.float() * phi * z + (1 - seen.float())
            z = pyro.sample(f"z_{t}", dist.Bernoulli(alive), infer={"enumerate": "parallel"})
            pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=capture_history[:, t])
        seen |= capture_history[:, t].bool()


def captures(model: Any) -> Case:
    """The guide sees the continuous sites only; the sex of the animals is not used."""
    model = functools.partial(model, sex=None)
    guide = AutoDiagonalNormal(poutine.block(model, expose_fn=lambda msg: msg["name"][0:3] in ["phi", "rho"]))
    return Case(model, guide, CAPTURES)


def captures_given(history: Tensor, phi: list[Any], rho: Tensor) -> Tensor:
    """log p(history | phi, rho), summed over all states of every animal.

    The mask is changed in place after its use, and when densities are taken it masks nothing: an animal is scored from
    the first time on, alive until its first capture. So it is in Pyro's own TraceEnum_ELBO.
    """
    steps, total = history.shape[1], torch.zeros_like(rho)
    for row in history:
        first = int(row.argmax())
        total = total + first * (1 - rho).log() + rho.log()
        ways = []
        for states in itertools.product([0, 1], repeat=steps - first - 1):
            log, last = torch.zeros_like(rho), 1
            for t, state in enumerate(states, start=first + 1):
                alive, caught = phi[t] * last, rho * state
                log = log + (alive if state else 1 - alive + 0 * rho).log() + (caught if row[t] else 1 - caught).log()
                last = state
            ways.append(log)
        total = total + torch.stack(ways).logsumexp(0)
    return total


def captures_1_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule over the square of phi and rho."""
    u = midpoints(400)
    phi, rho = u[:, None].expand(400, 400), u.expand(400, 400)
    return average(captures_given(case.data, [phi] * 4, rho), 2).reshape(1)


def captures_2_exact(case: Case, _: Any) -> Tensor:
    """The midpoint rule over three survivals and rho."""
    grids = torch.meshgrid(*[midpoints(30)] * 4, indexing="ij")
    return average(captures_given(case.data, [grids[0] * 0 + 1, *grids[:3]], grids[3]), 4).reshape(1)


PROGRAMS: dict[str, Stock] = {
    "schools": Stock(
        "eight schools",
        EXAMPLES + "eight_schools/svi.py",
        schools,
        ALL,
        refusal=Refusal(
            "observed site 'obs' stands outside the plate over data", AS_ONE_DATUM, lambda: schools().whole()
        ),
        exact=schools_exact,
    ),
    "fully-pooled": Stock(
        "baseball, fully pooled",
        EXAMPLES + "baseball.py",
        lambda: baseball(fully_pooled),
        ALL,
        refusal=Refusal(
            "observed site 'obs' stands outside the plate over data",
            AS_ONE_DATUM,
            lambda: baseball(fully_pooled).whole(),
        ),
        exact=fully_pooled_exact,
    ),
    "not-pooled": Stock(
        "baseball, not pooled",
        EXAMPLES + "baseball.py",
        lambda: baseball(not_pooled),
        ALL,
        whole=True,
        exact=not_pooled_exact,
    ),
    "partially-pooled": Stock(
        "baseball, partially pooled",
        EXAMPLES + "baseball.py",
        lambda: baseball(partially_pooled),
        ALL,
        whole=True,
        exact=partially_pooled_exact,
    ),
    "partially-pooled-logit": Stock(
        "baseball, partially pooled logits",
        EXAMPLES + "baseball.py",
        lambda: baseball(partially_pooled_logit),
        ALL,
        whole=True,
        exact=logit_exact,
    ),
    "captures-1": Stock(
        "capture and recapture, model 1",
        EXAMPLES + "capture_recapture/cjs.py",
        lambda: captures(captures_model_1),
        GLOBAL,
        enumerates=True,
        exact=captures_1_exact,
    ),
    "captures-2": Stock(
        "capture and recapture, model 2",
        EXAMPLES + "capture_recapture/cjs.py",
        lambda: captures(captures_model_2),
        GLOBAL,
        enumerates=True,
        exact=captures_2_exact,
    ),
}
