"""Flows: density, inverses, what a step costs, the linear twin, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from contracts.conditional import ConditionalContract, trunk
from pyro.distributions.transforms.planar import ConditionedPlanar
from torch import Tensor

from ppvae.core import PpvaeError, check_pair
from ppvae.core.compile import bind, capture, state_of
from ppvae.distributions import (
    Bernoulli,
    ConditionalDistribution,
    DiagonalNormal,
    Flow,
    FlowPosterior,
    FlowPrior,
    Normal,
    StandardNormal,
)
from ppvae.distributions.planar import AmortizedPlanar, Planar
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import VAE
from ppvae.networks import MLP, ConvDecoder

POSTERIORS = ("planar", "iaf", "coupling", "spline")
PRIORS = ("maf", "coupling", "spline")


class TestFlowPosterior(ConditionalContract):
    """Every flow."""

    event_shapes = ((4,), (1,))
    flow: Any = "iaf"

    @pytest.fixture(autouse=True, params=POSTERIORS)
    def _of_a_flow(self, request: pytest.FixtureRequest) -> None:
        self.flow = request.param

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return FlowPosterior(trunk(), event_shape, flow=self.flow, num_transforms=2, hidden=(5,))


class TestFlowPrior(ConditionalContract):
    """Every flow."""

    event_shapes = ((4,), (1,))
    conditional = False
    flow: Any = "coupling"

    @pytest.fixture(autouse=True, params=PRIORS)
    def _of_a_flow(self, request: pytest.FixtureRequest) -> None:
        self.flow = request.param

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return FlowPrior(event_shape, flow=self.flow, num_transforms=2, hidden=(5,))


def moved(made: ConditionalDistribution) -> ConditionalDistribution:
    """The same with parameters of a size that matters."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in made.double().parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def posterior(flow: Any, dim: int) -> Any:
    return moved(FlowPosterior(MLP(2, [6]), dim, flow=flow, num_transforms=3, hidden=(8,)))


def prior(flow: Any, dim: int) -> Any:
    return moved(FlowPrior(dim, flow=flow, num_transforms=3, hidden=(8,)))


# --- the density ---


@pytest.mark.parametrize("flow", POSTERIORS)
@pytest.mark.parametrize("dim", [1, 3])
def test_density_of_its_own_draw_is_that_of_the_value(flow: str, dim: int) -> None:
    """Value and gradient: from drawing it, from the inverse, and from the Jacobian by differentiation."""
    made, context = posterior(flow, dim), torch.randn(4, 2, dtype=torch.float64)
    found = made(context)
    draws = found.rsample((5,))
    kept, anew = found.log_prob(draws), made(context).log_prob(draws.clone())
    torch.testing.assert_close(kept, anew)
    parameters = list(made.parameters())
    for one, other in zip(
        torch.autograd.grad(kept.sum(), parameters, retain_graph=True, allow_unused=True),
        torch.autograd.grad(anew.sum(), parameters, allow_unused=True),
        strict=True,
    ):
        torch.testing.assert_close(
            *(torch.zeros(1).double() if g is None else g for g in (one, other)), check_device=False
        )
    one = made(context[0])
    noise = one.base.rsample()

    def through(value: Tensor) -> Tensor:
        for transform in one.transforms:
            value = transform(value)
        return value

    jacobian: Any = torch.autograd.functional.jacobian(through, noise)
    expected = one.base.log_prob(noise) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(one.log_prob(through(noise)), expected)


@pytest.mark.parametrize("flow", [*(f"q-{flow}" for flow in POSTERIORS), *(f"p-{flow}" for flow in PRIORS)])
def test_draws_have_the_density_and_it_is_normalised(flow: str) -> None:
    """Over draws of a wider r, E[q / r] = 1, and moments by the weights q / r are those of the draws of q."""
    side, _, name = flow.partition("-")
    found = posterior(name, 2)(torch.ones(2, dtype=torch.float64)) if side == "q" else prior(name, 2)()
    with torch.no_grad():
        draws = found.sample((20_000,))
        wide = dist.MultivariateNormal(draws.mean(0), 4 * torch.cov(draws.T))
        others = wide.sample((20_000,))
        weights = (found.log_prob(others) - wide.log_prob(others)).exp()
    for values in (weights - 1, weights * others[:, 0] - draws[:, 0], weights * others[:, 1].cos() - draws[:, 1].cos()):
        assert abs(float(values.mean())) < 4.5 * float(values.std()) / 20_000**0.5


