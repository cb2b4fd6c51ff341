"""What changes while a pair is trained reaches the step, in every mode, or is refused by name."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.training import quiet
from pyro import poutine
from torch import Tensor, nn

from ppvae.core import FitError, ModelGuidePair
from ppvae.inference import Callback, TrainingState, elbo, evaluate_bound

MODES = pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("compiled", marks=pytest.mark.slow)])
SHIFT = 0.0


class Shifted(ModelGuidePair):
    """x ~ N(z + a + beta, 1) with z ~ N(0, 1), and its exact guide at a + beta: the bound is log p(x) itself."""

    def __init__(self, beta: Any = 0.0) -> None:
        super().__init__()
        if isinstance(beta, Tensor):
            self.register_buffer("beta", beta)
        else:
            self.beta = beta
        self.a = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.calls = 0

    def at(self) -> Any:
        return self.a + self.beta + SHIFT

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z + self.at(), 1.0), obs=x[:, 0])

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal((x[:, 0] - self.at()) / 2, 0.5**0.5))


def data() -> Tensor:
    return torch.randn(40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1


def log_p(x: Tensor, at: float) -> Tensor:
    return -((x - at) ** 2) / 4 - math.log(4 * math.pi) / 2


def exact(at: float) -> float:
    return float(log_p(data(), at).mean())


def train(
    pair: ModelGuidePair, change: Callable[[Any, int], None], mode: str, **options: Any
) -> list[dict[str, float]]:
    """Steps of vanishing size over all data, with a change after each epoch."""
    given: dict[str, Any] = {"num_epochs": 4, "batch_size": None, "learning_rate": 1e-12, "validation": data()}
    given |= {"elbo": elbo.TraceELBO(), "compile": mode, "callbacks": [lambda s: change(s.pair, s.epoch)]}
    history: list[dict[str, float]] = quiet(pair, data(), **{**given, **options}).history
    return history


def set_shift(value: float) -> None:
    globals()["SHIFT"] = value


@pytest.fixture(autouse=True)
def _put_back() -> Any:
    yield
    set_shift(0.0)


CHANGES: dict[str, tuple[Callable[[], ModelGuidePair], Callable[[Any, int], Any]]] = {
    "an attribute": (Shifted, lambda pair, epoch: setattr(pair, "beta", float(epoch))),
    "a global": (Shifted, lambda pair, epoch: set_shift(float(epoch))),
    "a buffer's value": (lambda: Shifted(torch.zeros(())), lambda pair, epoch: pair.beta.fill_(float(epoch))),
    "a buffer": (
        lambda: Shifted(torch.zeros(())),
        lambda pair, epoch: setattr(pair, "beta", torch.tensor(float(epoch))),
    ),
    "a parameter's value": (Shifted, lambda pair, epoch: pair.a.data.fill_(float(epoch))),
}


@MODES
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_after_an_epoch_is_in_the_next(case: str, mode: str) -> None:
    make, change = CHANGES[case]
    for row in train(make(), change, mode):
        assert row["elbo_train"] == pytest.approx(exact(row["epoch"] - 1), abs=1e-9)
        assert row["elbo_validation"] == pytest.approx(exact(row["epoch"] - 1), abs=1e-9)


@MODES
def test_a_change_after_a_step_is_in_the_next(mode: str) -> None:
    class EachStep(Callback):
        def on_start(self, state: TrainingState) -> None:
            state.pair.beta = 1.0

        def on_step(self, state: TrainingState) -> None:
            state.pair.beta = 1.0 + state.step % 2

    row = quiet(
        Shifted(),
        data(),
        num_epochs=1,
        batch_size=10,
        learning_rate=1e-12,
        elbo=elbo.TraceELBO(),
        compile=mode,
        callbacks=[EachStep()],
    ).history[0]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).reshape(4, 10)
    values = [log_p(data()[order[step]], 1.0 + step % 2).mean() for step in range(4)]
    assert row["elbo_train"] == pytest.approx(float(torch.stack(values).mean()), abs=1e-9)


def test_it_is_said_by_name_and_many_times_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
        rows = train(Shifted(), lambda pair, epoch: setattr(pair, "beta", epoch / 8), "graph", num_epochs=8)
    said = [record.getMessage() for record in caplog.records]
    assert said[:3] == ["'beta' changed: the training step is recorded anew"] * 3
    assert len(said) == 4
    assert "goes on eagerly" in said[3] and "self.register_buffer('beta', torch.tensor(...))" in said[3]
    for row in rows:
        assert row["elbo_train"] == pytest.approx(exact((row["epoch"] - 1) / 8), abs=1e-9)


def test_a_buffer_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
        train(Shifted(torch.zeros(())), lambda pair, epoch: pair.beta.fill_(epoch / 8), "graph", num_epochs=8)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (
            lambda pair, epoch: setattr(pair, "a", nn.Parameter(torch.zeros((), dtype=torch.float64))),
            "'a' was replaced",
        ),
        (lambda pair, epoch: setattr(pair, "b", nn.Parameter(torch.zeros(()))), "'b' is new"),
    ],
)
def test_a_parameter_that_the_optimiser_does_not_have(change: Any, name: str) -> None:
    with pytest.raises(FitError, match=f"parameter {name} during training"):
        train(Shifted(), change, "graph")


class Two(Shifted):
    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))

    def at(self) -> Any:
        return self.a + self.b


def test_a_frozen_parameter_stays() -> None:
    pair, seen = Two(), []

    def freeze(state: TrainingState) -> None:
        seen.append((float(pair.a.detach()), float(pair.b.detach())))
        pair.a.requires_grad_(False)

    quiet(pair, data(), batch_size=None, learning_rate=0.1, compile="graph", callbacks=[freeze])
    assert seen[0][0] != 0.0 and len({a for a, _ in seen}) == 1 and len({b for _, b in seen}) == 3


class Counting(Shifted):
    """A schedule inside the program: every run of the guide moves it on, and with it the weight of the KL."""

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        self.calls += 1
        with poutine.scale(scale=1 + 0.25 * self.calls):
            super().guide(x, num_data)


@pytest.mark.parametrize("mode", ["graph", "eager"])
def test_a_program_that_changes_itself_is_run_at_every_step(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    pair, calls = Counting(), []
    with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
        rows = train(pair, lambda pair, epoch: calls.append(pair.calls), mode, validation=None)
    assert [b - a for a, b in pairwise(calls)] == [1, 1, 1]
    for row in rows:
        assert row["elbo_train"] == pytest.approx(exact(0.0), abs=1e-9)  # the bound is without the weight
    if mode == "graph":
        assert "the programs change 'calls' when they are run: this run goes on eagerly" in caplog.text


def test_a_closure_that_changes_itself(caplog: pytest.LogCaptureFixture) -> None:
    count = 0
    pair = Shifted()

    def model(x: Tensor) -> None:
        pair.model(x)

    def guide(x: Tensor) -> None:
        nonlocal count
        count += 1
        pair.guide(x)

    wrapped = ModelGuidePair.from_callables(model, guide, modules=[pair])
    seen: list[int] = []
    with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
        train(wrapped, lambda _, epoch: seen.append(count), "graph", validation=None)
    assert [b - a for a, b in pairwise(seen)] == [1, 1, 1]
    assert "change 'count in guide' when they are run" in caplog.text


class Tied(ModelGuidePair):
    """A trunk registered twice, and a parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(2, 2)
        self.again = self.trunk
        self.up, self.down = nn.Linear(2, 2), nn.Linear(2, 2)
        self.down.weight = self.up.weight

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.down(self.again(z)), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.up(self.trunk(x)), 1.0).to_event(1))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_what_is_shared_trains_on_after_an_evaluation(mode: Any) -> None:
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)) + 3
    pairs = []
    for evaluated in (True, False):
        torch.manual_seed(0)
        pair = Tied()
        if evaluated:
            evaluate_bound(pair, x, compile=mode, progress=False)
        assert isinstance(pair.trunk.weight, nn.Parameter) and isinstance(pair.down.weight, nn.Parameter)
        before = {name: value.clone() for name, value in pair.state_dict().items()}
        quiet(pair, x, compile=mode, learning_rate=0.1, validation=x if evaluated else None)
        assert all(not torch.equal(value, before[name]) for name, value in pair.state_dict().items())
        assert pair.again.weight is pair.trunk.weight and pair.down.weight is pair.up.weight
        pairs.append(pair)
    for name, value in pairs[0].state_dict().items():
        torch.testing.assert_close(value, pairs[1].state_dict()[name])
