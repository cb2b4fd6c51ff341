"""What a GPU has of its own: the graph of several steps, numbers that agree with the CPU's, checkpoints that move."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from contracts.training import binary, quiet, small

from ppvae.core import FitError, replay
from ppvae.inference import evidence, log_evidence, sample_posterior
from ppvae.models import FactorAnalysis, gaussian_vae

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

ON_GPU: dict[str, Any] = {"device": "cuda", "batch_size": 20, "num_epochs": 5, "compile": "graph"}


def test_a_graph_of_steps_has_the_numbers_of_steps_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    found = []
    for size in (1, 4):
        pair = small()
        with caplog.at_level(logging.WARNING, logger="ppvae.fit"):
            run = quiet(pair, binary(), steps_per_call=size, **ON_GPU)
        found.append((run.history[-1]["elbo_train"], {k: v.cpu() for k, v in pair.state_dict().items()}))
    assert "launched one by one" not in caplog.text
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    for name, value in found[0][1].items():
        assert torch.allclose(value, found[1][1][name], atol=1e-5), name


def test_a_learning_rate_that_changes_is_taken_up() -> None:
    """It is a constant of the graph, which is recorded anew."""
    found = []
    for size in (1, 4):
        pair = small()
        quiet(pair, binary(), steps_per_call=size, schedule=_halved, **ON_GPU)
        found.append(torch.cat([p.detach().flatten().cpu() for p in pair.parameters()]))
    assert torch.allclose(*found, atol=1e-5)


def _halved(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def test_the_step_at_fault_in_a_graph_is_found() -> None:
    data = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    data[77] = 3e38
    with pytest.raises(FitError, match="a log density that is not finite") as error:
        quiet(gaussian_vae(4, latent_dim=2, hidden=(3,), mean="identity"), data, steps_per_call=6, **ON_GPU)
    assert 77 in error.value.indices


def test_a_run_of_the_gpu_goes_on_on_the_cpu() -> None:
    pair = small()
    first = quiet(pair, binary(), **ON_GPU)
    second = small()
    options = {**ON_GPU, "device": "cpu", "num_epochs": 6}
    state = copy.deepcopy(first.state.state_dict())
    state["batches"]["generator"] = torch.Generator().get_state()  # that of a GPU is of another kind
    rest = quiet(second, binary(), resume=state, **options)
    assert len(rest.history) == 6


def test_the_evidence_is_the_exact_one() -> None:
    torch.manual_seed(0)
    pair = FactorAnalysis(4, 2)
    x = torch.randn(30, 4)
    exact = pair.log_evidence(x).detach()
    for method in (evidence.ImportanceSampling(2000), evidence.AIS(num_temperatures=50)):
        found = log_evidence(pair, x, method=method, device="cuda", progress=False)
        error = (found.log_evidence.cpu().double() - exact.double()) / found.standard_error.cpu().double()
        assert float(error.abs().median()) < 4
    draws = sample_posterior(pair, x, num_samples=50, num_warmup=50, num_chains=4, device="cuda", progress=False)
    assert draws.samples["z"].shape == (4, 50, 30, 2)


@pytest.mark.parametrize("method", [evidence.AIS(num_chains=8, num_temperatures=60), evidence.RIS()], ids=repr)
def test_replayed_transitions_have_the_numbers_of_launched_ones(
    method: evidence.EvidenceMethod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The moves between temperatures and the leapfrogs, with weights and data where they are and points that move."""
    torch.manual_seed(0)
    pair, x = FactorAnalysis(4, 2), torch.randn(30, 4)
    found = []
    for calls in (replay.CALLS_BEFORE, 10**9):
        monkeypatch.setattr(replay, "CALLS_BEFORE", calls)
        options: dict[str, Any] = {"method": method, "device": "cuda", "compile": "graph", "seed": 1, "progress": False}
        found.append(log_evidence(pair, x, **options).log_evidence.cpu())
    assert "not replayed" not in caplog.text
    torch.testing.assert_close(*found, atol=1e-2, rtol=0)  # rounding may decide an acceptance
