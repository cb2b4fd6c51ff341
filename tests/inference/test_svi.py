"""Training: equal to Pyro step by step, repeatable, resumable, and stopped before harm is done."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from core.pairs import GammaLatent, GlobalWeight, Hierarchy, Regression
from torch import Tensor
from torch.distributions import Normal

from ppvae.core import DataError, FitError, ModelGuidePair, PairError, PpvaeError, scaled_total
from ppvae.data import load
from ppvae.inference import (
    Callback,
    EarlyStopping,
    KLWarmup,
    TrainingState,
    elbo,
    evaluate_bound,
    fit,
    sample_posterior,
    site_report,
)
from ppvae.inference.bound import BoundEstimate, BoundEvaluator
from ppvae.inference.objective import Objective
from ppvae.models import FactorAnalysis, bernoulli_vae, gaussian_vae


def binary(n: int = 200, d: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator)
    w = torch.randn(2, d, generator=generator)
    return (torch.rand(n, d, generator=generator) < torch.sigmoid(2 * z @ w)).float()


def small() -> ModelGuidePair:
    torch.manual_seed(0)
    return bernoulli_vae(9, latent_dim=2, hidden=(8,))


def quiet(pair: ModelGuidePair, data: Any, **options: Any) -> Any:
    return fit(pair, data, **{"batch_size": 50, "num_epochs": 3, "progress": False, **options})


# --- equal to Pyro ---

PAIRS = {
    "bernoulli vae": lambda: (bernoulli_vae(9, latent_dim=2, hidden=(8,)), binary(20)),
    "gaussian vae": lambda: (gaussian_vae(9, latent_dim=2, hidden=(8,)), torch.rand(20, 9)),
    "hierarchy": lambda: (Hierarchy(), torch.randn(20, 4)),
    "gamma": lambda: (GammaLatent(), torch.poisson(torch.full((20, 3), 3.0))),
    "global weight": lambda: (GlobalWeight(), torch.randn(20, 3)),
}


def gradients(pair: ModelGuidePair, estimator: Any, x: Tensor, mode: str) -> tuple[Tensor, dict[str, Tensor]]:
    objective = Objective(
        pair,
        estimator,
        num_data=90,
        weight_prior=None,
        prior_names=frozenset(),
        clip_norm=None,
        mode=mode,  # type: ignore[arg-type]
    )
    torch.manual_seed(7)
    step = objective(x, torch.ones((), dtype=x.dtype))
    return step.metrics[0], step.gradients


@pytest.mark.parametrize("case", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_estimator_a_equals_pyros_value_and_gradient(case: str, dtype: torch.dtype, mode: str) -> None:
    torch.manual_seed(0)
    pair, x = PAIRS[case]()
    pair, x = pair.to(dtype), x.to(dtype)
    theirs = gradients(pair, pyro.infer.Trace_ELBO(), x, "eager")
    ours = gradients(pair, elbo.TraceELBO(), x, mode)
    compare(theirs, ours, dtype)


@pytest.mark.parametrize("case", ["bernoulli vae", "gaussian vae", "gamma", "global weight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["eager", "graph", pytest.param("compiled", marks=pytest.mark.slow)])
def test_estimator_b_equals_pyros_value_and_gradient(case: str, dtype: torch.dtype, mode: str) -> None:
    torch.manual_seed(0)
    pair, x = PAIRS[case]()
    pair, x = pair.to(dtype), x.to(dtype)
    theirs = gradients(pair, pyro.infer.TraceMeanField_ELBO(), x, "eager")
    ours = gradients(pair, elbo.TraceMeanFieldELBO(), x, mode)
    compare(theirs, ours, dtype)
    assert abs(ours[0] - gradients(pair, elbo.TraceELBO(), x, "eager")[0]) > 1e-3  # A and B differ, noise for noise


def compare(theirs: Any, ours: Any, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    assert theirs[1].keys() == ours[1].keys()
    torch.testing.assert_close(ours[0], theirs[0], rtol=tolerance, atol=tolerance)
    for name, gradient in theirs[1].items():
        scale = float(gradient.abs().max()) + 1.0
        torch.testing.assert_close(ours[1][name], gradient, rtol=tolerance, atol=tolerance * scale, msg=name)


def test_whole_training_runs_agree_between_modes_and_with_pyro() -> None:
    x = binary()
    rows = []
    for estimator, mode in (
        (elbo.TraceELBO(), "eager"),
        (elbo.TraceELBO(), "graph"),
        (pyro.infer.Trace_ELBO(), "eager"),
    ):
        rows.append(quiet(small(), x, elbo=estimator, compile=mode).history[-1]["elbo_train"])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)
    assert rows[0] == pytest.approx(rows[2], rel=1e-4)


# --- truth ---


def test_training_reaches_the_maximum_of_the_likelihood() -> None:
    """Factor analysis with its exact guide: the bound is the evidence, whose maximum scikit-learn knows."""
    torch.manual_seed(0)
    truth = FactorAnalysis.from_parameters(torch.randn(6), torch.randn(6, 2), torch.rand(6) + 0.3)
    x = truth.marginal().sample((500,)).detach()
    best = FactorAnalysis.maximum_likelihood(x, 2).log_evidence(x).mean().item()
    pair = FactorAnalysis(6, 2)
    result = quiet(
        pair,
        x,
        elbo=elbo.TraceELBO(),
        num_epochs=400,
        batch_size=None,
        learning_rate=0.05,
        schedule=lambda made: torch.optim.lr_scheduler.CosineAnnealingLR(made, 400),
    )
    assert best - 0.02 < result.history[-1]["elbo_train"] <= best + 1e-3
    assert result.history[0]["elbo_train"] < best - 1
    assert result.history[-1]["learning_rate"] < result.history[0]["learning_rate"]


def test_the_reported_bound_is_that_of_the_parameters() -> None:
    """With a zero-variance estimator and a vanishing step the history equals the evidence to rounding."""
    torch.manual_seed(0)
    pair = FactorAnalysis(5, 2).double()
    x = pair.marginal().sample((100,)).detach()
    exact = pair.log_evidence(x).mean().item()
    result = quiet(pair, x, elbo=elbo.TraceELBO(), learning_rate=1e-12, batch_size=25, validation=x)
    for row in result.history:
        assert row["elbo_train"] == pytest.approx(exact, abs=1e-8)
        assert row["elbo_validation"] == pytest.approx(exact, abs=1e-8)
        assert row["elbo_train"] == pytest.approx(row["reconstruction_train"] - row["kl_train"], abs=1e-9)


def test_global_latents_are_counted_once_for_the_data() -> None:
    pair, x = GlobalWeight().double(), torch.randn(60, 3).double()
    metrics, _ = gradients(pair, elbo.TraceELBO(num_particles=2), x, "eager")
    torch.manual_seed(7)
    terms = elbo.TraceELBO(num_particles=2).terms(pair, x, 90)
    torch.testing.assert_close(metrics, scaled_total(terms.local, terms.global_, 90).detach() / 90)
    row = quiet(pair, x, batch_size=20).history[-1]
    assert row["elbo_train"] == pytest.approx(row["reconstruction_train"] - row["kl_train"] + row["global_train"])


def test_map_prior_is_one_over_n_of_its_log_density() -> None:
    """The gradient under a weight prior differs by exactly w / N on the model's parameters, not on the guide's."""
    pair, x = small().double(), binary(20).double()
    plain = gradients(pair, elbo.TraceELBO(), x, "eager")[1]
    names = frozenset(n for n, _ in pair.named_parameters() if n.startswith("likelihood"))
    objective = Objective(
        pair,
        elbo.TraceELBO(),
        num_data=90,
        weight_prior=Normal(0.0, 1.0),
        prior_names=names,
        clip_norm=None,
        mode="graph",
    )
    torch.manual_seed(7)
    step = objective(x, torch.ones((), dtype=x.dtype))
    for name, parameter in pair.named_parameters():
        expected = plain[name] + (parameter / 90 if name in names else 0)
        torch.testing.assert_close(step.gradients[name], expected.detach())
    assert objective.fell_back == ""


def test_fit_puts_the_map_prior_on_the_model_alone() -> None:
    """A prior of tiny scale holds the decoder at zero and leaves the encoder free."""
    pair = small()
    quiet(pair, binary(), weight_prior=Normal(0.0, 1e-3), optimizer="adagrad", learning_rate=0.1, num_epochs=20)
    decoder = torch.cat([p.flatten() for p in pair.likelihood.parameters()])
    encoder = torch.cat([p.flatten() for p in pair.posterior.parameters()])
    assert decoder.abs().max() < 0.03 < encoder.abs().max()


def test_clipping_scales_the_gradient_to_the_norm_asked_for() -> None:
    pair, x = small().double(), binary(20).double()
    plain = gradients(pair, elbo.TraceELBO(), x, "eager")[1]
    norm = math.sqrt(sum(float(g.square().sum()) for g in plain.values()))
    for clip, factor in ((norm / 3, 1 / 3), (3 * norm, 1.0)):
        objective = Objective(
            pair,
            elbo.TraceELBO(),
            num_data=90,
            weight_prior=None,
            prior_names=frozenset(),
            clip_norm=clip,
            mode="graph",
        )
        torch.manual_seed(7)
        step = objective(x, torch.ones((), dtype=x.dtype))
        assert float(step.gradient_norm) == pytest.approx(norm)
        for name, gradient in plain.items():
            torch.testing.assert_close(step.gradients[name], factor * gradient)


def test_kl_warmup_weighs_the_objective_and_not_the_report() -> None:
    assert [KLWarmup(10).weight(e) for e in (0, 5, 10, 99)] == [0.0, 0.5, 1.0, 1.0]
    assert KLWarmup(4, start=0.5).weight(2) == 0.75
    pair, x = small().double(), binary(20).double()
    for estimator in (elbo.TraceELBO(), elbo.TraceMeanFieldELBO()):
        torch.manual_seed(1)
        full = estimator.terms(pair, x)
        torch.manual_seed(1)
        half = estimator.terms(pair, x, kl_weight=torch.tensor(0.5))
        torch.testing.assert_close(half.local, full.local)
        torch.testing.assert_close(half.objective_local, full.reconstruction - 0.5 * full.kl)
    history = quiet(small(), binary(), kl_warmup=KLWarmup(2)).history
    assert [row["kl_weight"] for row in history][-1] == 1.0 and history[0]["kl_weight"] < 1.0


def test_several_particles_and_full_batch() -> None:
    result = quiet(small(), binary(40), elbo=elbo.TraceELBO(num_particles=7), batch_size=None)
    assert [row["step"] for row in result.history] == [1, 2, 3]


# --- repeatable and resumable ---


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd", "adamw"])
def test_one_seed_gives_one_run(optimizer: str) -> None:
    runs = []
    for seed in (3, 3, 4):
        pair = small()
        torch.rand(1)  # the caller's random state is not the run's
        quiet(pair, binary(), seed=seed, optimizer=optimizer, learning_rate=1e-2)
        runs.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_the_callers_random_state_is_left_alone() -> None:
    pair = small()
    before = torch.get_rng_state()
    quiet(pair, binary())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_a_run_goes_on_bit_for_bit_from_any_step(optimizer: str, stop_at: int) -> None:
    data = load("digits", binarize="dynamic").take(300)
    options: dict[str, Any] = {
        "num_epochs": 3,
        "batch_size": 100,
        "optimizer": optimizer,
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


# --- the end of training ---


def test_early_stopping_restores_the_best_epoch() -> None:
    data, held_out = binary(60), binary(200, seed=1)
    pair = small()
    rule = EarlyStopping(patience=4)
    result = quiet(pair, data, validation=held_out, early_stopping=rule, num_epochs=500, learning_rate=0.03)
    curve = [row["elbo_validation"] for row in result.history]
    assert result.outcome.code == "early stopping" and len(curve) < 500
    assert result.best_epoch == 1 + max(range(len(curve)), key=curve.__getitem__) == len(curve) - 4
    again = evaluate_bound(pair, held_out, seed=0, progress=False)
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


# --- numbers that are not finite ---


def test_a_gradient_that_is_not_finite_stops_before_any_parameter_changes() -> None:
    pair = small()

    class Poison(Callback):
        before: Any = None

        def on_step(self, state: TrainingState) -> None:
            if state.step == 3:
                with torch.no_grad():
                    state.pair.likelihood.head.layers[0].weight[0, 0] = float("inf")  # type: ignore[union-attr]
                Poison.before = copy.deepcopy(state.pair.state_dict())

    with pytest.raises(
        FitError, match=r"(?s)step 3 \(epoch 1\), before any parameter changed.*likelihood.*rows"
    ) as error:
        quiet(pair, binary(), callbacks=[Poison()])
    assert error.value.parameter == "likelihood.head.layers.0.weight" and error.value.step == 3
    assert len(error.value.indices) == 50
    for name, value in pair.state_dict().items():
        assert torch.equal(value, Poison.before[name])


def test_the_site_that_is_not_finite_is_named() -> None:
    """exp of a log-scale of 200 overflows in float32: the likelihood of x, not a parameter, is at fault."""
    pair = gaussian_vae(4, latent_dim=2, hidden=(3,), scale="shared", mean="identity")
    with torch.no_grad():
        pair.likelihood.log_scale.fill_(-60.0)  # type: ignore[operator, union-attr]
    with pytest.raises(FitError, match="site 'x' has a log density that is not finite") as error:
        quiet(pair, torch.randn(100, 4))
    assert error.value.site == "x"


# --- what may be passed in ---


def test_data_of_every_kind_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    for data in (binary().numpy(), binary().double().numpy(), binary().to(torch.uint8), binary().bool()):
        assert quiet(small(), data, num_epochs=1).history
    with caplog.at_level(logging.INFO, logger="ppvae.data"):
        quiet(small(), binary().double().numpy(), num_epochs=1)
    assert "float64" in caplog.text
    mapping = {"y": torch.randn(60), "covariates": torch.randn(60, 2), "seen": torch.rand(60) < 0.7}
    assert quiet(Regression(), mapping, num_epochs=1, batch_size=20).history


def test_a_pair_in_float64_is_trained_in_float64() -> None:
    pair = small().double()
    quiet(pair, binary(), num_epochs=1)
    assert {p.dtype for p in pair.parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 500}, DataError, "batch_size 500 is larger than the data, which has 200 rows"),
        ({"early_stopping": EarlyStopping()}, FitError, "early_stopping needs validation data"),
        ({"optimizer": "adm"}, PpvaeError, "did you mean 'adam'"),
        ({"optimizer": lambda p: 3}, PpvaeError, "expected a torch.optim.Optimizer, found int"),
        ({"learning_rate": 0.0}, PpvaeError, "learning_rate: expected a positive number"),
        ({"compile": "fast"}, PpvaeError, "compile: expected 'auto'"),
        ({"device": "cuda:99x"}, PpvaeError, "unknown device"),
        ({"elbo": pyro.infer.RenyiELBO(alpha=0.5)}, PpvaeError, "RenyiELBO of Pyro has no differentiable_loss"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quiet(small(), binary(), **options)


def test_bad_option_objects() -> None:
    for build in (
        lambda: EarlyStopping(patience=0),
        lambda: KLWarmup(0),
        lambda: KLWarmup(3, start=2.0),
        lambda: elbo.TraceELBO(num_particles=0),
        lambda: elbo.TraceMeanFieldELBO(on_missing_kl="ignore"),  # type: ignore[arg-type]
    ):
        with pytest.raises(PpvaeError, match="expected"):
            build()


def test_missing_kl_is_refused_or_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PpvaeError, match=r"(?s)expected a closed-form KL, found none.*on_missing_kl='sample'"):
        quiet(Hierarchy(), torch.randn(100, 4), elbo=elbo.TraceMeanFieldELBO())
    with caplog.at_level(logging.WARNING, logger="ppvae.elbo"):
        quiet(Hierarchy(), torch.randn(100, 4), elbo=elbo.TraceMeanFieldELBO(on_missing_kl="sample"))
    assert "samples the KL of site" in caplog.text


def test_evaluation_equals_the_evidence_where_it_is_exact() -> None:
    torch.manual_seed(0)
    pair = FactorAnalysis(5, 2).double()
    x = pair.marginal().sample((57,)).detach()
    found = evaluate_bound(pair, x, elbo=elbo.TraceELBO(), chunk_size=10, progress=False)
    exact = pair.log_evidence(x).detach()
    torch.testing.assert_close(found.elbo, exact, rtol=1e-12, atol=1e-12)
    assert found.mean == pytest.approx(float(exact.mean()))
    assert found.standard_error == pytest.approx(float(exact.std()) / 57**0.5)
    wrong = pair.with_wrong_guide(shift=0.7)
    lower = evaluate_bound(wrong, x, elbo=elbo.TraceELBO(num_particles=2000), progress=False)
    gap = exact - lower.elbo
    error = float(gap.std()) / 57**0.5
    assert abs(float(gap.mean()) - wrong.guide_divergence()) < 4.5 * error


# --- what a stop or a wrong scale must not do ---


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


def test_validation_data_outside_the_support_are_refused() -> None:
    grey = torch.rand(60, 9, generator=torch.Generator().manual_seed(0))
    for attempt in (
        lambda: quiet(small(), binary(), validation=grey),
        lambda: evaluate_bound(small(), grey, progress=False),
        lambda: site_report(small(), grey),
        lambda: sample_posterior(small(), grey, num_samples=2, num_warmup=2, progress=False),
    ):
        with pytest.raises(PairError, match="support"):
            attempt()


def _mean_model(x: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x[:, 0])


class _MeanGuide(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_scale = (torch.nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, x: Tensor) -> None:
        pyro.sample("w", dist.Normal(self.loc, self.log_scale.exp()))


def test_an_estimator_of_pyro_that_would_weight_global_latents_wrongly_is_refused() -> None:
    x = 1 + torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))

    def train(estimator: Any, **options: Any) -> float:
        guide = _MeanGuide()
        pair = ModelGuidePair.from_callables(_mean_model, guide)
        quiet(pair, x, elbo=estimator, learning_rate=0.02, **options)
        return float(guide.log_scale.detach().exp())

    with pytest.raises(PairError, match="counted 100 times"):
        train(pyro.infer.TraceMeanField_ELBO(), batch_size=10, num_epochs=1)
    exact = 1001**-0.5
    assert abs(train(elbo.TraceMeanFieldELBO(), batch_size=10, num_epochs=40) / exact - 1) < 0.2
    train(pyro.infer.TraceMeanField_ELBO(), batch_size=None, num_epochs=1)  # all data at once are scaled as they should


def test_an_estimator_of_pyro_is_scaled_by_the_size_that_its_plate_states() -> None:
    x = binary()

    class Stated(FactorAnalysis):
        accepts_num_data = False

        def model(self, x: Tensor, num_data: int | None = None) -> None:
            super().model(x, 200)

        def guide(self, x: Tensor, num_data: int | None = None) -> None:
            super().guide(x, 200)

    torch.manual_seed(0)
    pair = Stated(9, 2)
    exact = float(pair.log_evidence(x).detach().mean())
    found = quiet(pair, x, elbo=pyro.infer.Trace_ELBO(), num_epochs=1, learning_rate=1e-9).history[0]["elbo_train"]
    assert abs(found - exact) < 1e-3 * abs(exact)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_a_value_outside_the_support_in_a_late_batch_is_found_before_work(part: str) -> None:
    """check_pair runs the programs on the first batch; all other data are held against the support as well."""
    x = torch.bernoulli(torch.full((2500, 6), 0.4))
    bad = x.clone()
    bad[2345, 2] = 0.5
    pair = bernoulli_vae(6, latent_dim=2, hidden=(3,))
    data, held_out = (bad, None) if part == "train" else (x, bad)
    before = [parameter.detach().clone() for parameter in pair.parameters()]
    with pytest.raises(
        PairError, match=r"Boolean\(\)\), found 1 values outside it, for instance 0.5; the first is in datum 2345"
    ):
        fit(pair, data, validation=held_out, num_epochs=1, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, pair.parameters(), strict=True))
    grey = gaussian_vae(6, latent_dim=2, hidden=(3,))  # any real number will do here
    fit(grey, bad, num_epochs=1, batch_size=500, progress=False)
