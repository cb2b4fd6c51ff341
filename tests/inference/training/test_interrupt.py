"""Ctrl-C at any moment of a step: the step is finished first, and the run goes on bit for bit."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import torch
from contracts.training import binary, quiet, small

from ppvae.core import DataError, PpvaeError
from ppvae.inference import Callback, FitInterrupt, TrainingState, fit, fit_mcem
from ppvae.inference.training.interrupt import BetweenSteps
from ppvae.inference.training.mcem import Chains
from ppvae.inference.training.objective import Objective

pytestmark = pytest.mark.usefixtures("ctrl_c_works")


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Interrupting(torch.optim.Adam):
    """Presses Ctrl-C before and after the parameters have moved."""

    calls = at = 0

    def step(self, closure: Any = None) -> Any:
        Interrupting.calls += 1
        if Interrupting.calls == Interrupting.at:
            ctrl_c()
        return super().step(closure)


@pytest.mark.parametrize("place", ["optimiser", "objective", "row"])
def test_an_interrupted_run_goes_on_bit_for_bit(
    place: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"optimizer": lambda p: Interrupting(p, lr=0.01), "batch_size": 40, "num_epochs": 3}
    options["schedule"] = lambda made: torch.optim.lr_scheduler.ExponentialLR(made, 0.5)
    Interrupting.calls, Interrupting.at = 0, -1
    whole = quiet(small(), binary(), **options)
    with monkeypatch.context() as patch:
        if place == "optimiser":
            Interrupting.calls, Interrupting.at = 0, 7
        elif place == "objective":
            count, original = [0], Objective.__call__

            def call(self: Any, *args: Any) -> Any:
                count[0] += 1
                if count[0] == 7:
                    ctrl_c()
                return original(self, *args)

            patch.setattr(Objective, "__call__", call)
        else:
            step = torch.optim.lr_scheduler.ExponentialLR.step
            seen = [0]

            def scheduled(self: Any, epoch: Any = None) -> None:
                seen[0] += 1
                if seen[0] == 2:  # the first is its constructor's
                    ctrl_c()
                step(self)

            patch.setattr(torch.optim.lr_scheduler.ExponentialLR, "step", scheduled)
        part = quiet(small(), binary(), **options)
    assert part.outcome.code == "interrupted"
    assert part.state.step == (5 if place == "row" else 7)
    assert "after step" in part.outcome.message and "inside" not in part.outcome.message
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    Interrupting.at = -1
    rest = quiet(small(), binary(), resume=part.state.state_dict(), **options)
    for name, value in whole.state.pair.state_dict().items():
        assert torch.equal(rest.state.pair.state_dict()[name], value), name
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rest.history] == strip


def test_a_second_one_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), BetweenSteps() as between, between.step():  # noqa: PT012
        ctrl_c()
        done.append(1)
        ctrl_c()
        done.append(2)
    assert done == [1] and between.inside
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_a_step_it_is_at_once() -> None:
    class Stop(Callback):
        def on_epoch(self, state: TrainingState) -> None:
            ctrl_c()
            raise AssertionError("not reached")

    assert quiet(small(), binary(), callbacks=[Stop()]).outcome.code == "interrupted"


def test_a_script_ends_and_nothing_is_lost() -> None:
    """By default Ctrl-C is raised, once the step is done; what training came to is in the exception."""

    class Stop(Callback):
        def on_epoch(self, state: TrainingState) -> None:
            if state.epoch == 2:
                ctrl_c()

    options: dict[str, Any] = {"batch_size": 50, "num_epochs": 5, "progress": False}
    whole = fit(small(), binary(), **options)
    pair = small()
    with pytest.raises(KeyboardInterrupt, match="interrupted in epoch 3, after step 8") as caught:
        fit(pair, binary(), callbacks=[Stop()], **options)
    assert isinstance(caught.value, FitInterrupt) and caught.value.fit is not None
    assert caught.value.history == caught.value.fit.history and len(caught.value.history) == 2
    fit(pair, binary(), resume=caught.value.fit.state.state_dict(), **options)
    for name, value in whole.state.pair.state_dict().items():
        assert torch.equal(pair.state_dict()[name], value)
    with pytest.raises(PpvaeError, match="unknown on_interrupt 'rais': did you mean 'raise'"):
        fit(small(), binary(), on_interrupt="rais", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "mode"), [("transition", "eager"), ("update", "graph"), ("step", "graph"), ("epoch", "eager")]
)
def test_monte_carlo_em_too(place: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chains and their step size go on as well as the weights."""

    class Stop(Callback):
        def on_step(self, state: TrainingState) -> None:
            if place == "step" and state.step == 7:
                ctrl_c()

        def on_epoch(self, state: TrainingState) -> None:
            if place == "epoch" and state.epoch == 2:
                ctrl_c()

    options: dict[str, Any] = {"num_epochs": 3, "batch_size": 40, "num_updates": 2, "num_leapfrog": 3}
    options |= {"optimizer": lambda p: Interrupting(p, lr=0.01), "compile": mode, "progress": False}
    Interrupting.calls, Interrupting.at = 0, -1
    whole = fit_mcem(small(), binary(), **options)
    assert [row["step"] for row in whole.history] == [5, 10, 15]
    Interrupting.calls, Interrupting.at = 0, 13 if place == "update" else -1
    count, original = [0], Chains.move

    def move(self: Any, *args: Any) -> Any:
        count[0] += 1
        if count[0] == 7:
            ctrl_c()
        return original(self, *args)

    with monkeypatch.context() as patch:
        if place == "transition":
            patch.setattr(Chains, "move", move)
        with pytest.raises(FitInterrupt) as caught:
            fit_mcem(small(), binary(), callbacks=[Stop()], **options)
    part = caught.value.fit
    assert part.state.step == (10 if place == "epoch" else 7) and "after step" in str(caught.value)
    torch.rand(3)  # the generator is the caller's meanwhile
    state = part.state.state_dict()
    rest = fit_mcem(small(), binary(), resume=state, **options)
    assert rest.outcome.code == "completed"
    for module in ("pair", "estimator"):
        expected = whole.state.state_dict()[module]
        assert expected and all(torch.equal(rest.state.state_dict()[module][name], expected[name]) for name in expected)
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rest.history] == strip
    if place == "epoch":
        with pytest.raises(PpvaeError, match="the saved run was trained by another algorithm"):
            fit(small(), binary(), resume=state, progress=False)
        with pytest.raises(DataError, match="200 rows, these 100"):
            fit_mcem(small(), binary(100), resume=state, **options)


def test_another_programs_handler_is_left_alone() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with BetweenSteps() as between, between.step():
            ctrl_c()
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_beside_the_main_thread_there_is_no_handler() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(quiet(small(), binary(), num_epochs=1).outcome.code))
    thread.start()
    thread.join()
    assert found == ["completed"]


def test_an_error_inside_a_step_is_the_error() -> None:
    with pytest.raises(ZeroDivisionError), BetweenSteps() as between, between.step():  # noqa: PT012
        ctrl_c()
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
