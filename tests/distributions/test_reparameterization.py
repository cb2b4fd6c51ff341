"""Every family of the reparameterisation trick: its density, its draws, its gradients, its use as a guide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.distributions import Normal
from ppvae.distributions.reparameterization import FAMILIES, FixedPrior, Reparameterized, table
from ppvae.inference import elbo
from ppvae.models import VAE
from ppvae.networks import MLP

EULER = 0.5772156649015329
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """Parameters, a function f with a known E[f], and SciPy's distribution of the same name."""

    parameters: dict[str, float]
    f: Callable[[Tensor], Tensor]
    expected: Callable[[Values], Tensor]
    scipy: Callable[..., Any]
    tolerance: float = 1e-5  # of the path derivative, relative; PyTorch's implicit ones are approximations
    two_noises: frozenset[str] = field(default_factory=frozenset)  # parameters with further noise in their derivative


def square(x: Tensor) -> Tensor:
    return x.square()


def gompertz_mean(p: Values) -> Tensor:
    grid = torch.linspace(0, 12, 200_001, dtype=torch.float64)
    return torch.trapezoid(torch.exp(-p["concentration"] * torch.expm1(p["rate"] * grid)), grid)


LOC_SCALE = {"loc": 0.4, "scale": 1.3}
CASES = {
    "exponential": Case({"rate": 1.7}, square, lambda p: 2 / p["rate"] ** 2, lambda rate: stats.expon(scale=1 / rate)),
    "cauchy": Case(
        LOC_SCALE,
        lambda x: 1 / (1 + x.square()),
        lambda p: (1 + p["scale"]) / ((1 + p["scale"]) ** 2 + p["loc"] ** 2),
        stats.cauchy,
    ),
    "logistic": Case(LOC_SCALE, square, lambda p: p["loc"] ** 2 + p["scale"] ** 2 * math.pi**2 / 3, stats.logistic),
    "rayleigh": Case({"scale": 1.3}, square, lambda p: 2 * p["scale"] ** 2, lambda scale: stats.rayleigh(scale=scale)),
    "pareto": Case(
        {"scale": 1.3, "alpha": 2.2},
        torch.log,
        lambda p: p["scale"].log() + 1 / p["alpha"],
        lambda scale, alpha: stats.pareto(alpha, scale=scale),
    ),
    "weibull": Case(
        {"scale": 1.3, "concentration": 1.8},
        lambda x: x,
        lambda p: p["scale"] * torch.lgamma(1 + 1 / p["concentration"]).exp(),
        lambda scale, concentration: stats.weibull_min(concentration, scale=scale),
    ),
    "gumbel": Case(
        LOC_SCALE,
        square,
        lambda p: (p["loc"] + EULER * p["scale"]) ** 2 + math.pi**2 / 6 * p["scale"] ** 2,
        stats.gumbel_r,
    ),
    "reciprocal": Case(
        {"low": 0.7, "ratio": 3.1},
        lambda x: x,
        lambda p: p["low"] * (p["ratio"] - 1) / p["ratio"].log(),
        lambda low, ratio: stats.loguniform(low, low * ratio),
    ),
    "gompertz": Case(
        {"concentration": 0.6, "rate": 1.4},
        lambda x: x,
        gompertz_mean,
        lambda concentration, rate: stats.gompertz(concentration, scale=1 / rate),
    ),
    "normal": Case(LOC_SCALE, square, lambda p: p["loc"] ** 2 + p["scale"] ** 2, stats.norm),
    "laplace": Case(LOC_SCALE, square, lambda p: p["loc"] ** 2 + 2 * p["scale"] ** 2, stats.laplace),
    "student_t": Case(
        {"df": 9.0, **LOC_SCALE},
        square,
        lambda p: p["loc"] ** 2 + p["scale"] ** 2 * p["df"] / (p["df"] - 2),
        stats.t,
        two_noises=frozenset({"df"}),
    ),
    "uniform": Case(
        LOC_SCALE,
        square,
        lambda p: p["loc"] ** 2 + p["scale"] ** 2 / 3,
        lambda loc, scale: stats.uniform(loc - scale, 2 * scale),
    ),
    "triangular": Case(
        LOC_SCALE,
        square,
        lambda p: p["loc"] ** 2 + p["scale"] ** 2 / 6,
        lambda loc, scale: stats.triang(0.5, loc=loc - scale, scale=2 * scale),
    ),
    "log_normal": Case(
        {"loc": 0.2, "scale": 0.5},
        lambda x: x,
        lambda p: (p["loc"] + p["scale"] ** 2 / 2).exp(),
        lambda loc, scale: stats.lognorm(scale, scale=math.exp(loc)),
    ),
    "gamma": Case(
        {"concentration": 2.3, "rate": 1.7},
        torch.log,
        lambda p: p["concentration"].digamma() - p["rate"].log(),
        lambda concentration, rate: stats.gamma(concentration, scale=1 / rate),
        tolerance=2e-3,
    ),
    "beta": Case(
        {"concentration1": 2.3, "concentration0": 1.2},
        torch.log,
        lambda p: p["concentration1"].digamma() - (p["concentration1"] + p["concentration0"]).digamma(),
        stats.beta,
        tolerance=2e-2,
    ),
    "chi_squared": Case(
        {"df": 3.4}, torch.log, lambda p: (p["df"] / 2).digamma() + math.log(2), stats.chi2, tolerance=2e-3
    ),
    "f": Case(
        {"df1": 5.0, "df2": 9.0},
        torch.log,
        lambda p: (p["df1"] / 2).digamma() - p["df1"].log() - (p["df2"] / 2).digamma() + p["df2"].log(),
        lambda df1, df2: stats.f(df1, df2),
        two_noises=frozenset({"df1", "df2"}),
    ),
}

