"""The evidence averaged over draws of the weights: its errors, outcomes and what is kept of it."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from ppvae.core import ModelGuidePair, PairError
from ppvae.inference import evidence, inference_gaps, log_evidence
from ppvae.inference.evidence import ChunkKey, Estimate, Evidence, Outcome
from ppvae.inference.evidence.global_latents import average


class Shifted(ModelGuidePair):
    """x = w + z + noise, with q(w) of a given width and a guide of z that is exact or too wide."""

    def __init__(self, width: float, spread: float) -> None:
        super().__init__()
        self.width, self.spread = width, spread
        self.loc = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(x.new_zeros(()), 1.0))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + _column(w), 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(self.loc, self.width))
        with self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal((x - _column(w)) / 2, self.spread).to_event(1))


def _column(w: Tensor) -> Tensor:
    return w.unsqueeze(-1) if w.dim() else w


def _data(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 1.4 * torch.randn(num, 1, generator=generator, dtype=torch.float64) + 2


def _average(x: Tensor, width: float, noise: float, generator: torch.Generator) -> Evidence:
    """Over 20 draws of w, at each of which a method finds log p(x | w) = log N(x; w, 2) with a noise of its own."""
    parts = []
    for w in 0.3 + width * torch.randn(20, generator=generator, dtype=torch.float64):
        log_p = dist.Normal(w, math.sqrt(2.0)).log_prob(x[:, 0])
        log_p = log_p + noise * torch.randn(len(x), generator=generator, dtype=torch.float64)
        nan = torch.full_like(log_p, math.nan)
        outcome = torch.zeros(len(x), dtype=torch.int64)
        parts.append(Evidence(log_p, torch.full_like(log_p, noise), nan, nan, "lower", outcome, "given"))
    return average(parts, {})


def _claims(width: float, noise: float) -> tuple[float, float]:
    """Claimed over true standard errors: of every datum, and of the mean."""
    x, generator = _data(100), torch.Generator().manual_seed(1)
    found = [_average(x, width, noise, generator) for _ in range(400)]
    truth = torch.stack([one.log_evidence for one in found]).std(0)
    claimed = torch.stack([one.standard_error for one in found]).square().mean(0).sqrt()
    truth_of_mean = torch.tensor([one.mean for one in found]).std()
    claimed_of_mean = torch.tensor([one.mean_standard_error for one in found]).square().mean().sqrt()
    return float((claimed / truth).mean()), float(claimed_of_mean / truth_of_mean)


def test_the_error_of_the_mean_counts_that_all_data_share_the_weights() -> None:
    each, mean = _claims(0.2, 0.01)
    # A standard deviation of 400 values is known to 3.5 %; as independent data the mean's claim was 0.1 of the truth.
    assert abs(each - 1) < 0.15
    assert abs(mean - 1) < 0.15


def test_the_methods_own_error_is_counted_once() -> None:
    each, mean = _claims(0.001, 0.2)
    assert 0.9 < each < 1.2  # counted twice it was 1.43; the larger of two estimates is a little too large
    assert 0.85 < mean < 1.3


@pytest.mark.parametrize("samples", [1, 100])
def test_the_error_of_one_draw_of_the_weights_is_not_known(samples: int) -> None:
    method = evidence.ImportanceSampling(samples)
    found = log_evidence(Shifted(0.3, 1.0), _data(3), method=method, global_sites=1, progress=False)
    assert bool(torch.isfinite(found.log_evidence).all())
    assert bool(found.standard_error.isnan().all())
    assert math.isnan(found.mean_standard_error)


def test_an_average_with_a_failed_draw_says_what_failed() -> None:
    def one(value: float, outcome: Outcome) -> Evidence:
        log_p = torch.tensor([value])
        column = torch.zeros_like(log_p)
        return Evidence(log_p, column, column, column, "upper", torch.tensor([int(outcome)]), "RIS")

    found = average([one(math.nan, Outcome.DIVERGED), one(-3.0, Outcome.DOUBTFUL)], {})
    assert bool(found.log_evidence.isnan().all())
    assert found.outcome.tolist() == [Outcome.DIVERGED]
    found = average([one(-2.0, Outcome.UNRELIABLE), one(-3.0, Outcome.DOUBTFUL)], {})
    assert found.outcome.tolist() == [Outcome.UNRELIABLE]


def test_what_is_kept_belongs_to_the_weights_it_was_computed_at() -> None:
    class Store(dict[ChunkKey, Estimate]):
        def put(self, chunk: ChunkKey, estimate: Estimate) -> None:
            self[chunk] = estimate

    pair, x, store = Shifted(0.3, 1.0), _data(3), Store()
    options: dict[str, Any] = {"method": evidence.ImportanceSampling(50), "progress": False}
    for value in (0.0, 2.0, 0.0):
        sites = {"w": torch.tensor(value, dtype=torch.float64)}
        found = log_evidence(pair, x, global_sites=sites, store=store, **options)
        assert torch.equal(found.log_evidence, log_evidence(pair, x, global_sites=sites, **options).log_evidence)
    assert len(store) == 2


def test_a_number_of_draws_is_refused_where_one_value_is_held() -> None:
    with pytest.raises(PairError, match="number of draws"):
        inference_gaps(Shifted(0.3, 1.0), _data(3), global_sites=3, progress=False)
