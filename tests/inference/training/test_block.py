"""Several steps in one call: the numbers of steps one by one, bit for bit, and the same errors."""

from __future__ import annotations

import contextlib
import copy
import signal
from typing import Any

import pytest
import torch
from contracts.training import binary, quiet, relaxed, small
from torch import Tensor, nn

from ppvae.core import FitError, ModelGuidePair, PpvaeError
from ppvae.data import load
from ppvae.inference import Callback, Cyclic, Exponential, KLWarmup, Linear, TrainingState, elbo, fit_many
from ppvae.models import bernoulli_vae, gaussian_vae


def normalised() -> ModelGuidePair:
    """With a batch norm, whose statistics a step writes."""
    pair = small()
    pair.posterior.head.trunk.layers.append(nn.BatchNorm1d(8))  # type: ignore[operator, union-attr]
    return pair


def state_of(pair: ModelGuidePair, found: Any) -> tuple[dict[str, Tensor], list[dict[str, float]], Tensor]:
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in found.history]
    return pair.state_dict(), rows, found.state.random_states[0]


def require_equal(one: Any, other: Any) -> None:
    assert one[1] == other[1] and torch.equal(one[2], other[2])
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "adam": (small, binary(), {"compile": "graph", "clip_norm": 0.5, "weight_prior": torch.distributions.Normal(0, 1)}),
    "adagrad, by site": (
        small,
        binary(),
        {
            "optimizer": "adagrad",
            "kl_weight": {"z": Cyclic(0.0, 1.0, period=5, unit="steps")},
            "validation": binary(20),
        },
    ),
    "sgd, warm-up": (small, binary(), {"optimizer": "sgd", "kl_warmup": KLWarmup(2), "seed": 4}),
    "scheduled buffers": (
        relaxed,
        binary(),
        {
            "elbo": elbo.TraceELBO(),
            "schedules": {
                "posterior.temperature": Exponential(1.0, 0.5, over=6, unit="steps"),
                "prior.temperature": Linear(0.9, 0.6, over=2),
            },
        },
    ),
    "a baseline of the estimator": (small, binary(), {"elbo": elbo.ScoreFunctionELBO(baseline="decaying-average")}),
    "a batch norm": (normalised, binary(), {}),
    "learning rate by epoch": (
        small,
        binary(),
        {"schedule": lambda made: torch.optim.lr_scheduler.StepLR(made, 1, 0.5)},
    ),
    "fresh noise in the data": (
        lambda: bernoulli_vae(64, latent_dim=2, hidden=(8,)),
        load("digits", binarize="dynamic").take(200),
        {},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_steps_one_by_one(case: str) -> None:
    """Epochs of ten steps, in calls of four: each ends with steps alone."""
    make, data, options = CASES[case]
    found = []
    for size in (1, 4):
        torch.manual_seed(0)
        pair = make()
        given = {"batch_size": 20, "compile": "graph", "steps_per_call": size, **copy.deepcopy(options)}
        found.append(state_of(pair, quiet(pair, data, **given)))
    require_equal(*found)


def test_steps_are_made_together_where_nobody_watches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from ppvae.inference.training.block import Block

    calls: list[int] = []
    run = Block.__call__
    monkeypatch.setattr(Block, "__call__", lambda self: (calls.append(self.state.step), run(self))[1])
    quiet(small(), binary(), batch_size=20, num_epochs=1, compile="graph", steps_per_call=4)
    assert calls == [1, 5]
    steps: list[int] = []

    class Watch(Callback):
        def on_step(self, state: TrainingState) -> None:
            steps.append(state.step)

    for options in ({"callbacks": [Watch()], "compile": "graph"}, {"compile": "eager"}):
        quiet(small(), binary(), batch_size=20, num_epochs=1, steps_per_call=4, **options)
    assert calls == [1, 5] and steps == [*range(1, 11)]


def test_the_step_at_fault_is_found_and_nothing_has_changed() -> None:
    """A value of the data that overflows, at a step inside a call: the same error, the same state before it."""
    data = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    data[77] = 3e38
    errors = []
    for size in (1, 6):
        torch.manual_seed(0)
        pair = gaussian_vae(4, latent_dim=2, hidden=(3,), mean="identity")
        with pytest.raises(FitError, match="a log density that is not finite") as error:
            quiet(pair, data, batch_size=20, compile="graph", seed=1, optimizer="adagrad", steps_per_call=size)
        errors.append((error.value, copy.deepcopy(pair.state_dict())))
    (one, before), (several, again) = errors
    assert 77 in one.indices and one.step is not None and one.step > 2
    assert (one.step, one.indices, one.site, str(one)) == (several.step, several.indices, several.site, str(several))
    for name, value in before.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.usefixtures("ctrl_c_works")
def test_a_run_goes_on_from_between_two_calls() -> None:
    """Ctrl-C inside a call waits for its end; what is resumed from there has the numbers of the whole."""
    options: dict[str, Any] = {"batch_size": 20, "compile": "graph", "steps_per_call": 4}
    whole = small()
    expected = state_of(whole, quiet(whole, binary(), **options))
    part = small()

    class Stop(Callback):
        def on_start(self, state: TrainingState) -> None:
            make, calls = state.optimizer.step, iter(range(100))

            def interrupted(*args: Any, **options: Any) -> Any:
                if next(calls) == 2:
                    signal.raise_signal(signal.SIGINT)
                return make(*args, **options)

            state.optimizer.step = interrupted  # type: ignore[method-assign]

    first = quiet(part, binary(), callbacks=[Stop()], **options)
    assert first.outcome.code == "interrupted" and first.state.step == 5
    second = small()
    require_equal(state_of(second, quiet(second, binary(), resume=first.state.state_dict(), **options)), expected)


def test_a_size_that_is_none_is_refused() -> None:
    with pytest.raises(PpvaeError, match="steps_per_call: expected at least 1, found 0"):
        quiet(small(), binary(), steps_per_call=0)


def test_many_fits_take_it() -> None:
    options: dict[str, Any] = {"num_epochs": 2, "batch_size": 20, "compile": "graph", "progress": False}
    one, several = (
        fit_many(small, binary(), seeds=[0, 1], how="sequence", steps_per_call=size, **options) for size in (1, 3)
    )
    for a, b in zip(one, several, strict=True):
        assert a.history[-1]["elbo_train"] == b.history[-1]["elbo_train"]


def test_steps_that_no_graph_holds_are_made_one_by_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a GPU whose recording fails after some of the steps: once a line says so, and no number changes."""
    from ppvae.inference.training.block import Block

    options: dict[str, Any] = {"batch_size": 20, "compile": "graph"}
    expected = small()
    whole = state_of(expected, quiet(expected, binary(), **options))

    def fails(self: Any) -> None:
        self._graph = object()
        self._steps()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Block, "_run", fails)
    pair = small()
    require_equal(state_of(pair, quiet(pair, binary(), steps_per_call=4, **options)), whole)
    assert caplog.text.count("launched one by one, not replayed: operation not permitted") == 1


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_what_ends_a_call_leaves_the_state_before_it(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the third step of a call: the parameters are those after the one step before it."""
    from ppvae.inference.training.objective import Objective

    apply, pairs = Objective.apply, []
    for size, last in ((1, 2), (4, 4)):
        calls = iter(range(1, 100))

        def ends(self: Any, *args: Any, calls: Any = calls, last: int = last) -> None:
            if next(calls) == last:
                raise error
            apply(self, *args)

        monkeypatch.setattr(Objective, "apply", ends)
        pairs.append(small())
        with contextlib.suppress(PpvaeError):
            quiet(pairs[-1], binary(), batch_size=20, num_epochs=1, compile="graph", steps_per_call=size)
    for name, value in pairs[0].state_dict().items():
        assert torch.equal(value, pairs[1].state_dict()[name]), name