TRIL = [[1.2, 0.0], [-0.5, 0.8]]
DIRECTION = torch.tensor([0.7, -1.1], dtype=torch.float64)


def spread(p: Values, factor: Tensor | float = 1.0) -> Tensor:
    return (DIRECTION @ p["loc"]) ** 2 + factor * (p["scale_tril"].mT @ DIRECTION).square().sum()


def sd(p: dict[str, Any]) -> float:
    return float((torch.tensor(p["scale_tril"], dtype=torch.float64).mT @ DIRECTION).norm())


# E[f], f, and the law of a projection as SciPy has it
JOINT: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor], Callable[[Values], Tensor], Callable[..., Any]]] = {
    "multivariate_normal": (
        {"loc": [0.4, -0.2], "scale_tril": TRIL},
        lambda x: (x @ DIRECTION).square(),
        spread,
        lambda p: (lambda x: x @ DIRECTION, stats.norm(0.7 * 0.4 + 1.1 * 0.2, sd(p))),
    ),
    "multivariate_student_t": (
        {"df": 9.0, "loc": [0.4, -0.2], "scale_tril": TRIL},
        lambda x: (x @ DIRECTION).square(),
        lambda p: spread(p, p["df"] / (p["df"] - 2)),
        lambda p: (lambda x: x @ DIRECTION, stats.t(9.0, 0.7 * 0.4 + 1.1 * 0.2, sd(p))),
    ),
    "dirichlet": (
        {"concentration": [2.3, 1.2]},
        lambda x: x.log() @ DIRECTION,
        lambda p: (p["concentration"].digamma() - p["concentration"].sum().digamma()) @ DIRECTION,
        lambda p: (lambda x: x[..., 0], stats.beta(2.3, 1.2)),
    ),
}


def leaves(parameters: dict[str, Any]) -> Values:
    return {k: torch.tensor(v, dtype=torch.float64).requires_grad_() for k, v in parameters.items()}


def test_every_family_has_a_case() -> None:
    assert set(CASES) | set(JOINT) == set(FAMILIES)
    assert len(table().splitlines()) == 1 + len(FAMILIES)
    assert {family.route for family in FAMILIES.values()} == {"inverse CDF", "location-scale", "composition"}


@pytest.mark.parametrize("name", CASES)
def test_density_and_goodness_of_fit(name: str) -> None:
    case = CASES[name]
    made = FAMILIES[name].make(**{k: torch.tensor(v, dtype=torch.float64) for k, v in case.parameters.items()})
    truth = case.scipy(**case.parameters) if name != "beta" else stats.beta(2.3, 1.2)
    draws = made.rsample((20_000,))
    expected = torch.as_tensor(truth.logpdf(draws[:200].numpy()))
    torch.testing.assert_close(made.log_prob(draws[:200]), expected, rtol=1e-8, atol=1e-8)
    assert stats.kstest(draws.numpy(), truth.cdf).pvalue > 1e-3
    # Power: draws from the same family, moved by a twentieth of their spread, are told from it.
    moved = draws + 0.05 * (draws.quantile(0.84) - draws.quantile(0.16))
    assert stats.kstest(moved.numpy(), truth.cdf).pvalue < 1e-5


@pytest.mark.parametrize("name", JOINT)
def test_joint_goodness_of_fit(name: str) -> None:
    parameters, _, _, law = JOINT[name]
    made = FAMILIES[name].make(**{k: torch.tensor(v, dtype=torch.float64) for k, v in parameters.items()})
    project, truth = law(parameters)
    draws = project(made.rsample((20_000,)))
    assert stats.kstest(draws.numpy(), truth.cdf).pvalue > 1e-3
    moved = draws + 0.05 * (draws.quantile(0.84) - draws.quantile(0.16))
    assert stats.kstest(moved.numpy(), truth.cdf).pvalue < 1e-5


