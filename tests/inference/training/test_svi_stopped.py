"""Training that is stopped: repeatable, resumed bit for bit from any step, nothing lost."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from contracts.training import binary, quiet, small

from ppvae.core import ModelGuidePair
from ppvae.data import load
from ppvae.inference import Callback, EarlyStopping, KLWarmup, TrainingState, evaluate_bound
from ppvae.inference.elbo.evaluation import BoundEstimate, BoundEvaluator
from ppvae.models import bernoulli_vae


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd", "adamw"])
def test_one_seed_gives_one_run(optimizer: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        pair = small()
        torch.rand(1)  # the caller's random state is not the run's
        mode = "auto" if optimizer == "adam" else "eager"
        quiet(pair, binary(), seed=seed, optimizer=optimizer, learning_rate=1e-2, compile=mode)
        runs.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_the_callers_random_state_is_left_alone() -> None:
    pair = small()
    before = torch.get_rng_state()
    quiet(pair, binary())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("stop_at", [2, 5, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_goes_on_bit_for_bit_from_any_step(optimizer: str, stop_at: int) -> None:
    data = load("digits", binarize="dynamic").take(300)
    options: dict[str, Any] = {
        "num_epochs": 3,
        "batch_size": 100,
        "optimizer": optimizer,
        "compile": "auto" if (optimizer, stop_at) == ("adagrad", 2) else "eager",
        "early_stopping": EarlyStopping(2),
        "kl_warmup": KLWarmup(2),
        "validation": load("digits", binarize="static").validation,
        "schedule": lambda made: torch.optim.lr_scheduler.StepLR(made, 1, 0.5),
    }

    def make() -> ModelGuidePair:
        torch.manual_seed(0)
        return bernoulli_vae(64, latent_dim=2, hidden=(8,))

    whole = make()
    full = quiet(whole, data, **options)

    class Stop(Callback):
        saved: Any = None

        def on_step(self, state: TrainingState) -> None:
            if state.step == stop_at:
                Stop.saved = copy.deepcopy(state.state_dict())
                raise KeyboardInterrupt

    first = quiet(make(), data, callbacks=[Stop()], **options)
    assert first.outcome.code == "interrupted" and first.state.step == stop_at
    second = make()
    resumed = quiet(second, data, resume=Stop.saved, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    drop = ("seconds",)
    assert [{k: v for k, v in row.items() if k not in drop} for row in resumed.history] == [
        {k: v for k, v in row.items() if k not in drop} for row in full.history
    ]


def test_early_stopping_restores_the_best_epoch() -> None:
    data, held_out = binary(60), binary(200, seed=1)
    pair = small()
    rule = EarlyStopping(patience=4)
    result = quiet(pair, data, validation=held_out, early_stopping=rule, num_epochs=500, learning_rate=0.03)
    curve = [row["elbo_validation"] for row in result.history]
    assert result.outcome.code == "early stopping" and len(curve) < 500
    assert result.best_epoch == 1 + max(range(len(curve)), key=curve.__getitem__) == len(curve) - 4
    again = evaluate_bound(pair, held_out, seed=0, num_repeats=1, progress=False)
    assert again.mean == pytest.approx(max(curve), abs=1e-4)


def test_ctrl_c_keeps_what_was_learnt() -> None:
    def interrupt(state: TrainingState) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    result = quiet(small(), binary(), callbacks=[interrupt], num_epochs=50)
    assert result.outcome.code == "interrupted" and len(result.history) == 2
    assert "step 8" in str(result.outcome)


def test_callbacks_are_told_of_everything() -> None:
    seen: list[str] = []

    class Listener(Callback):
        def on_start(self, state: TrainingState) -> None:
            seen.append("start")

        def on_step(self, state: TrainingState) -> None:
            seen.append("step")

        def on_epoch(self, state: TrainingState) -> None:
            seen.append("epoch")

        def on_end(self, state: TrainingState) -> None:
            seen.append("end")

    quiet(small(), binary(100), num_epochs=2, callbacks=[Listener()])
    assert seen == ["start", "step", "step", "epoch", "step", "step", "epoch", "end"]
    result = quiet(small(), binary(100), num_epochs=9, callbacks=[lambda state: state.stop("enough")])
    assert len(result.history) == 1 and str(result.outcome) == "enough"


def _hindered(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Ctrl-C in this call of the validation."""
    plain, calls = BoundEvaluator.__call__, []

    def hindered(self: BoundEvaluator, *args: Any) -> BoundEstimate:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return plain(self, *args)

    monkeypatch.setattr(BoundEvaluator, "__call__", hindered)


@pytest.mark.parametrize("batch_size", [50, None])
def test_stopped_in_the_validation_no_epoch_is_lost(monkeypatch: pytest.MonkeyPatch, batch_size: int | None) -> None:
    options: dict[str, Any] = {"validation": binary(60, seed=1), "num_epochs": 4, "batch_size": batch_size}
    options["kl_warmup"] = KLWarmup(3)
    whole = quiet(small(), binary(), **options)
    with monkeypatch.context() as patch:
        _hindered(patch, 2)
        part = quiet(small(), binary(), **options)
    assert part.outcome.code == "interrupted"
    assert len(part.history) == 1
    rest = quiet(small(), binary(), resume=part.state.state_dict(), **options)
    without = [{k: v for k, v in row.items() if k != "seconds"} for row in rest.history]
    assert without == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]


def test_stopped_before_the_end_the_best_parameters_do_not_take_the_place_of_the_last() -> None:
    def stop(state: TrainingState) -> None:
        if state.epoch == 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"validation": binary(60, seed=1), "num_epochs": 6}
    options["early_stopping"] = EarlyStopping(patience=50, min_gain=1000.0)  # the first epoch stays the best
    whole = quiet(small(), binary(), **options)
    part = quiet(small(), binary(), callbacks=[stop], **options)
    assert part.best_epoch == 1
    rest = quiet(small(), binary(), resume=part.state.state_dict(), **options)
    assert [row["elbo_train"] for row in rest.history] == [row["elbo_train"] for row in whole.history]
