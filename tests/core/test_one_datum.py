"""All data as one datum: the evidence of a whole data set, against closed forms and quadrature."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from audit.idioms import IDIOMS, data, evidence_of, posterior_mean, shift
from core.test_plates import METHODS, by_factor, guide_one_by_one, one_by_one, require_truth
from pyro.infer import autoguide
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError, as_one_datum, check_pair, draw, log_joint
from ppvae.core.lengths import present as steps_within
from ppvae.distributions import DiagonalNormal, Normal, Poisson, StandardNormal
from ppvae.inference import elbo, evidence, fit, log_evidence, sample_posterior
from ppvae.models import Exposure, Latent, LatentModel, Lengths, Observed
from ppvae.networks import MLP

X = data()
NOISE = 0.5
POINTS = torch.linspace(-1, 1, 12)
FEATURES = torch.stack([torch.ones(12), POINTS, POINTS.square()], -1)
Y = FEATURES @ torch.tensor([0.3, -1.0, 0.8]) + NOISE * torch.randn(12, generator=torch.Generator().manual_seed(2))
BRIDGE = evidence.BridgeSampling(num_draws=320, num_warmup=60, num_chains=4, num_leapfrog=4)


def regression(y: Tensor) -> None:
    """Weights that all data share: y ~ N(F w, 0.5)."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", 12):
        pyro.sample("y", dist.Normal((FEATURES * w).sum(-1), NOISE), obs=y)


COVARIANCE = (torch.eye(3) + FEATURES.T @ FEATURES / NOISE**2).inverse()
EVIDENCE = dist.MultivariateNormal(torch.zeros(12), FEATURES @ FEATURES.T + NOISE**2 * torch.eye(12)).log_prob(Y[None])
MEAN = COVARIANCE @ FEATURES.T @ Y / NOISE**2


def regression_guide(y: Tensor) -> None:
    """The posterior of the weights, too wide, with something to train."""
    loc = pyro.param("loc", MEAN + 0.05)
    pyro.sample("w", dist.MultivariateNormal(loc, covariance_matrix=1.5 * COVARIANCE))


@pytest.mark.parametrize("method", [*METHODS.values(), BRIDGE], ids=[*METHODS, "bridge"])
def test_linear_regression_has_its_closed_form_evidence(method: evidence.EvidenceMethod) -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(regression, regression_guide))
    require_truth(pair, Y[None], EVIDENCE, method)
    assert pair.vectorizes


def test_linear_regression_is_trained_and_sampled() -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(regression, regression_guide))
    run = fit(
        pair,
        Y[None],
        elbo=elbo.TraceELBO(num_particles=20),
        num_epochs=150,
        batch_size=None,
        learning_rate=2e-3,
        progress=False,
    )
    assert float((next(pair.parameters()).detach() - MEAN).abs().max()) < 0.025  # it started at 0.05
    assert run.history[-1]["elbo_train"] < float(EVIDENCE) + 2
    draws = sample_posterior(
        pair, Y[None], num_samples=200, num_warmup=100, num_chains=4, num_leapfrog=6, progress=False, compile="graph"
    )
    w = draws.samples["w"]
    assert w.shape == (4, 200, 1, 3)
    error = 4 * w.flatten(0, 1).std(0) / draws.ess()["w"].sqrt()
    assert bool(((w.mean((0, 1)) - MEAN).abs() <= error).all())


def test_captured_equals_eager() -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(regression, regression_guide))
    found = [log_evidence(pair, Y[None], compile=mode, progress=False) for mode in ("eager", "graph")]
    assert torch.allclose(found[0].log_evidence, found[1].log_evidence, atol=1e-4)


def test_an_automatic_guide_over_all_latents_has_a_weight() -> None:
    """Joint over all latents, which is what this evidence asks for."""
    guide = autoguide.AutoMultivariateNormal(regression, init_scale=0.2)
    pair = as_one_datum(ModelGuidePair.from_callables(regression, guide))
    fit(pair, Y[None], num_epochs=600, batch_size=None, learning_rate=0.02, progress=False)
    require_truth(pair, Y[None], EVIDENCE)


SCHOOLS = torch.tensor([[28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]])


def schools_evidence() -> Tensor:
    r"""$\log \int p(y \mid \mu, \tau)$, mu in closed form, tau by the midpoint rule on its logarithm, [1]."""
    y, sigma = SCHOOLS.double()
    grid = torch.linspace(-9.0, 6.0, 6001, dtype=torch.float64)
    tau = ((grid[1:] + grid[:-1]) / 2).exp()
    covariance = torch.diag_embed(sigma.square() + tau[:, None].square()) + 25.0
    terms = dist.MultivariateNormal(y.new_zeros(8), covariance).log_prob(y) + dist.LogNormal(1.0, 1.0).log_prob(tau)
    return (terms + tau.log() + (grid[1] - grid[0]).log()).logsumexp(0).float()[None]


