"""Evaluation is in evaluation mode: no noise of dropout, running statistics that stand still, flags as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from ppvae.cli.main import app
from ppvae.core import ModelGuidePair, check_pair
from ppvae.core.modes import evaluation_mode, in_evaluation_mode
from ppvae.inference import (
    AdditiveNormal,
    aggregate_posterior,
    compare_elbos,
    decode,
    denoise,
    elbo,
    embed,
    evaluate_bound,
    fit,
    fit_mcem,
    generate,
    inference_gaps,
    inpaint,
    log_evidence,
    posterior_checks,
    reconstruct,
    sample_posterior,
    site_report,
)
from ppvae.inference.evidence import AIS, ImportanceSampling, simulate_data


class Normed(ModelGuidePair):
    """Batch norm in the guide, dropout in the model."""

    def __init__(self, norm: bool = True, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4) if norm else nn.Tanh(), nn.Linear(4, 2))
        self.decoder = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.fixture
def trained() -> tuple[ModelGuidePair, Tensor]:
    """With running statistics unlike those of any small batch, and mixed flags."""
    x = torch.randn(400, 3) * torch.tensor([1.0, 3.0, 0.2]) + 1
    pair = Normed()
    pair.encoder[1].running_mean.fill_(0.7)  # type: ignore[index, operator, union-attr]
    pair.encoder[1].running_var.fill_(3.0)  # type: ignore[index, operator, union-attr]
    pair.decoder.eval()
    pair.decoder[2].train()  # type: ignore[index, operator]
    return pair, x


QUIET: dict[str, Any] = {"progress": False, "compile": "eager"}
SHORT: dict[str, Any] = {"num_steps": 20, "num_burn_in": 10, **QUIET}
FEW: dict[str, Any] = {"num_samples": 4, "num_warmup": 15, "num_chains": 2, "start": "prior", **QUIET}
VERBS: dict[str, Callable[[Any, Tensor], Any]] = {
    "check_pair": check_pair,
    "check of an estimator": lambda p, x: elbo.TraceELBO().check(p, x),
    "wake-sleep's own": lambda p, x: elbo.ReweightedWakeSleep(2).check(p, x),
    "evaluate_bound": lambda p, x: evaluate_bound(p, x, progress=False),
    "log_evidence": lambda p, x: log_evidence(p, x, method=ImportanceSampling(5), **QUIET),
    "sample_posterior": lambda p, x: sample_posterior(p, x, **FEW),
    "its later methods": lambda p, x: sample_posterior(p, x, **FEW).groups(posterior_predictive=True),
    "embed": embed,
    "reconstruct": reconstruct,
    "denoise": lambda p, x: denoise(p, x, AdditiveNormal(0.5), **SHORT),
    "decode": lambda p, x: decode(p, torch.zeros(5, 1), like=x),
    "generate": lambda p, x: generate(p, 4, like=x),
    "inpaint": lambda p, x: inpaint(p, x, x > 0, **SHORT),
    "posterior_checks": lambda p, x: posterior_checks(p, x, num_replicates=20),
    "aggregate_posterior": lambda p, x: aggregate_posterior(p, x),
    "site_report": lambda p, x: site_report(p, x, num_particles=2),
    "inference_gaps": lambda p, x: inference_gaps(p, x, log_evidence=ImportanceSampling(4), **QUIET),
    "compare_elbos": lambda p, x: compare_elbos(p, x, [elbo.TraceELBO()], num_repeats=4, reference=None, **QUIET),
    "simulate_data": lambda p, x: simulate_data(p, x, 5),
    "fit's checks": lambda p, x: fit(p, x, validation=x, num_epochs=0, batch_size=5, progress=False),
}


@pytest.mark.parametrize("verb", VERBS)
def test_running_statistics_and_flags_stay(verb: str, trained: tuple[ModelGuidePair, Tensor]) -> None:
    pair, x = trained
    before = {name: value.clone() for name, value in pair.named_buffers()}
    flags = {name: part.training for name, part in pair.named_modules()}
    assert len(set(flags.values())) == 2
    VERBS[verb](pair, x[:20])
    assert {name: part.training for name, part in pair.named_modules()} == flags
    assert all(torch.equal(value, before[name]) for name, value in pair.named_buffers())


def test_a_bound_does_not_depend_on_the_chunks(trained: tuple[ModelGuidePair, Tensor]) -> None:
    pair, x = trained
    evaluated = [evaluate_bound(pair, x, chunk_size=size, progress=False) for size in (400, 2)]
    assert abs(evaluated[0].mean - evaluated[1].mean) < 5 * (evaluated[0].elbo - evaluated[1].elbo).std() / 20
    alone = [evaluate_bound(pair, x[:2], chunk_size=size, progress=False) for size in (2,)]
    torch.testing.assert_close(alone[0].elbo, evaluate_bound(pair, x[:2], chunk_size=2, progress=False).elbo)


def test_dropout_has_no_part_in_an_evidence() -> None:
    pair, x = Normed(norm=False), torch.randn(6, 3)
    method = AIS(num_temperatures=5, num_chains=3)
    found = [log_evidence(pair, x, method=method, seed=1, **QUIET).log_evidence]
    assert pair.training
    found.append(log_evidence(pair.eval(), x, method=method, seed=1, **QUIET).log_evidence)
    assert torch.equal(*found)
    bounds = [evaluate_bound(pair.train(), x, seed=2, progress=False).elbo for _ in range(2)]
    assert torch.equal(*bounds)


def test_the_validation_of_a_fit_is_what_evaluate_bound_says() -> None:
    x = torch.randn(200, 3) + 2
    pair = Normed()
    row = fit(pair, x[:100], validation=x[100:], num_epochs=1, batch_size=20, seed=3, progress=False).history[-1]
    assert pair.training
    again = evaluate_bound(pair, x[100:], seed=3, chunk_size=100, num_repeats=1, progress=False)
    assert row["elbo_validation"] == pytest.approx(again.mean, abs=1e-4)
    # Training is in training mode: each step moves the running mean by a tenth.
    assert int(pair.encoder[1].num_batches_tracked) == 5


def test_monte_carlo_em_draws_without_dropouts_noise() -> None:
    """Its acceptance is that of one density: with noise in the energy it would be far below."""
    x = torch.randn(100, 3)
    seen = []
    for dropout in (0.0, 0.9):
        torch.manual_seed(0)
        pair = Normed(norm=False, dropout=dropout)
        result = fit_mcem(pair, x, num_epochs=1, batch_size=100, learning_rate=1e-9, progress=False)
        assert pair.training
        seen.append(result.history[-1]["acceptance"])
    assert seen[0] == seen[1]


def test_modes_are_restored_after_an_error_and_for_each_module() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()).eval())
    with pytest.raises(ZeroDivisionError), evaluation_mode(net):  # noqa: PT012
        assert not any(part.training for part in net.modules())
        _ = 1 / 0
    assert [part.training for part in net.modules()] == [True, True, False, False]

    @in_evaluation_mode
    def verb(x: int, pair: Any) -> Any:
        return getattr(pair, "training", x)

    assert verb(1, pair=net) is False and verb(1, net) is False and verb(1, None) == 1


PAIR = """
import pyro, torch
import pyro.distributions as dist
from torch import nn
from ppvae.core import ModelGuidePair

class Normed(ModelGuidePair):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
        self.decoder = nn.Linear(1, 64)

    def model(self, x, num_data=None):
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, num_data=None):
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
"""


def test_the_command_line_evaluates_in_evaluation_mode(tmp_path: Path) -> None:
    """Of one run, chunks of other sizes: the numbers of every datum are those of the datum."""

    file = tmp_path / "mine.py"
    file.write_text(PAIR)
    spec, out = f"{file}:Normed", str(tmp_path / "run")
    options = ["--set", "data.num_train=200", "--epochs", "2", "--out", out]
    done = CliRunner().invoke(app, ["fit", "--pair", spec, "--data", "digits", *options])
    assert done.exit_code == 0, done.output
    means = []
    for size in ("50", "2"):
        words = ["evaluate", out, "--pair", spec, "-k", "500", "--num-data", "50", "--chunk-size", size, "--again"]
        done = CliRunner().invoke(app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        (row,) = [row for row in json.loads(done.stdout)["estimates"] if row["label"] == "L_500"]
        means.append(row["mean"])
    assert means[0] != means[1]  # other noise
    assert abs(means[0] - means[1]) < 0.5