@pytest.mark.parametrize("name", [*CASES, *JOINT])
def test_gradient_of_an_expectation(name: str) -> None:
    """The mean path derivative of f is the derivative of E[f]: 4 measured standard errors at 10^5 draws."""
    if name in CASES:
        parameters, f, expected = CASES[name].parameters, CASES[name].f, CASES[name].expected
    else:
        parameters, f, expected, _ = JOINT[name]
    p = leaves(parameters)
    exact = torch.autograd.grad(expected(p), list(p.values()))
    groups = []
    for _ in range(50):
        value = f(FAMILIES[name].make(**p).rsample((2000,))).mean()
        groups.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, list(p.values()))]))
    found = torch.stack(groups)
    truth = torch.cat([g.flatten() for g in exact])
    if name.startswith("multivariate"):  # what stands above the diagonal is no parameter
        used = torch.cat(
            [
                torch.ones_like(v, dtype=torch.bool).tril().flatten() if v.dim() == 2 else v.flatten() < 1e9
                for v in p.values()
            ]
        )
        found, truth = found[:, used], truth[used]
    error = found.std(0) / len(found) ** 0.5
    assert bool(((found.mean(0) - truth).abs() <= 4 * error + 1e-9).all())
    assert bool((error < 0.1 * truth.abs() + 0.05).all())  # sharp enough to see a wrong formula


@pytest.mark.parametrize("name", CASES)
def test_path_derivative_against_the_cdf(name: str) -> None:
    r"""dz / dphi = -(dF / dphi) / p(z), with dF / dphi by central differences of SciPy's CDF at the same draw."""
    case = CASES[name]
    p = leaves(case.parameters)
    z = FAMILIES[name].make(**p).rsample((7,))
    for key, leaf in p.items():
        if key in case.two_noises:
            continue
        found = torch.stack([torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in z])
        step = 1e-5 * abs(case.parameters[key])

        def cdf(shift: float, key: str = key) -> Any:
            moved = {**case.parameters, key: case.parameters[key] + shift}
            law = stats.beta(*moved.values()) if name == "beta" else case.scipy(**moved)
            return law.cdf(z.detach().numpy())

        law = stats.beta(2.3, 1.2) if name == "beta" else case.scipy(**case.parameters)
        slope = (cdf(step) - cdf(-step)) / (2 * step)
        expected = torch.as_tensor(-slope / law.pdf(z.detach().numpy()))
        torch.testing.assert_close(found, expected, rtol=case.tolerance, atol=case.tolerance)


PRIORS = {
    "real": ("normal", {"loc": 0.0, "scale": 1.5}),
    "positive": ("gamma", {"concentration": 2.0, "rate": 1.0}),
    "simplex": ("dirichlet", {"concentration": 1.5}),
    "unit interval": ("beta", {"concentration1": 1.5, "concentration0": 1.5}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_as_a_guide_of_a_vae(name: str) -> None:
    """Each family is a guide: checked, and its bound rises when the guide alone is trained."""
    torch.manual_seed(0)
    prior_name, parameters = PRIORS[FAMILIES[name].support]
    if FAMILIES[name].joint and prior_name == "normal":
        prior_name, parameters = "multivariate_normal", {"loc": torch.zeros(2), "scale_tril": 1.5 * torch.eye(2)}
    pair = VAE(
        FixedPrior(prior_name, 2, **parameters),
        Normal(MLP(2, []), 3, scale=0.8),
        Reparameterized(name, MLP(3, [8]), 2),
    )
    x = 0.5 + torch.randn(64, 3)
    estimator = elbo.TraceELBO(num_particles=4)
    estimator.check(pair, x)
    optimizer = torch.optim.Adam(pair.posterior.parameters(), lr=0.03)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        terms = estimator.terms(pair, x)
        (-terms.objective() / 64).backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in pair.posterior.parameters())
        optimizer.step()
        values.append(terms.local.mean().item())
    assert sum(values[-10:]) > sum(values[:10])


def test_logistic_noise_is_never_infinite() -> None:
    """Pyro's own logistic draws an infinity where its float32 noise is exactly zero; ours cannot."""
    zero = torch.zeros(3)
    from ppvae.distributions import inverse_cdf

    smallest = inverse_cdf.open_uniform(zero, torch.Size([3])).new_tensor([0.0]).clamp(torch.finfo(torch.float32).tiny)
    made = inverse_cdf.Logistic(zero, torch.ones(3))
    assert bool(torch.isfinite(made.icdf(smallest)).all())
    assert not bool(torch.isfinite(made.icdf(torch.zeros(1))).any())
    assert made.expand([2, 3]).rsample().shape == (2, 3)
    assert isinstance(made.expand([2, 3]), inverse_cdf.Logistic)


def test_errors() -> None:
    with pytest.raises(PpvaeError, match="unknown family 'gumble': did you mean 'gumbel'"):
        Reparameterized("gumble", MLP(3, []), 2)
    with pytest.raises(PpvaeError, match="one axis jointly"):
        Reparameterized("dirichlet", MLP(3, []), (2, 2))
    with pytest.raises(PpvaeError, match="out_features, found None"):
        Reparameterized("normal", torch.nn.Identity(), 2)
    with pytest.raises(PpvaeError, match="has the parameters loc, scale, found loc"):
        FixedPrior("normal", 2, loc=0.0)
    with pytest.raises(PpvaeError, match=r"'scale' of 'normal': expected GreaterThan"):
        FixedPrior("normal", 2, loc=0.0, scale=-1.0)