def planar_parameters(scale: float) -> list[Tensor]:
    torch.manual_seed(0)
    return [scale * torch.randn(200, n, dtype=torch.float64) for n in (1, 2, 2)]


def test_planar_inverse_carries_the_gradient_of_the_root() -> None:
    parameters = [parameter[:3].requires_grad_() for parameter in planar_parameters(1.0)]
    y = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y, *p: Planar(*p).inv(y), (y, *parameters))
    far = 100 * torch.randn(200, 2)
    planar = Planar(*(parameter.float() for parameter in planar_parameters(5.0)))
    torch.testing.assert_close(planar(planar.inv(far).clone()), far, rtol=1e-4, atol=1e-3)


def test_planar_is_pyros_but_for_where_u_is_nothing() -> None:
    """That is, where 1 + m is the same, with the constant taken off w u."""
    bias, u, w = planar_parameters(1.0)
    x = torch.randn(200, 2, dtype=torch.float64)
    shifted = u + math.log(math.e - 1) * w / w.square().sum(-1, keepdim=True)
    theirs = ConditionedPlanar([bias, shifted, w])
    y, log_det = Planar(bias, u, w).call_and_ladj(x)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(x, theirs(x)))


def test_planar_determinant_where_it_nearly_folds() -> None:
    """w u far below -1, at the fold: in single precision as in double, value and gradient."""
    found = []
    for dtype in (torch.float32, torch.float64):
        along = torch.tensor([-5.0, -20.0, -60.0], dtype=dtype)[:, None].requires_grad_()
        w = torch.tensor([[3.0, -4.0]], dtype=dtype).expand(3, 2)
        planar = Planar(torch.zeros(3, 1, dtype=dtype), along * w / 25, w)
        log_det = planar.log_abs_det_jacobian(torch.zeros(3, 2, dtype=dtype), w)
        (slope,) = torch.autograd.grad(log_det.sum(), along)
        found.append((log_det.double(), slope.double()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        found[1][0], torch.tensor([-5.0, -20.0, -60.0]).double() + math.log(math.e - 1), rtol=1e-2, atol=1e-2
    )


def test_planar_starts_as_the_identity() -> None:
    x = torch.randn(6, 4)
    y, log_det = AmortizedPlanar(4, 3)(torch.randn(6, 3)).call_and_ladj(x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(log_det, torch.zeros(6))
    assert bool(Planar(torch.ones(1), torch.ones(2), torch.zeros(2)).u_hat.isfinite().all())


# --- the exact twin: a linear flow of a Gaussian ---


class LinearFlow(ConditionalDistribution):
    """The flow of which everything is known."""

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        super().__init__(loc.shape[0])
        self.base = StandardNormal(loc.shape[0])
        self.register_buffer("loc", loc)
        self.register_buffer("scale_tril", scale_tril)
        FlowPrior(1)  # imports zuko, which gives torch's transforms a method that Flow calls

    def forward(self, *context: Tensor) -> Any:
        return Flow(self.base(), [dist.transforms.LowerCholeskyAffine(self.loc, self.scale_tril)])


def evidence_of(likelihood: Normal, loc: Tensor, scale_tril: Tensor) -> Any:
    """p(x) of a linear likelihood of scale 0.7."""
    layer: Any = likelihood.head.layers[0]
    factor = layer.weight @ scale_tril
    return dist.MultivariateNormal(layer.weight @ loc + layer.bias, factor @ factor.T + 0.49 * torch.eye(3))


def test_linear_flow_is_a_normal_of_full_covariance(float64: torch.dtype) -> None:
    torch.manual_seed(0)
    loc, scale_tril = torch.tensor([1.0, -2.0]), torch.tensor([[0.5, 0.0], [1.2, 0.3]])
    flow, normal = LinearFlow(loc, scale_tril), dist.MultivariateNormal(loc, scale_tril=scale_tril)
    z = 2 * torch.randn(50, 2)
    torch.testing.assert_close(flow().log_prob(z), normal.log_prob(z))
    draws = flow().rsample((7,))
    torch.testing.assert_close(flow().log_prob(draws), normal.log_prob(draws))

    likelihood = Normal(MLP(2, []), 3, scale=0.7)
    pair = VAE(flow, likelihood, FlowPosterior(MLP(3, [8]), 2, flow="iaf", num_transforms=2, hidden=(8,)))
    x = evidence_of(likelihood, loc, scale_tril).sample((300,))
    fit(pair, x, num_epochs=40, learning_rate=1e-2, elbo=elbo.TraceELBO(), compile="graph", progress=False)
    with torch.no_grad():
        exact = evidence_of(likelihood, loc, scale_tril).log_prob(x[:8])
    for method in (evidence.ImportanceSampling(4000), evidence.AIS(num_temperatures=40, num_chains=8)):
        found = log_evidence(pair, x[:8], method=method, compile="graph")
        error = (found.log_evidence - exact).abs()
        assert bool((error < 4.5 * found.standard_error).all()), method


# --- uses ---


def binary_vae(flow: Any) -> tuple[VAE, Tensor]:
    torch.manual_seed(0)
    q = FlowPosterior(MLP(6, [8]), 3, flow=flow, num_transforms=2, hidden=(8,))
    return VAE(StandardNormal(3), Bernoulli(MLP(3, [8]), 6), q), torch.rand(32, 6).round()


@pytest.mark.parametrize("flow", ["iaf", "planar"])
def test_a_step_inverts_nothing_and_is_captured(flow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from zuko.transforms import AutoregressiveTransform

    def refuse(*args: Any) -> Tensor:
        raise AssertionError("inverted")

    pair, x = binary_vae(flow)
    check_pair(pair, x)  # which looks at the density elsewhere too
    monkeypatch.setattr(AutoregressiveTransform, "_inverse", refuse)
    monkeypatch.setattr(Planar, "_inverse", refuse)
    for estimator in (elbo.TraceMeanFieldELBO(on_missing_kl="sample"), elbo.ImportanceWeightedELBO(num_particles=3)):
        run = capture(bind(pair, lambda module, data, of=estimator: of.terms(module, data).local), mode="graph")
        assert run(state_of(pair), x).shape == (32,) and run.fallback == ""
    with pytest.raises(AssertionError, match="inverted"):
        pair.posterior(x).log_prob(torch.zeros(3))


def test_importing_zuko_leaves_the_validation_of_arguments_as_it_was() -> None:
    program = """
from torch.distributions import Distribution
import ppvae.distributions as d, sys
assert "zuko" not in sys.modules
for before in (True, False):
    Distribution.set_default_validate_args(before)
    sys.modules.pop("zuko", None)
    d.FlowPrior(2)
    assert "zuko" in sys.modules and Distribution._validate_args is before
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowPrior(2, flow="splin"), "FlowPrior: unknown flow 'splin': did you mean 'spline'"),  # type: ignore[arg-type]
        (lambda: FlowPrior(2, flow="iaf"), "FlowPrior: unknown flow 'iaf'"),  # type: ignore[arg-type]
        (lambda: FlowPosterior(trunk(), 2, num_transforms=0), "at least one transform.*num_transforms=0"),
        (lambda: FlowPosterior(trunk(), 2, hidden=(5, 0)), r"one unit in every layer, found .* hidden=\[5, 0\]"),
        (
            lambda: FlowPosterior(ConvDecoder(2, (1, 4, 4), (4,), outputs_per_pixel=2), 16),
            "expected a trunk that puts out features, found one per",
        ),
        (lambda: FlowPrior((2, 3)), r"expected a vector, an event_shape of one number, found \(2, 3\)"),
    ],
)
def test_a_flow_that_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(PpvaeError, match=message):
        make()


def test_a_diagonal_normal_is_the_start_of_every_flow() -> None:
    """What is left of a posterior whose transforms are taken away."""
    made = FlowPosterior(trunk(), 2, num_transforms=1)
    made.transforms = torch.nn.ModuleList()
    plain = DiagonalNormal(trunk(), 2)
    plain.load_state_dict(made.state_dict())
    context, z = torch.randn(5, 3), torch.randn(5, 2)
    torch.testing.assert_close(made(context).log_prob(z), plain(context).log_prob(z))


def test_printing_a_flow_uses_up_no_random_numbers() -> None:
    made, before = FlowPrior(3), torch.get_rng_state()
    assert "MaskedAutoregressiveTransform" in repr(made)
    assert torch.equal(torch.get_rng_state(), before)
