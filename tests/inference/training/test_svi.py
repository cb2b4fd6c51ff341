"""Training: equal to Pyro step by step, and to the maximum of the likelihood where that is known."""

from __future__ import annotations

import logging
import math
from typing import Any

import pyro
import pyro.infer
import pytest
import torch
from contracts.elbo_oracles import GlobalPair, some_data
from contracts.training import binary, quiet, small
from core.pairs import GammaLatent, GlobalWeight, Hierarchy, Regression
from torch import Tensor
from torch.distributions import Normal

from ppvae.core import ModelGuidePair, PpvaeError, scaled_total
from ppvae.inference import KLWarmup, elbo, evaluate_bound
from ppvae.inference.training.objective import Objective
from ppvae.models import FactorAnalysis, bernoulli_vae, gaussian_vae

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
    assert objective.fallback == ""


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


def test_a_frozen_weight_has_a_constant_prior() -> None:
    pair = small()
    frozen = pair.likelihood.head.layers[0].bias.requires_grad_(False)  # type: ignore[union-attr, operator, index]
    before = frozen.detach().clone()
    quiet(pair, binary(), weight_prior=Normal(0.0, 1.0), compile="eager", num_epochs=1)
    assert torch.equal(frozen, before)


def test_kl_warmup_weighs_the_objective_and_not_the_report() -> None:
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


# --- the end of training ---


# --- numbers that are not finite ---


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


def test_evaluation_equals_the_evidence_where_it_is_exact() -> None:
    torch.manual_seed(0)
    pair = FactorAnalysis(5, 2).double()
    x = pair.marginal().sample((57,)).detach()
    found = evaluate_bound(pair, x, elbo=elbo.TraceELBO(), chunk_size=10, progress=False)
    exact = pair.log_evidence(x).detach()
    torch.testing.assert_close(found.elbo, exact, rtol=1e-12, atol=1e-12)
    assert found.mean == pytest.approx(float(exact.mean()))
    assert found.sampling_standard_error == pytest.approx(float(exact.std()) / 57**0.5)
    assert found.mean_standard_error < 1e-12
    wrong = pair.with_wrong_guide(shift=0.7)
    lower = evaluate_bound(wrong, x, elbo=elbo.TraceELBO(num_particles=2000), progress=False)
    gap = exact - lower.elbo
    error = float(gap.std()) / 57**0.5
    assert abs(float(gap.mean()) - wrong.guide_divergence()) < 4.5 * error


# --- what a stop or a wrong scale must not do ---


def test_the_bound_tells_its_monte_carlo_error() -> None:
    """What other seeds change the mean by is what was said; where weights are shared by the data, too."""
    torch.manual_seed(0)
    pair = FactorAnalysis(4, 2).double()
    x = pair.marginal().sample((30,)).detach()
    wrong = pair.with_wrong_guide(shift=0.7, stretch=1.3)
    for asked in (wrong, GlobalPair(with_global=True).double()):
        options: dict[str, Any] = {"elbo": elbo.TraceELBO(), "progress": False, "compile": "eager"}
        values = x if asked is wrong else some_data(20, 2)
        found = [evaluate_bound(asked, values, seed=seed, **options) for seed in range(30)]
        spread = float(torch.tensor([one.mean for one in found]).std())
        told = float(torch.tensor([one.mean_standard_error for one in found]).square().mean().sqrt())
        assert abs(told / spread - 1) < 5 * (1 / math.sqrt(2 * 29) + 1 / math.sqrt(2 * 30 * 9)), (told, spread)
    assert math.isnan(evaluate_bound(wrong, x, num_repeats=1, **options).mean_standard_error)
    with pytest.raises(PpvaeError, match="num_repeats: expected at least 1, found 0"):
        evaluate_bound(wrong, x, num_repeats=0, **options)
