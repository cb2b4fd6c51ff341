"""What training refuses, and what stops it before harm is done."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pyro.optim
import pytest
import torch
from contracts.training import binary, quiet, small
from core.pairs import Hierarchy
from torch import Tensor

from ppvae.core import DataError, FitError, ModelGuidePair, PairError, PpvaeError
from ppvae.inference import (
    Callback,
    EarlyStopping,
    KLWarmup,
    TrainingState,
    compare_elbos,
    elbo,
    evaluate_bound,
    fit,
    fit_mcem,
    sample_posterior,
    site_report,
)
from ppvae.models import FactorAnalysis, bernoulli_vae, gaussian_vae


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
        FitError, match=r"(?s)step 4 \(epoch 1\), which changed no parameter.*likelihood.*rows"
    ) as error:
        quiet(pair, binary(), callbacks=[Poison()])
    assert error.value.parameter == "likelihood.head.layers.0.weight" and error.value.step == 4
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


def test_a_device_without_memory_is_told_with_what_to_make_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("ppvae.inference.training.objective.Objective.apply", full)
    with pytest.raises(
        PpvaeError, match=r"(?s)out of memory on cpu in step 1, of 50 data: CUDA.*batch_size=25 or smaller"
    ):
        quiet(small(), binary())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 500}, DataError, "batch_size 500 is larger than the data, which has 200 rows"),
        ({"early_stopping": EarlyStopping()}, FitError, "early_stopping needs validation data"),
        ({"optimizer": "adm"}, PpvaeError, "did you mean 'adam'"),
        ({"optimizer": lambda p: 3}, PpvaeError, "expected a torch.optim.Optimizer, found int"),
        ({"optimizer": pyro.optim.Adam(lambda name: {"lr": 1e-3})}, PpvaeError, "a function of the parameter's name"),
        (
            {"optimizer": pyro.optim.Adam({"lr": 1e-3}, {"clip_norm": 1.0})},
            PpvaeError,
            "clip_args clips the gradient of every",
        ),
        (
            {"optimizer": pyro.optim.ExponentialLR({"optimizer": torch.optim.Adam, "optim_args": {}, "gamma": 0.9})},
            PpvaeError,
            "schedule=lambda optimizer",
        ),
        ({"learning_rate": 0.0}, PpvaeError, "learning_rate: expected a positive, finite number"),
        ({"learning_rate": float("inf")}, PpvaeError, "learning_rate: expected a positive, finite number, found inf"),
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
        quiet(pair, x, elbo=estimator, learning_rate=0.02, compile="auto", **options)  # thousands of steps
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


def test_an_optimiser_of_pyro_is_the_torch_optimiser_that_it_makes() -> None:
    ours = quiet(small(), binary(), optimizer=pyro.optim.Adam({"lr": 0.01, "betas": (0.8, 0.99)}))
    made = quiet(small(), binary(), optimizer=lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.8, 0.99)))
    assert [row["elbo_train"] for row in ours.history] == [row["elbo_train"] for row in made.history]


def test_the_default_batch_takes_all_of_few_data() -> None:
    found = fit(small(), binary(60), num_epochs=2, progress=False)
    assert [row["step"] for row in found.history] == [1, 2]
    assert found.state.batches.batch_size is None
    assert fit(small(), binary(100), num_epochs=1, progress=False).state.batches.batch_size == 100
    assert (
        len(
            fit_mcem(
                gaussian_vae(3, latent_dim=1, hidden=(3,), mean="identity"),
                torch.randn(60, 3),
                num_epochs=1,
                progress=False,
            ).history
        )
        == 1
    )


def test_nothing_to_train() -> None:
    pair = small()
    for parameter in pair.parameters():
        parameter.requires_grad_(False)
    for verb in (
        lambda: fit(pair, binary(20), num_epochs=1, progress=False),
        lambda: compare_elbos(pair, binary(20), [elbo.TraceELBO()]),
    ):
        with pytest.raises(PpvaeError, match="nothing to train"):
            verb()
