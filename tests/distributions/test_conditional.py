"""Every conditional distribution of the package keeps the contract."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from contracts.conditional import CONTEXT, ConditionalContract, trunk
from torch import Tensor, nn

from ppvae import distributions
from ppvae.core import PpvaeError
from ppvae.distributions import (
    FAMILIES,
    Bernoulli,
    Categorical,
    ConditionalDistribution,
    ContinuousBernoulli,
    DiagonalNormal,
    FixedPrior,
    FullCovarianceNormal,
    LinearNormal,
    LowRankNormal,
    Normal,
    OneHotCategorical,
    Reparameterized,
    StandardNormal,
    independent,
    require_context,
)
from ppvae.networks import ConvDecoder

# --- likelihoods ---


class TestBernoulli(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Bernoulli(trunk(), event_shape)


class TestGreyBernoulli(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Bernoulli(trunk(), event_shape, allow_grey=True)


class TestContinuousBernoulli(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return ContinuousBernoulli(trunk(), event_shape)


class TestNormal(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Normal(trunk(), event_shape)


class TestNormalOfFreeScale(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Normal(trunk(), event_shape, scale="per-dimension")


class TestNormalOfSharedScale(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Normal(trunk(), event_shape, scale="shared")


class TestNormalOfFixedScale(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Normal(trunk(), event_shape, scale=1e-3, mean="sigmoid")


class TestCategorical(ConditionalContract):
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Categorical(trunk(), event_shape, 3)


class TestCategoricalOfIndicators(ConditionalContract):
    event_shapes = ((4, 3), (2, 3, 3))
    reparameterized = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Categorical(trunk(), event_shape[:-1], 3, one_hot=True)


class TestOneHotCategorical(ConditionalContract):
    reparameterized = False
    event_shapes = ((4,), (2,))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return OneHotCategorical(trunk(), event_shape[0])


# --- priors and posteriors ---


class TestFreeOneHotCategorical(TestOneHotCategorical):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return OneHotCategorical(None, event_shape[0])


class TestFreeBernoulli(ConditionalContract):
    reparameterized = conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Bernoulli(None, event_shape)


class TestFreeDiagonalNormal(ConditionalContract):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return DiagonalNormal(None, event_shape)


class TestLinearNormal(ConditionalContract):
    event_shapes = ((4,), (2,))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return LinearNormal([CONTEXT], event_shape[0])


class TestStandardNormal(ConditionalContract):
    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return StandardNormal(event_shape)


class TestDiagonalNormal(ConditionalContract):
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return DiagonalNormal(trunk(), event_shape)


class TestLowRankNormal(ConditionalContract):
    event_shapes = ((4,), (1,))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return LowRankNormal(trunk(), event_shape[0])


def test_low_rank_normal_is_the_normal_of_its_covariance() -> None:
    made = LowRankNormal(trunk(), 4, rank=3)
    found = made(torch.randn(5, CONTEXT))
    covariance = found.cov_factor @ found.cov_factor.mT + torch.diag_embed(found.cov_diag)
    assert found.cov_factor.shape == (5, 4, 3)
    value = torch.randn(5, 4)
    expected = dist.MultivariateNormal(found.loc, covariance).log_prob(value)
    torch.testing.assert_close(found.log_prob(value), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(PpvaeError, match="expected a rank of at least 1, found 0"):
        LowRankNormal(trunk(), 4, rank=0)


class TestFullCovarianceNormal(ConditionalContract):
    event_shapes = ((4,), (1,))

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return FullCovarianceNormal(trunk(), event_shape[0])


OF_MOVING_SUPPORT = {"pareto", "reciprocal", "uniform", "triangular"}


class TestReparameterized(ConditionalContract):
    """Every family."""

    family = "normal"

    @pytest.fixture(autouse=True, params=FAMILIES)
    def _of_a_family(self, request: pytest.FixtureRequest) -> None:
        self.family = request.param
        if FAMILIES[self.family].joint:
            self.event_shapes = ((4,),)
        self.fixed_support = not self.conditional or self.family not in OF_MOVING_SUPPORT

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        return Reparameterized(self.family, trunk(), event_shape)


class TestFixedPrior(TestReparameterized):
    """Every family, at parameters that all of them take."""

    conditional = False

    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        named = {"scale_tril": torch.eye(event_shape[-1]), "loc": 0.5}
        return FixedPrior(self.family, event_shape, **{n: named.get(n, 3.0) for n in FAMILIES[self.family].parameters})


# --- all of them ---


def contracts_of(module: object) -> Iterator[type[ConditionalContract]]:
    """The test classes of a file."""
    for found in vars(module).values():
        if inspect.isclass(found) and issubclass(found, ConditionalContract) and not inspect.isabstract(found):
            yield found


def test_every_conditional_distribution_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of another file of this folder too, as docs/extend/distribution.md says to make one."""
    tried = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, module)  # where its dataclasses look themselves up
        spec.loader.exec_module(module)
        tried |= {type(case().make(case.event_shapes[0])) for case in contracts_of(module)}
    members = [getattr(distributions, name) for name in distributions.__all__]
    expected = {
        m
        for m in members
        if inspect.isclass(m) and issubclass(m, ConditionalDistribution) and not inspect.isabstract(m)
    }
    assert expected <= tried
    assert len(expected) >= 9


