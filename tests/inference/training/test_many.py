"""Several fits at once have the numbers of each alone, whatever a callback does to them; or they are refused."""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from contracts.training import binary
from torch import Tensor, nn
from torch.distributions import Normal

from ppvae.core import FitError, ModelGuidePair, PpvaeError
from ppvae.inference import Callback, EarlyStopping, KLWarmup, ManyFitsInterrupt, TrainingState, elbo, fit, fit_many
from ppvae.models import VAE, bernoulli_vae

SEEDS = (3, 0, 8)
OPTIONS: dict[str, Any] = {"batch_size": 50, "num_epochs": 3, "progress": False, "compile": "graph"}


def make_pair() -> ModelGuidePair:
    return bernoulli_vae(9, latent_dim=2, hidden=(5,)).double()


def data() -> Tensor:
    return binary().double()


def alone(make: Callable[[], ModelGuidePair], seed: int, x: Any, **options: Any) -> Any:
    """Eagerly, where nothing else is asked for: it is as exact, and what is recorded is the stack."""
    torch.manual_seed(seed)
    return fit(make(), x, seed=seed, on_interrupt="return", **{**OPTIONS, "compile": "eager", **options})


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-9) -> None:
    """All that is left of a fit: its history, its parameters, and everything that it would go on from."""
    assert [sorted(row) for row in ours.history] == [sorted(row) for row in theirs.history]
    for one, other in zip(ours.history, theirs.history, strict=True):
        for name in set(one) - {"seconds"}:
            assert one[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance, nan_ok=True), name
    assert (str(ours.outcome), ours.best_epoch) == (str(theirs.outcome), theirs.best_epoch)
    mine, other = ours.state.state_dict(), theirs.state.state_dict()
    for key in ("pair", "estimator", "optimizer", "batches", "random_state", "step", "steps_in_epoch", "sums"):
        torch.testing.assert_close(mine[key], other[key], rtol=tolerance, atol=tolerance, msg=key)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adagrad, a prior, clipped, warmed up, validated": {
        "optimizer": "adagrad",
        "weight_prior": Normal(0.0, 1.0),
        "clip_norm": 0.5,
        "kl_warmup": KLWarmup(2),
        "validation": binary(60, seed=1).double(),
        "schedule": lambda made: torch.optim.lr_scheduler.ExponentialLR(made, 0.5),
    },
    "momentum": {"optimizer": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)},
    "a baseline of the estimator's own": {"elbo": elbo.ScoreFunctionELBO()},
    "different ends": {
        "learning_rate": 0.2,
        "num_epochs": 9,
        "validation": binary(60, seed=1).double(),
        "early_stopping": EarlyStopping(patience=1),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_stack_has_the_numbers_of_each_fit_alone(case: str) -> None:
    fits = fit_many(make_pair, data(), seeds=SEEDS, how="stacked", **{**OPTIONS, **CASES[case]})
    assert fits.how == "stacked"
    for seed, ours in zip(SEEDS, fits, strict=True):
        assert_same(ours, alone(make_pair, seed, data(), **CASES[case]))
    if case == "different ends":
        assert len({len(one.history) for one in fits}) > 1


class WithMask(VAE):
    """Reads a tensor that is no buffer, drawn anew for each pair: a constant of its recorded step."""

    def __init__(self) -> None:
        inner = make_pair()
        super().__init__(prior=inner.prior, likelihood=inner.likelihood, posterior=inner.posterior)
        self.scales = [torch.rand(9, dtype=torch.float64)]

    def guide(self, x: Any, num_data: int | None = None) -> Any:
        return super().guide(x * self.scales[0], num_data)


class DrawsLabels(ModelGuidePair):
    """Its guide draws from a probability that it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.loc = nn.Parameter(torch.randn(9, dtype=torch.float64))

    def model(self, x: Any, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=x):
            z = pyro.sample("z", pyro.distributions.Bernoulli(0.5 * torch.ones_like(x[:, 0])))
            pyro.sample("x", pyro.distributions.Normal(self.loc * z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x: Any, num_data: int | None = None) -> None:
        with pyro.plate("data", num_data or len(x), subsample=x):
            pyro.sample("z", pyro.distributions.Bernoulli(logits=self.logit + 0 * x[:, 0]))


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (WithMask, {}, "different constants"),
        (DrawsLabels, {"elbo": elbo.ScoreFunctionELBO()}, "a draw depends on"),
        (make_pair, {"optimizer": lambda p: torch.optim.LBFGS(p)}, "LBFGS"),
        (make_pair, {"compile": "eager"}, "eagerly"),
    ],
    ids=["constants", "draws", "optimiser", "eager"],
)
def test_what_a_stack_would_get_wrong_is_refused_by_name(make: Any, options: Any, words: str) -> None:
    with pytest.raises(PpvaeError, match=words):
        fit_many(make, data(), seeds=SEEDS, how="stacked", **{**OPTIONS, **options})


def test_auto_takes_another_way_then() -> None:
    fits = fit_many(WithMask, data(), seeds=SEEDS[:2], **OPTIONS)
    assert fits.how == "sequence" and "constants" in fits.reason
    for seed, ours in zip(fits.seeds, fits, strict=True):
        assert_same(ours, alone(WithMask, seed, data(), compile="graph"), 0.0)


class Meddler(Callback):
    """Changes something of its own run in the second epoch."""

    def __init__(self, seed: int, what: str) -> None:
        self.seed, self.what = seed, what

    def on_epoch(self, state: TrainingState) -> None:
        if state.epoch != 2 or self.seed != SEEDS[1]:
            return
        parameter = next(iter(state.pair.parameters()))
        if self.what == "rate":
            state.optimizer.param_groups[0]["lr"] = 0.1
        elif self.what == "memory":
            parameter.data = torch.zeros_like(parameter)
        elif self.what == "in place":
            parameter.data.mul_(0.5)
        elif self.what == "optimiser":
            state.optimizer.state.clear()
        elif self.what == "count":
            state.optimizer.state[parameter]["step"].zero_()
        elif self.what == "frozen":
            parameter.requires_grad_(False)
        elif self.what == "stop":
            state.stop("enough")


@pytest.mark.parametrize("what", ["rate", "memory", "in place", "optimiser", "count", "frozen", "stop"])
def test_what_a_callback_does_to_one_run_is_done_to_that_one(what: str) -> None:
    options = {**OPTIONS, "num_epochs": 4, "batch_size": 100}
    meddlers = lambda seed: [Meddler(seed, what)]  # noqa: E731
    fits = fit_many(make_pair, data(), seeds=SEEDS, how="stacked", callbacks=meddlers, **options)
    for seed in SEEDS[:2]:
        theirs = alone(make_pair, seed, data(), **{**options, "callbacks": meddlers(seed), "compile": "eager"})
        assert_same(fits.fits[seed], theirs)


def test_one_that_fails_does_not_stop_the_others() -> None:
    class Spoils(Callback):
        def on_epoch(self, state: TrainingState) -> None:
            if state.epoch == 1:
                next(iter(state.pair.parameters())).data.fill_(math.nan)

    spoil = lambda seed: [Spoils()] if seed == 0 else []  # noqa: E731
    fits = fit_many(make_pair, data(), seeds=SEEDS, how="stacked", callbacks=spoil, **OPTIONS)
    assert list(fits.failures) == [0] and list(fits.fits) == [3, 8]
    with pytest.raises(FitError, match=r"step 5 .*has a value that is not finite"):
        fits[1]
    assert_same(fits[2], alone(make_pair, 8, data()))
    assert fits.history[-1]["num_seeds"] == 2


@pytest.mark.usefixtures("ctrl_c_works")
@pytest.mark.parametrize("how", ["stacked", "sequence"])
def test_ctrl_c_loses_nothing(how: Any) -> None:
    class Presses(Callback):
        def on_step(self, state: TrainingState) -> None:
            if state.step == 6:
                os.kill(os.getpid(), signal.SIGINT)

    press = lambda seed: [Presses()] if seed == SEEDS[1] else []  # noqa: E731
    with pytest.raises(ManyFitsInterrupt) as stopped:
        fit_many(make_pair, data(), seeds=SEEDS, how=how, callbacks=press, **OPTIONS)
    fits = stopped.value.fits
    assert fits[1].outcome.code == "interrupted" and fits[1].state.step == 6
    whole = fit_many(make_pair, data(), seeds=SEEDS, how=how, resume=fits.state_dict(), **OPTIONS)
    assert whole.how == how
    for seed, ours in zip(SEEDS, whole, strict=True):
        theirs = alone(make_pair, seed, data(), compile="graph")
        assert_same(ours, theirs, 1e-9 if how == "stacked" else 0.0)


def test_processes_have_the_numbers_of_each_fit_alone() -> None:
    make = functools.partial(bernoulli_vae, 9, latent_dim=2, hidden=(5,))
    fits = fit_many(make, binary(), seeds=(3, 0), how="processes", **OPTIONS)
    assert fits.how == "processes"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for seed, ours in zip(fits.seeds, fits, strict=True):
            assert_same(ours, alone(make, seed, binary(), compile="graph"), 0.0)
    finally:
        torch.set_num_threads(threads)


def test_the_table_is_over_the_seeds() -> None:
    fits = fit_many(make_pair, data(), seeds=SEEDS, how="sequence", **{**OPTIONS, "compile": "eager"})
    values = torch.tensor([one.history[-1]["elbo_train"] for one in fits], dtype=torch.float64)
    row = fits.history[-1]
    assert (row["num_seeds"], row["epoch"]) == (3, 3)
    assert row["elbo_train_mean"] == pytest.approx(float(values.mean()))
    assert row["elbo_train_sd"] == pytest.approx(float(values.std()))
    assert fits.mean() == pytest.approx((float(values.mean()), float(values.std())))
    assert [one["seed"] for one in fits.table()] == list(SEEDS)
    assert "3 fits" in fits._repr_html_()


shared = nn.Linear(2, 9).double()


class Shares(VAE):
    """A decoder that all pairs have in common."""

    def __init__(self) -> None:
        inner = make_pair()
        super().__init__(prior=inner.prior, likelihood=inner.likelihood, posterior=inner.posterior)
        self.shared = shared


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (make_pair, {"seeds": []}, "at least one, found none"),
        (make_pair, {"seeds": [1, 2, 1]}, "1 is there twice"),
        (make_pair, {"seeds": 8}, "seeds=range"),
        (make_pair, {"seeds": ["a"]}, "seeds: expected a whole number"),
        (make_pair, {"seed": 1}, r"seeds=\[1\]"),
        (make_pair, {"num_epoch": 1}, "did you mean 'num_epochs'"),
        (make_pair, {"how": "stack"}, "did you mean 'stacked'"),
        (make_pair, {"callbacks": [print]}, "a function of the seed"),
        (make_pair, {"resume": {7: {}}}, "seed 7, which is not among"),
        (lambda seed: make_pair(), {}, "without an argument"),
        (lambda: None, {}, "expected a ModelGuidePair"),
        (Shares, {}, "one tensor, 'shared.weight'"),
        (lambda: make_pair(), {"how": "processes"}, "cannot be sent"),
    ],
)
def test_bad_input_is_refused_by_name(make: Any, options: Any, words: str) -> None:
    with pytest.raises(PpvaeError, match=words):
        fit_many(make, data(), **{"seeds": [0, 1], **OPTIONS, **options})
    pair = make_pair()
    with pytest.raises(PpvaeError, match="a function that makes a pair"):
        fit_many(pair, data())


def test_no_random_numbers_of_the_caller_are_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    before = torch.get_rng_state()
    fit_many(make_pair, data(), seeds=SEEDS[:2], how="stacked", **OPTIONS)
    assert torch.equal(before, torch.get_rng_state()) and "2 fits in one stack" in caplog.text