def schools(x: dict[str, Tensor]) -> None:
    """Eight schools: effects in a plate, and what they have in common."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(1.0, 1.0))
    with pyro.plate("schools", 8):
        eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * eta, x["sigma"]), obs=x["y"])


def schools_guide(x: dict[str, Tensor]) -> None:
    """Wider than the posterior in every coordinate."""
    pyro.sample("mu", dist.Normal(4.5 + shift(), 4.0))
    pyro.sample("tau", dist.LogNormal(1.0, 1.0))
    with pyro.plate("schools", 8):
        pyro.sample("eta", dist.Normal(torch.zeros(8), 1.0))


@pytest.mark.parametrize(
    "method", [evidence.ImportanceSampling(40000), evidence.AIS(num_temperatures=40, num_chains=16, num_leapfrog=3)]
)
def test_eight_schools(method: evidence.EvidenceMethod) -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(schools, schools_guide))
    batch = {"y": SCHOOLS[None, 0], "sigma": SCHOOLS[None, 1]}
    require_truth(pair, batch, schools_evidence(), method)


def process(y: Tensor) -> None:
    """A Gaussian process: one observation of all points, and a length scale to integrate out."""
    length = pyro.sample("length", dist.LogNormal(-0.5, 0.5))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(12), kernel(length)), obs=y)


def kernel(length: Tensor) -> Tensor:
    """Squared exponential with noise, [*, 12, 12]."""
    distance = (POINTS[:, None] - POINTS) / length[..., None, None].clamp(min=1e-3)
    return (-0.5 * distance.square()).exp() + NOISE**2 * torch.eye(12)


def process_guide(y: Tensor) -> None:
    """Near the prior."""
    pyro.sample("length", dist.LogNormal(-0.4 + shift(), 0.5))


def process_evidence() -> Tensor:
    """By the midpoint rule over the length scale, [1]."""
    log_length = -0.5 + 0.5 * (10 * (torch.arange(2000) + 0.5) / 2000 - 5)
    prior = dist.Normal(-0.5, 0.5).log_prob(log_length) + torch.tensor(0.5 * 10 / 2000).log()
    terms = dist.MultivariateNormal(torch.zeros(12), kernel(log_length.exp())).log_prob(Y)
    return (terms + prior).logsumexp(0)[None]


def test_a_gaussian_process_is_refused_as_data_and_served_as_one_datum() -> None:
    pair = ModelGuidePair.from_callables(process, process_guide)
    with pytest.raises(PairError, match=r"'y' stands outside the plate over data(.|\n)*as_one_datum\(pair\)"):
        check_pair(pair, Y)
    for method in METHODS.values():
        require_truth(as_one_datum(pair), Y[None], process_evidence(), method)


def test_a_tuple_of_two_plates_of_observations() -> None:
    """Two measurements of one mean, of other numbers of data: neither plate is that over the data."""

    def model(x: Tensor, y: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("first", x.shape[-1]):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        with pyro.plate("second", y.shape[-1]):
            pyro.sample("y", dist.Normal(2 * mean, 0.5), obs=y)

    def guide(x: Tensor, y: Tensor) -> None:
        pyro.sample("mean", dist.Normal(0.4 + shift(), 0.4))

    x, y = torch.tensor([0.2, -0.4, 1.1]), torch.tensor([0.9, 0.3])
    a = torch.tensor([1.0, 1.0, 1.0, 2.0, 2.0])
    noise = torch.tensor([1.0, 1.0, 1.0, 0.25, 0.25])
    exact = dist.MultivariateNormal(torch.zeros(5), torch.outer(a, a) + torch.diag(noise)).log_prob(torch.cat([x, y]))
    pair = as_one_datum(ModelGuidePair.from_callables(model, guide))
    require_truth(pair, (x[None], y[None]), exact[None])


@pytest.mark.parametrize("name", ["outside", "factor", "sequential", "rows"])
def test_the_remedy_of_every_refusal_gives_the_sum(name: str) -> None:
    """Independent data: the evidence of the set is the sum of theirs."""
    programs: Any = {
        "outside": IDIOMS["outside"].programs,
        "factor": lambda: by_factor(inside=False),
        "sequential": lambda: (one_by_one, guide_one_by_one),
        "rows": IDIOMS["rows"].programs,
    }[name]()
    pair = ModelGuidePair.from_callables(*programs)
    if name != "rows":
        with pytest.raises(PairError, match=r"as_one_datum\(pair\) and x\[None\]"):
            check_pair(pair, X)
    require_truth(as_one_datum(pair), X[None], evidence_of(X).sum(0, keepdim=True), evidence.ImportanceSampling(8000))


def test_latents_keep_the_axes_of_the_program() -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(*IDIOMS["rows"].programs()))
    latents = draw(pair, X[None], 3).latents
    assert latents["z"].shape == (3, 1, 4, 1, 2)  # sample, datum, and Pyro's axes: the data at dim -2, and the event
    assert log_joint(pair, X[None], latents).local.shape == (3, 1)
    assert torch.allclose(latents["z"].mean(0)[0, :, 0], posterior_mean(X), atol=2.5)


def test_totals_and_gaps_are_those_of_the_data_within() -> None:
    pair = LatentModel(
        total=Exposure(total_of="x"),
        z=Latent(StandardNormal(1), posterior=DiagonalNormal(None, 1)),
        x=Observed(Poisson(MLP(1, []), 3, exposure=True).given("z", "total")),
        y=Observed(Normal(MLP(1, []), (4, 2)).given("z"), lengths="n"),
        n=Lengths(),
    )
    x = {"x": torch.tensor([[0.0, 2.0, 1.0], [5.0, 7.0, 4.0]]), "n": torch.tensor([1, 3])}
    x["y"] = torch.randn(2, 4, 2).where(steps_within(x["n"], 4)[..., None], torch.nan)
    whole, z = as_one_datum(pair), torch.randn(2, 1)
    completed = whole.completed({name: value[None] for name, value in x.items()})
    assert completed["total"].tolist() == [[3.0, 16.0]]  # not one of all
    check_pair(whole, completed)
    found = log_joint(whole, completed, {"z": z[None]}).local
    torch.testing.assert_close(found, log_joint(pair, x, {"z": z}).local.sum(-1, keepdim=True))


def test_several_data_are_refused() -> None:
    pair = as_one_datum(ModelGuidePair.from_callables(regression, regression_guide))
    with pytest.raises(PairError, match=r"expected a batch of one datum, .* found 12(.|\n)*x\[None\]"):
        check_pair(pair, Y)