# --- the contract can fail ---


class Undeclared(DiagonalNormal):
    """Forgets to declare its event."""

    def forward(self, *context: Tensor) -> Any:
        return super().forward(*context).base_dist


class LeftBehind(DiagonalNormal):
    """Holds a tensor that is no buffer."""

    def __init__(self, trunk: nn.Module, event_shape: tuple[int, ...]) -> None:
        super().__init__(trunk, event_shape)
        self.offset = torch.ones(event_shape)

    def forward(self, *context: Tensor) -> Any:
        loc, log_scale = self.head(*require_context(context, self))
        return independent(dist.Normal(loc + self.offset, log_scale.exp()), self.event_shape)


class Idle(DiagonalNormal):
    """Has a parameter that nothing reads."""

    def __init__(self, trunk: nn.Module, event_shape: tuple[int, ...]) -> None:
        super().__init__(trunk, event_shape)
        self.spare = nn.Parameter(torch.ones(1))


class Joined(DiagonalNormal):
    """Mixes the data of a batch."""

    def forward(self, *context: Tensor) -> Any:
        (value,) = require_context(context, self)
        return super().forward(value - value.mean(0))


class Branching(DiagonalNormal):
    """Branches on the value of a tensor."""

    def forward(self, *context: Tensor) -> Any:
        (value,) = require_context(context, self)
        return super().forward(value if value.sum() > 0 else 2 * value)


class Forgetful(DiagonalNormal):
    """Does without a context, unasked."""

    def forward(self, *context: Tensor) -> Any:
        return super().forward(*(context or (torch.zeros(CONTEXT).double(),)))


@pytest.mark.parametrize(
    ("broken", "test", "arguments"),
    [
        (Undeclared, "test_event_and_batch_shapes", ()),
        (LeftBehind, "test_device_follows", ("meta",)),
        (Idle, "test_gradient_reaches_every_parameter", ()),
        (Joined, "test_a_batch_equals_a_loop", ()),
        (Branching, "test_captured_equals_eager", ()),
        (Forgetful, "test_what_does_not_fit_is_refused", ()),
    ],
)
def test_the_contract_finds_what_is_broken(broken: Any, test: str, arguments: tuple[str, ...]) -> None:
    class Case(ConditionalContract):
        def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
            return broken(trunk(), event_shape)

    with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception)):
        getattr(Case(), test)(*arguments)
    if broken is not Undeclared:
        Case().test_event_and_batch_shapes()  # broken in one respect only


def test_a_network_puts_out_log_variances_where_it_is_told_to() -> None:
    posterior = DiagonalNormal(None, 3, log_variance=True, log_scale_range=(-3, 1))
    posterior.head.free[1].data = torch.tensor([-9.0, 0.5, 9.0])
    torch.testing.assert_close(posterior().base_dist.variance, torch.tensor([-6.0, 0.5, 2.0]).exp())


@pytest.mark.parametrize("log_variance", [True, False])
@pytest.mark.parametrize("free", [True, False])
def test_scales_start_where_they_are_told_to(log_variance: bool, free: bool) -> None:
    posterior = DiagonalNormal(None if free else trunk(), 3, log_variance=log_variance, init_scale=0.3)
    found = posterior(*(() if free else (10 * torch.randn(6, CONTEXT),))).base_dist
    torch.testing.assert_close(found.scale, torch.full_like(found.scale, 0.3))
    found.scale.sum().backward()  # and it is trained from there
    assert all(
        bool((p.grad != 0).any()) for p in (posterior.head.free[1:] if free else posterior.head.layers[1].parameters())
    )
    with pytest.raises(PpvaeError, match=r"init_scale: expected a positive, finite number, found 0\.0"):
        DiagonalNormal(None, 3, init_scale=0.0)


def test_a_trunk_that_puts_out_the_parameters_sets_their_start() -> None:
    with pytest.raises(PpvaeError, match=r"trunk ConvDecoder puts out the parameters itself"):
        DiagonalNormal(ConvDecoder(2, (1, 8, 8), outputs_per_pixel=2), (1, 8, 8), init_scale=1.0)


def test_scales_end_where_they_are_told_to() -> None:
    prior = DiagonalNormal(None, 3, log_scale_range=(-3, 1))
    prior.head.free[1].data = torch.tensor([-9.0, 0.5, 9.0])
    torch.testing.assert_close(prior().base_dist.scale, torch.tensor([-3.0, 0.5, 1.0]).exp())
    for wrong in ((1.0, 1.0), (1.0,)):
        with pytest.raises(PpvaeError, match=r"log_scale_range: expected \(low, high\) with low < high"):
            DiagonalNormal(None, 3, log_scale_range=wrong)
