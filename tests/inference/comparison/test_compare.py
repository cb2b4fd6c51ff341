"""The instrument that compares estimators: right against closed forms, and the known laws of gradient noise."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pyro
import pytest
import torch
from contracts.elbo_oracles import GlobalPair, linear_vae, log_evidence, quadrature, some_data
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.inference import elbo, evidence
from ppvae.inference.comparison.compare import compare_along_run, compare_elbos
from ppvae.inference.comparison.gradient_noise import GradientNoise
from ppvae.inference.execution.memory import peak_memory
from ppvae.models import FactorAnalysis

ELBO, IWAE = "TraceELBO(num_particles=1)", "ImportanceWeightedELBO(num_particles=5)"


def wrong_encoder(shift: float, data_dim: int = 4, latent_dim: int = 2) -> FactorAnalysis:
    """Factor analysis whose guide has parameters of its own, a little away from the exact posterior."""
    torch.manual_seed(1)
    model = FactorAnalysis(data_dim, latent_dim)
    encoder = model.exact_encoder()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(shift * torch.randn_like(parameter))
    return model.with_posterior(encoder)


def test_against_closed_forms() -> None:
    pair, x = linear_vae(), some_data(6)
    truth = log_evidence(pair, x)
    found = compare_elbos(
        pair, x, [elbo.TraceELBO(), elbo.ImportanceWeightedELBO(2)], num_repeats=400, reference=truth.detach()
    )
    for name, bound, particles in ((ELBO, lambda w: w.mean(0), 1), (IWAE.replace("5", "2"), _log_mean_exp, 2)):
        row = found.row(name)
        gap = (quadrature(pair, x, bound, particles) - truth).mean().item()
        assert row.bias == pytest.approx(gap, abs=4 * row.bias_error)
        assert row.bias_error < 0.1 * abs(gap)
        assert row.variance == pytest.approx(float(found.values["", name].var()))
        assert row.bound_error == pytest.approx((row.variance / 400) ** 0.5)
        exact = torch.autograd.grad(quadrature(pair, x, bound, particles).mean(), list(pair.posterior.parameters()))
        norm = torch.cat([g.flatten() for g in exact]).norm().item()
        block = found.block(name, "guide")
        assert block.num_parameters == 8
        assert block.signal == pytest.approx(norm, abs=4 * (block.variance / 400) ** 0.5)


def _log_mean_exp(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def test_common_random_numbers_and_no_traces_left(float64: torch.dtype) -> None:
    pair, x = wrong_encoder(0.1), torch.randn(8, 4)
    baseline = elbo.ScoreFunctionELBO(baseline="decaying-average")
    estimators = [elbo.TraceELBO(), elbo.StickingTheLandingELBO(), baseline]
    before = torch.get_rng_state(), {k: v.clone() for k, v in pair.state_dict().items()}
    first, second = (compare_elbos(pair, x, estimators, num_repeats=6, seed=3, compile="eager") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in pair.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert float(baseline.module.weight) == 0
    values = list(first.values.values())
    for other in values[1:]:  # the same draws: the same bounds
        torch.testing.assert_close(other, values[0], rtol=1e-12, atol=1e-12)
    assert all(torch.equal(first.values[key], second.values[key]) for key in first.values)
    assert not torch.equal(
        values[0], compare_elbos(pair, x, estimators, num_repeats=6, seed=4, compile="eager").values["", ELBO]
    )


def test_references(float64: torch.dtype) -> None:
    pair, x = wrong_encoder(0.05), torch.randn(8, 4)
    exact = compare_elbos(pair, x, [elbo.TraceELBO()], num_repeats=50, compile="eager")
    assert exact.reference == "the exact log p(x)"
    sampled = compare_elbos(
        pair, x, [elbo.TraceELBO()], num_repeats=50, compile="eager", reference=evidence.ImportanceSampling(2000)
    )
    assert "ImportanceSampling" in sampled.reference
    row, other = sampled.row(ELBO), exact.row(ELBO)
    assert row.bias_error > other.bias_error
    assert row.bias == pytest.approx(other.bias, abs=4 * math.sqrt(row.bias_error**2 - other.bias_error**2) + 1e-6)
    assert math.isnan(
        compare_elbos(pair, x, [elbo.TraceELBO()], num_repeats=4, compile="eager", reference=None).row(ELBO).bias
    )
    unknown = compare_elbos(linear_vae(), some_data(), [elbo.TraceELBO()], num_repeats=4, compile="eager")
    assert "ImportanceSampling" in unknown.reference


def test_global_latents() -> None:
    pair, x = GlobalPair(with_global=True), some_data(6, 2)
    found = compare_elbos(pair, x, [elbo.TraceELBO(), elbo.TraceMeanFieldELBO()], num_repeats=300, num_data=6)
    assert found.reference == ""
    for row in found.estimators:
        assert row.bound == pytest.approx(pair.expected_elbo(x).item() / 6, abs=4 * row.bound_error)


def test_blocks_of_the_callers_own() -> None:
    pair, x = linear_vae(), some_data()
    blocks = {"mean": ["posterior.head.layers.0"], "noise": "likelihood.log_scale"}
    found = compare_elbos(
        pair, x, {"a": elbo.TraceELBO()}, num_repeats=4, compile="eager", blocks=blocks, reference=None
    )
    assert [(b.block, b.num_parameters) for b in found.blocks] == [("mean", 4), ("noise", 3)]
    shared = compare_elbos(FactorAnalysis(4, 2), torch.randn(5, 4), [elbo.TraceELBO()], num_repeats=4, compile="eager")
    assert {b.block for b in shared.blocks} == {"shared"}


def test_pyros_own_estimators_and_learned_baselines() -> None:
    pair, x = linear_vae(), some_data()
    estimators = {
        "pyro": pyro.infer.Trace_ELBO(num_particles=1),
        "ours": elbo.TraceELBO(),
        "learned": elbo.ScoreFunctionELBO(baseline=torch.nn.Linear(3, 1).double()),
    }
    found = compare_elbos(pair, x, estimators, num_repeats=30, reference=None)
    torch.testing.assert_close(found.values["", "pyro"], found.values["", "ours"], rtol=1e-9, atol=1e-9)
    assert found.row("pyro").mode == "eager"
    assert found.block("pyro", "guide").variance == pytest.approx(found.block("ours", "guide").variance, rel=1e-6)


def test_along_a_run(float64: torch.dtype) -> None:
    start, x = wrong_encoder(0.3), torch.randn(16, 4)
    states = {}
    for epoch, closeness in ((1, 0.3), (2, 0.1), (3, 0.0)):
        moved = wrong_encoder(closeness)
        states[epoch] = moved.state_dict()
    before = {k: v.clone() for k, v in start.state_dict().items()}
    found = compare_along_run(
        start, states, x, [elbo.TraceELBO(), elbo.ImportanceWeightedELBO(5)], num_repeats=60, compile="eager"
    )
    assert all(torch.equal(v, before[k]) for k, v in start.state_dict().items())
    for name in (ELBO, IWAE):
        bias = [found.row(name, str(epoch)).bias for epoch in (1, 2, 3)]
        assert bias[0] < bias[1] < -0.001
        assert abs(bias[2]) < 1e-9
    alone = compare_elbos(wrong_encoder(0.1), x, [elbo.TraceELBO()], num_repeats=60, compile="eager")
    assert alone.row(ELBO).bound == pytest.approx(found.row(ELBO, "2").bound, rel=1e-12)


def test_files_and_table(tmp_path: Path) -> None:
    pair, x = linear_vae(), some_data()
    found = compare_elbos(pair, x, [elbo.TraceELBO(), elbo.ImportanceWeightedELBO(5)], num_repeats=8, compile="eager")
    found.to_csv(tmp_path / "a.csv")
    found.to_json(tmp_path / "a.json")
    with (tmp_path / "a.csv").open(encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    frame = found.tidy()
    assert [*frame.columns] == [*records[0]]
    assert len(records) == len(frame) == 2 * 6 + 4 * 4
    assert [*frame["quantity"][:7]] == [
        *("bound", "bias", "variance", "seconds", "peak_memory", "cost_adjusted_variance", "bound")
    ]
    (noise,) = frame.query("quantity == 'gradient_variance' and block == 'guide' and estimator == @IWAE").itertuples()
    block = found.block(IWAE, "guide")
    assert (noise.value, noise.standard_error, noise.unit) == (block.variance, block.variance_error, "(nats/datum)^2")
    bias = next(r for r in records if r["quantity"] == "bias" and r["estimator"] == IWAE)
    assert float(bias["value"]) == found.row(IWAE).bias
    assert bias["unit"] == "nats/datum"
    assert next(r for r in records if r["quantity"] == "seconds")["standard_error"] == ""
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["estimators"][1]["bound"] == found.row(IWAE).bound
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json"]
    text = found.table()
    assert [line.split("(")[0] for line in text.splitlines()[3:5]] == ["TraceELBO", "ImportanceWeightedELBO"]
    assert found.truth() == pytest.approx(found.row(IWAE).bound - found.row(IWAE).bias)
    assert found.checkpoints == [""]
    assert "nats per datum; bias against ImportanceSampling" in text


def test_errors() -> None:
    pair, x = linear_vae(), some_data()
    with pytest.raises(PpvaeError, match="at least 4, found 3"):
        compare_elbos(pair, x, [elbo.TraceELBO()], num_repeats=3)
    with pytest.raises(PpvaeError, match="at least one, found none"):
        compare_elbos(pair, x, [])
    with pytest.raises(PpvaeError, match="two estimators are called"):
        compare_elbos(pair, x, [elbo.TraceELBO(), elbo.TraceELBO()])
    with pytest.raises(PpvaeError, match=r"block 'e': no parameter 'likelihod': did you mean 'likelihood"):
        compare_elbos(pair, x, [elbo.TraceELBO()], blocks={"e": ["likelihod"]})
    with pytest.raises(PpvaeError, match=r"VAE has no log_evidence"):
        compare_elbos(pair, x, [elbo.TraceELBO()], reference="exact")
    with pytest.raises(PpvaeError, match=r"shape \[3\], found \[2\]"):
        compare_elbos(pair, x, [elbo.TraceELBO()], reference=torch.zeros(2))
    with pytest.raises(PpvaeError, match="at least one checkpoint"):
        compare_along_run(pair, {}, x, [elbo.TraceELBO()])


# --- the pieces ---------------------------------------------------------------------------------------------------


def test_gradient_noise_of_known_gradients() -> None:
    """Signal 5, variance 4 x 0.25 = 1: recovered within the stated errors, which are themselves right."""
    truth = torch.tensor([3.0, 4.0, 0.0, 0.0])
    z_scores = []
    for trial in range(40):
        torch.manual_seed(trial)
        noise = GradientNoise({"block": ["a", "b"]}, 200)
        for _ in range(200):
            g = truth + 0.5 * torch.randn(4)
            noise.add({"a": g[:1], "b": g[1:].reshape(3, 1)})
        found = noise.statistics()["block"]
        assert found.signal == pytest.approx(5, abs=4 * 0.5 / 200**0.5)
        z_scores.append([(found.variance - 1) / found.variance_error, (found.snr - 5) / found.snr_error])
    z = torch.tensor(z_scores)
    assert bool((z.std(0) > 0.7).all())
    assert bool((z.std(0) < 1.6).all())  # ten groups: t with nine degrees of freedom
    assert bool((z.mean(0).abs() < 0.7).all())


def test_peak_memory_counts_what_is_held_at_once() -> None:
    def step() -> None:
        a = torch.ones(1000, 1000)  # 4 MB
        b = a * 2  # 8
        del a
        c = b + 1  # 8
        c.view(-1).mul(2)  # 12

    assert peak_memory(step, torch.device("cpu")) == 12_000_000
    pair, x = linear_vae(), some_data(100)
    found = compare_elbos(
        pair, x, [elbo.ImportanceWeightedELBO(k) for k in (10, 100)], num_repeats=4, compile="eager", reference=None
    )
    few, many = (row.peak_memory for row in found.estimators)
    assert 7 < many / few < 11  # memory is that of the particles


# --- known laws ---------------------------------------------------------------------------------------------------


def slope(counts: list[int], values: list[float], errors: list[float]) -> tuple[float, float]:
    """Weighted least squares of log value on log K: slope and its standard error."""
    u = torch.tensor(counts).double().log()
    y = torch.tensor(values).double().log()
    w = (torch.tensor(values) / torch.tensor(errors)).double().square()
    centre = (w * u).sum() / w.sum()
    spread = (w * (u - centre).square()).sum()
    return float((w * (u - centre) * y).sum() / spread), float(spread) ** -0.5


def laws(counts: list[int], num_repeats: int) -> dict[str, tuple[float, float]]:
    """Slopes of log snr on log K with their errors, by estimator and block."""
    model = FactorAnalysis(3, 1)
    encoder = model.exact_encoder()
    with torch.no_grad():  # a guide that is half a posterior standard deviation off: its weights have light tails
        encoder.head.layers[0].bias += 0.5 * model.posterior(torch.zeros(1, 3)).scale_tril[0, 0]
        x = model.marginal().sample((128,))
    kinds = {"IWAE": elbo.ImportanceWeightedELBO, "DReG": elbo.DoublyReparameterizedELBO}
    estimators = {f"{name} {k}": kind(k) for name, kind in kinds.items() for k in counts}
    found = compare_elbos(model.with_posterior(encoder), x, estimators, num_repeats=num_repeats, reference=None)
    result = {}
    for name in kinds:
        for block in ("guide", "model"):
            rows = [found.block(f"{name} {k}", block) for k in counts]
            result[f"{name} {block}"] = slope(counts, [r.snr for r in rows], [r.snr_error for r in rows])
    print("slopes of log snr on log K:", result)
    return result


@pytest.mark.slow
def test_signal_to_noise_laws(float64: torch.dtype) -> None:
    """The guide's falls as K^(-1/2) and the model's rises as K^(1/2) under IWAE (Rainforth et al. 2018); under DReG
    the guide's does not fall (Tucker et al. 2018)."""
    found = laws([16, 128], 300)
    (iwae, error), (dreg, dreg_error) = found["IWAE guide"], found["DReG guide"]
    assert iwae == pytest.approx(-0.5, abs=4 * error)
    assert dreg > 4 * dreg_error
    assert dreg - iwae > 3 * error  # power: the two laws are told apart
    assert found["IWAE model"][0] == pytest.approx(0.5, abs=0.1)
    assert found["DReG model"][0] == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_signal_to_noise_laws_closely(float64: torch.dtype) -> None:
    found = laws([16, 32, 64, 128, 256], 1500)
    assert found["IWAE guide"][0] == pytest.approx(-0.5, abs=4 * found["IWAE guide"][1])
    assert found["IWAE guide"][1] < 0.08
    for name in ("IWAE model", "DReG model"):
        assert found[name][0] == pytest.approx(0.5, abs=4 * found[name][1] + 0.05)  # K is finite
    assert found["DReG guide"][0] > 0.3


def test_variance_of_the_three_estimators(float64: torch.dtype) -> None:
    """SGVB-B <= SGVB-A << score function, for the guide's gradient."""
    pair, x = wrong_encoder(0.1), torch.randn(16, 4)
    found = compare_elbos(
        pair,
        x,
        {"B": elbo.TraceMeanFieldELBO(), "A": elbo.TraceELBO(), "score": elbo.ScoreFunctionELBO()},
        num_repeats=200,
        reference=None,
    )
    b, a, score = (found.block(name, "guide") for name in ("B", "A", "score"))
    assert a.variance - b.variance > 4 * math.hypot(a.variance_error, b.variance_error)
    assert score.variance > 20 * a.variance
