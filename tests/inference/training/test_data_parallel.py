"""Two processes that train together: against a loop in one process, against one ``fit``, and what they refuse."""

from __future__ import annotations

import math
import os
import re
import time
from datetime import timedelta
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.processes import Ppvae
from contracts.training import binary, small
from torch import Tensor, nn

from ppvae.core import FitError, ModelGuidePair, PpvaeError, ProcessError
from ppvae.data import Dataset, Minibatches
from ppvae.inference import TrainingState, fit, fit_mcem
from ppvae.inference.elbo import ELBO, ImportanceWeightedELBO, ScoreFunctionELBO, TraceELBO, TraceMeanFieldELBO
from ppvae.inference.execution.processes import join_group, together
from ppvae.inference.execution.seeds import seed_of
from ppvae.models import bernoulli_vae

STEPS, M, N = 40, 20, 200
CLIP = 0.05


def estimators() -> dict[str, ELBO]:
    return {
        "mean field": TraceMeanFieldELBO(),
        "importance weighted": ImportanceWeightedELBO(3),
        "score function": ScoreFunctionELBO(num_particles=2, baseline="decaying-average"),
    }


class Replayed(dist.TorchDistribution):
    """A normal of scale 0.5 whose draws are made of given noise."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = dist.constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, noise: Tensor) -> None:
        self.loc, self.noise = loc, noise
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def expand(self, batch_shape: Any, _instance: Any = None) -> Replayed:
        shape = (*batch_shape, *self.event_shape)
        return Replayed(self.loc.expand(shape), self.noise.expand(shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return (self.loc + 0.5 * self.noise).expand(*sample_shape, *self.loc.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Normal(self.loc, 0.5).to_event(1).log_prob(value)


class GivenNoise(ModelGuidePair):
    """A linear Gaussian model whose guide takes its noise from the batch: a step draws nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(9, 2), nn.Linear(2, 9)

    def model(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x["noise"]), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x["x"])

    def guide(self, x: Any, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("z", Replayed(self.encoder(x["x"]), x["noise"]))


def given_noise() -> tuple[GivenNoise, Dataset, Dataset]:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    members = {"x": 0.2 + 0.6 * binary(N).double(), "noise": torch.randn(N, 2, generator=generator).double()}
    data = Dataset(members, value_space="unit", binarization="dynamic")
    held_out = {"x": binary(1501, seed=1).double(), "noise": torch.randn(1501, 2, generator=generator).double()}
    return GivenNoise().double(), data, Dataset(held_out, value_space="unit")


# --- what the processes do: called in each of them ---


def same_start() -> tuple[ModelGuidePair, Tensor]:
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # parameters of its own, in place of which come the first's
    return bernoulli_vae(9, latent_dim=2, hidden=(8,)).double(), binary(N).double()


def train_each() -> dict[str, dict[str, Tensor]]:
    join_group()
    found = {}
    for name, elbo in estimators().items():
        pair, x = same_start()
        options: dict[str, Any] = {"elbo": elbo, "batch_size": M, "num_epochs": STEPS * M // N, "clip_norm": CLIP}
        result = fit(pair, x, compile="graph" if name == "mean field" else "eager", **options)
        norms = torch.tensor([row["gradient_norm"] for row in result.history])
        found[name] = {**pair.state_dict(), "norms": norms}
    return found


def train_on_given_noise() -> dict[str, Any]:
    join_group()
    pair, data, held_out = given_noise()
    result = fit(pair, data, elbo=TraceELBO(), batch_size=M, num_epochs=4, validation=held_out, compile="eager")
    clock = ("seconds",)
    return {**pair.state_dict(), "rows": [{k: v for k, v in r.items() if k not in clock} for r in result.history]}


def message_of(work: Any) -> str:
    try:
        work()
    except PpvaeError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def refusals() -> dict[str, str]:
    rank = join_group().rank
    x = binary(N)
    few: dict[str, Any] = {"num_epochs": 2, "compile": "eager", "batch_size": 50}

    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.norm = nn.Linear(9, 9), nn.BatchNorm1d(9)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.inner(x))

    class Counting(nn.Module):
        seen: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen.add_(x.detach().mean())
            return x

    def with_part(part: nn.Module) -> ModelGuidePair:
        pair = small()
        pair.posterior.head.trunk = nn.Sequential(part, pair.posterior.head.trunk)
        return pair

    def change(state: TrainingState) -> None:
        if rank == 1 and state.epoch == 1:
            next(state.pair.parameters()).data.add_(1e-3)

    def fail(state: TrainingState) -> None:
        if rank == 1:
            raise OSError("the disk of process 1 is full")

    infinite = torch.randn(N, 9)
    infinite[150] = 1e30
    works = {
        "not a multiple": lambda: fit(small(), x, **{**few, "batch_size": 25}),
        "all data": lambda: fit(small(), x, **{**few, "batch_size": None}),
        "free bits": lambda: fit(small(), x, elbo=TraceMeanFieldELBO(free_bits=0.1), **few),
        "batch norm": lambda: fit(with_part(Normalised()), x, **few),
        "written": lambda: fit(with_part(Counting()), x, **few),
        "other data": lambda: fit(small(), binary(N, seed=rank), **few),
        "other seed": lambda: fit(small(), x, seed=rank, **few),
        "callback": lambda: fit(small(), x, callbacks=[change], **few),
        "mcem": lambda: fit_mcem(small(), x),
        "relayed": lambda: fit(small(), x, callbacks=[fail], **few) if rank == 0 else _caught(OSError, fail, x, few),
        "hangs": lambda: hang(rank),
    }
    return {name: message_of(work) for name, work in works.items()}


def _caught(kind: type[Exception], callback: Any, x: Tensor, options: dict[str, Any]) -> None:
    with pytest.raises(kind):
        fit(small(), x, callbacks=[callback], **options)


def hang(rank: int) -> None:
    try:
        with together(timedelta(seconds=2)) as processes:
            if rank == 1:
                time.sleep(3.5)
            processes.sum(torch.zeros(1))
    finally:
        time.sleep(2)  # the first process keeps the store: torchrun, who does so otherwise, outlives it


def not_finite() -> dict[str, Any]:
    """Row 150 is in the share of process 1: its first half of the batch is in that of process 0."""
    join_group()
    from ppvae.models import gaussian_vae

    torch.manual_seed(0)
    x = torch.randn(N, 9)
    x[150] = 1e25
    order = Minibatches(Dataset(x), 50, seed=5)
    batches = [order.next_index().tolist() for _ in range(4)]
    try:
        fit(
            gaussian_vae(9, latent_dim=2, hidden=(8,), mean="identity"),
            x,
            seed=5,
            batch_size=50,
            num_epochs=2,
            compile="eager",
        )
    except FitError as error:
        expected = next(batch[25:] for batch in batches if 150 in batch)
        return {"message": str(error), "rows": list(error.indices), "expected": expected}
    return {}


# --- the truth ---


def loop_in_one_process(elbo: ELBO) -> tuple[ModelGuidePair, Tensor]:
    """The gradients of both halves of every minibatch, each with its noise, averaged, then clipped."""
    pair, x = same_start()
    batches = Minibatches(Dataset(x), M, seed=0)
    parameters = list(pair.parameters())
    optimizer, norms = torch.optim.Adam(parameters, lr=1e-3), torch.zeros(STEPS, dtype=torch.float64)
    for step in range(STEPS):
        index, total, buffers = batches.next_index(), [torch.zeros_like(p) for p in parameters], []
        for rank in range(2):
            torch.manual_seed(seed_of(0, "process", rank, "step", step))
            half = index[rank * M // 2 : (rank + 1) * M // 2]
            terms = elbo.terms(pair, x[half], N)
            loss = -terms.objective(N) / N
            for sum_, gradient in zip(total, torch.autograd.grad(loss, parameters), strict=True):
                sum_ += gradient / 2
            buffers.append(terms.buffers or {})
        for name in buffers[0]:
            assert elbo.module is not None
            elbo.module.get_buffer(name).copy_((buffers[0][name] + buffers[1][name]) / 2)
        norm = torch.cat([gradient.flatten() for gradient in total]).norm()
        norms[step] = norm
        for parameter, gradient in zip(parameters, total, strict=True):
            parameter.grad = gradient * min(1.0, CLIP / float(norm))
        optimizer.step()
    return pair, norms.reshape(-1, N // M).mean(1)


# --- the tests ---


def test_two_processes_are_a_loop_over_both_halves(ppvae: Ppvae) -> None:
    first, second = ppvae.call_together(__file__, "train_each")
    for name, elbo in estimators().items():
        pair, norms = loop_in_one_process(elbo)
        assert norms.max() > CLIP  # clipped: after the mean
        for key, value in {**pair.state_dict(), "norms": norms}.items():
            assert (first[name][key] - value).abs().max() < 1e-6, (name, key)
            assert torch.equal(first[name][key], second[name][key]), (name, key)


def test_two_processes_are_one_where_the_noise_is_data(ppvae: Ppvae) -> None:
    """Nor do the binarisation of a row and the validation depend on how many processes there are."""
    first, second = ppvae.call_together(__file__, "train_on_given_noise")
    alone = train_on_given_noise()
    rows = alone.pop("rows")
    for name, value in alone.items():
        assert (first[name] - value).abs().max() < 1e-6, name
        assert torch.equal(first[name], second[name]), name
    assert first["rows"] == second["rows"]
    for found, row in zip(first["rows"], rows, strict=True):
        assert found.keys() == row.keys() and "elbo_validation" in row
        for key, value in row.items():
            assert math.isclose(found[key], value, rel_tol=1e-9, abs_tol=1e-9), key


EXPECTED = {
    "not a multiple": r"expected a multiple of 2, .* found 25\nTry one of:\n  - batch_size=24\n  - batch_size=26",
    "all data": r"expected a multiple of 2, .* found None.*\nTry one of:\n  - batch_size=200",
    "free bits": "TraceMeanFieldELBO with free_bits: the objective of a batch is no sum over its data",
    "batch norm": "is a BatchNorm1d: it normalises by the whole batch",
    "written": "is written by the programs",
    "other data": "process 1 of 2 was given another data than process 0",
    "other seed": "process 1 of 2 was given another seed than process 0: 1, not 0",
    "callback": "is not the same in process 1 of 2 and in process 0",
    "mcem": "fit_mcem: expected one process, found 2",
}


def test_what_several_processes_refuse(ppvae: Ppvae) -> None:
    first, second = ppvae.call_together(__file__, "refusals")
    for name, pattern in EXPECTED.items():
        assert first[name] == second[name]
        assert re.search(pattern, first[name]), (name, first[name])
    assert first["relayed"] == "ProcessError: process 1 of 2 ended: the disk of process 1 is full"
    assert second["relayed"] == "nothing"
    assert "has not answered in time" in first["hangs"] and "another process has not answered" in second["hangs"]


def test_a_gradient_that_is_not_finite_ends_both_with_one_message(ppvae: Ppvae) -> None:
    first, second = ppvae.call_together(__file__, "not_finite")
    assert first == second
    assert 150 in first["rows"] and first["rows"] == first["expected"]  # the share of the process at fault
    assert "training stopped in step" in first["message"]


def test_alone_there_is_no_group() -> None:
    with together() as processes, together() as inner:
        assert inner is processes and processes.count == 1 and processes.of_first("x") == "x"
    with pytest.raises(ZeroDivisionError), together():
        raise ZeroDivisionError
    assert issubclass(ProcessError, PpvaeError)
