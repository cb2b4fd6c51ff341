"""The tests that every conditional distribution inherits, be it a prior, a likelihood or a posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.constraints import is_dependent

from ppvae.core import ModelGuidePair, PpvaeError, check_pair, draw, log_joint
from ppvae.core.compile import bind, capture, state_of
from ppvae.distributions import ConditionalDistribution
from ppvae.networks import MLP

CONTEXT = 3
BATCH_SHAPES = ((), (5,), (2, 5))
DEVICES = ["meta", "cuda"] if torch.cuda.is_available() else ["meta"]


def trunk() -> MLP:
    """A small network on the contract's contexts."""
    return MLP(CONTEXT, [6])


class ConditionalContract(ABC):
    """Subclass it, and say how to make one.

    Attributes:
        event_shapes: what it is tried with.
        context_shape: the event shape of what stands behind the bar.
        conditional: it needs a context; False for a prior.
        reparameterized: its draws carry gradients.
        fixed_support: the support is the same for every context.
    """

    event_shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((4,), (2, 3))
    context_shape: ClassVar[tuple[int, ...]] = (CONTEXT,)
    conditional: ClassVar[bool] = True
    reparameterized: ClassVar[bool] = True
    fixed_support: ClassVar[bool] = True

    @abstractmethod
    def make(self, event_shape: tuple[int, ...]) -> ConditionalDistribution:
        """A fresh one; one that has a context gets ``trunk()``."""

    def each(self) -> Iterator[ConditionalDistribution]:
        """One for every event shape, in float64, with parameters of a size that matters."""
        for event_shape in self.event_shapes:
            made = self.make(event_shape).double()
            with torch.no_grad():
                for parameter in made.parameters():
                    parameter.add_(0.3 * torch.randn_like(parameter))
            yield made

    def beside(self, *batch_shape: int) -> tuple[Tensor, ...]:
        """What it is given beside the context of its trunk, such as an exposure [*batch_shape]."""
        return ()

    def context(self, *batch_shape: int) -> tuple[Tensor, ...]:
        """Contexts [*batch_shape, *context_shape] and what stands beside them; none for a prior."""
        if not self.conditional:
            return ()
        return (torch.randn(*batch_shape, *self.context_shape, dtype=torch.float64), *self.beside(*batch_shape))

    def given(self, made: ConditionalDistribution, *batch_shape: int) -> Any:
        """The distribution at such contexts; a prior's is the same for all data."""
        return made(*self.context(*batch_shape)) if self.conditional else made().expand(batch_shape)

    # --- what it is ---

    def test_event_and_batch_shapes(self) -> None:
        for made, event_shape in zip(self.each(), self.event_shapes, strict=True):
            assert made.event_shape == event_shape
            for batch_shape in BATCH_SHAPES:
                found = self.given(made, *batch_shape)
                assert isinstance(found, TorchDistributionMixin)
                assert (found.batch_shape, found.event_shape) == (batch_shape, event_shape)
                draws = found.sample((7,))
                assert draws.shape == (7, *batch_shape, *event_shape)
                assert found.log_prob(draws).shape == (7, *batch_shape)

    def test_a_prior_is_the_same_whatever_the_context(self) -> None:
        if self.conditional:
            return
        for made in self.each():
            bare, given = made(), made(torch.randn(5, *self.context_shape, dtype=torch.float64))
            assert bare.batch_shape == given.batch_shape == ()
            value = bare.sample().clone()  # a flow keeps the density of its own draw, to rounding
            assert torch.equal(bare.log_prob(value), given.log_prob(value))

    def test_a_batch_equals_a_loop(self) -> None:
        if not self.conditional:
            return
        for made in self.each():
            contexts = self.context(2, 5)
            value = made(*contexts).sample()
            together = made(*contexts).log_prob(value)
            for k in range(2):
                for b in range(5):
                    alone = made(*(context[k, b] for context in contexts))
                    torch.testing.assert_close(alone.log_prob(value[k, b]), together[k, b])
            assert together.std() > 1e-3  # the context matters

    # --- draws and density ---

    def test_draws_lie_in_the_support_and_have_a_density(self) -> None:
        for made in self.each():
            found = self.given(made, 5)
            assert not is_dependent(found.support)
            draws = found.sample((200,))
            assert bool(found.support.check(draws).all())
            assert bool(found.log_prob(draws).isfinite().all())

    def test_draws_carry_gradients_or_say_that_they_do_not(self) -> None:
        for made in self.each():
            found = self.given(made, 5)
            assert found.has_rsample == self.reparameterized
            if self.reparameterized and list(made.parameters()):
                assert found.rsample().requires_grad

    def test_gradient_reaches_every_parameter(self) -> None:
        for made in self.each():
            assert list(made.parameters()) or not self.conditional
            found = self.given(made, 5)
            objective = found.log_prob(found.sample()).sum()
            if self.reparameterized:  # some parameters, as the location of a uniform, move the draws alone
                objective = objective + found.rsample().sum()
            if not list(made.parameters()):
                continue
            objective.backward()
            idle = [n for n, p in made.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
            assert idle == []
            assert all(bool(p.grad.isfinite().all()) for p in made.parameters() if p.grad is not None)

    # --- uses ---

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_dtype_follows(self, dtype: torch.dtype) -> None:
        for made in self.each():
            context = self.context(5)
            value = made(*context).sample()
            expected = made(*context).log_prob(value)
            made = made.to(dtype)
            found = made(*(part.to(dtype) for part in context))
            draws = found.sample()
            assert draws.dtype == dtype or not value.is_floating_point()
            log_prob = found.log_prob(draws if dtype == torch.float32 else value)
            assert log_prob.dtype == dtype and bool(log_prob.isfinite().all())
            if dtype == torch.float64:
                assert torch.equal(log_prob, expected)

    @pytest.mark.parametrize("device", DEVICES)
    def test_device_follows(self, device: str) -> None:
        """On the device "meta", which has shapes and no numbers, a tensor left behind on the CPU is an error too."""
        for made in self.each():
            value = self.given(made, 5).sample().to(device)
            context = tuple(part.to(device) for part in self.context(5))
            with pyro.validation_enabled(device != "meta"):
                found = made.to(device)(*context)
                assert found.log_prob(value).device.type == device
                if device != "meta":
                    assert found.sample().device.type == device

    def test_state_round_trip(self) -> None:
        for made, other in zip(self.each(), self.each(), strict=True):
            context = self.context(5)
            value = made(*context).sample()
            expected = made(*context).log_prob(value)
            with pyro.validation_enabled(False):  # other parameters may have another support
                before = other(*context).log_prob(value)
            assert not list(made.parameters()) or not torch.equal(before, expected)
            other.load_state_dict(made.state_dict())
            assert torch.equal(other(*context).log_prob(value), expected)

    def test_captured_equals_eager(self) -> None:
        def both(made: ConditionalDistribution, *context: Tensor) -> tuple[Tensor, Tensor]:
            found = made(*context)
            draws = found.sample((3,))
            return draws, found.log_prob(draws)

        for made in self.each():
            context, results = self.context(5), []
            for mode in ("eager", "graph"):
                run = capture(bind(made, both), mode=mode)  # type: ignore[arg-type]
                torch.manual_seed(3)
                with pyro.validation_enabled(False):  # as the waist runs it: validation looks at values
                    results.append(run(state_of(made), *context))
                assert run.fallback == ""
            torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)

    def test_as_a_site_of_a_pair(self, float64: torch.dtype) -> None:
        """Observed in a plate over data, under draws on the left."""
        if not self.fixed_support:
            return  # data may lie outside
        for made in self.each():
            pair, (_, *beside) = _Observed(made, self.conditional, self.context_shape), self.context(5) or (None,)
            given = (
                made(torch.randn(5, *self.context_shape, dtype=torch.float64), *beside) if self.conditional else made()
            )
            value = given.expand((5,)).sample()
            x = {"x": value, **{str(place): part for place, part in enumerate(beside)}}
            check_pair(pair, x, num_data=50)
            latents = draw(pair, x, 3).latents
            joint = log_joint(pair, x, latents)
            assert joint.local.shape == joint.observed.shape == (3, 5)
            at = (latents["c"], *beside) if self.conditional else ()
            torch.testing.assert_close(joint.observed, made(*at).log_prob(value).expand(3, 5))

    # --- errors ---

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(PpvaeError, match="at least one dimension in event_shape, found"):
            self.make((0,) if len(self.event_shapes[0]) == 1 else (0, 1))
        for made in self.each():
            found = self.given(made, 5)
            wide = torch.cat([found.sample()] * 3, -1)
            with pytest.raises((ValueError, RuntimeError)):
                found.log_prob(wide)
            if self.conditional:
                with pytest.raises(PpvaeError, match=f"{type(made).__name__} is conditional: expected a context"):
                    made()


class _Observed(ModelGuidePair):
    """A latent context, and one site observed given it."""

    def __init__(self, made: ConditionalDistribution, conditional: bool, context_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.made, self.conditional = made, conditional
        self.loc = torch.nn.Parameter(torch.zeros(context_shape))

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            c = pyro.sample("c", dist.Normal(torch.zeros_like(self.loc), 1.0).to_event(self.loc.dim()))
            beside = [part for name, part in x.items() if name != "x"]
            pyro.sample("x", self.made(c, *beside) if self.conditional else self.made(), obs=x["x"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("c", dist.Normal(self.loc, 1.0).to_event(self.loc.dim()))
