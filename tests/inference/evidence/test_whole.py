"""The mean evidence of a whole data set from a few of its data: unbiased, with the error that it has, and below."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ppvae.core import DataError
from ppvae.data import random_rows
from ppvae.inference import evaluate_bound
from ppvae.inference.evidence import Evidence, Exact, ImportanceSampling, Outcome, log_evidence
from ppvae.models import FactorAnalysis


def given(values: Tensor, bound: str = "exact", outcome: list[int] | None = None, noise: float = 0.0) -> Evidence:
    unknown = torch.full_like(values, math.nan)
    codes = torch.tensor(outcome or [0] * len(values))
    return Evidence(values, torch.full_like(values, noise), unknown, unknown, bound, codes, "given")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [Exact(), ImportanceSampling(300)], ids=["exact", "importance"])
def test_it_is_the_mean_of_all_within_its_error(method: Exact | ImportanceSampling, float64: torch.dtype) -> None:
    """Sorted data, of which few are drawn again and again; the truth is the closed form of all."""
    exact = FactorAnalysis(12, 3)
    pair, x = exact.with_wrong_guide(shift=0.2, stretch=1.2), exact.marginal().sample((400,))
    x = x[x.norm(dim=1).argsort()]
    truth = float(exact.log_evidence(x).detach().mean())
    bounds = evaluate_bound(pair, x, progress=False).elbo
    found = []
    for seed in range(60):
        rows = random_rows(len(x), 40, seed)
        few = log_evidence(pair, x[rows], method=method, progress=False)
        whole = few.over_all(bounds, rows)
        found.append([(whole.value - truth) / whole.error, whole.error / few.sampling_standard_error])
        assert whole.side == few.bound and whole.num_by_bound == 0
    score, ratio = torch.tensor(found).mT
    assert abs(float(score.mean())) < 4 / 60**0.5
    assert 0.5 < float(score.square().mean()) < 2.0
    assert float(ratio.mean()) < 0.5


def test_of_all_data_the_noise_alone_is_left() -> None:
    values = torch.tensor([-1.0, -5.0, -9.0, -2.0])
    whole = given(values, noise=0.3).over_all(values - torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.arange(4))
    assert whole.value == pytest.approx(-4.25) and whole.error == pytest.approx(0.3 / 2)
    assert given(values).over_all(torch.zeros(4), torch.tensor([2, 0, 3, 1])).value == pytest.approx(-4.25)


def test_what_cannot_be_trusted_counts_with_its_bound() -> None:
    values, bounds = torch.tensor([-1.0, math.nan, -3.0]), torch.tensor([-2.0, -9.0, -6.0, -7.0])
    rows = torch.tensor([0, 2, 3])
    codes = [int(Outcome.OK), int(Outcome.NOT_FINITE), int(Outcome.LOOSE)]
    whole = given(values, "lower", codes).over_all(bounds, rows)  # a loose bound is one
    assert whole.value == pytest.approx(-6 + (1 + 0 + 4) / 3)
    assert (whole.side, whole.num_by_bound, whole.num_estimated, whole.num_data) == ("lower", 1, 3, 4)
    whole = given(values, "consistent", codes).over_all(bounds, rows)  # of what is on no side nothing is known
    assert whole.value == pytest.approx(-6 + 1 / 3)
    assert (whole.side, whole.num_by_bound) == ("lower", 2)
    with pytest.raises(DataError, match="2 of 3 data have no upper bound"):
        given(values, "upper", codes).over_all(bounds, rows)


def test_errors_that_data_share_do_not_average_out() -> None:
    values = torch.tensor([-1.0, -2.0, -3.0])
    unknown = torch.full_like(values, math.nan)
    outcome = torch.zeros(3, dtype=torch.int64)
    few = Evidence(values, unknown, unknown, unknown, "lower", outcome, "given", common_error=0.7)
    assert few.over_all(values.repeat(4) - 1, torch.tensor([0, 4, 8])).error == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("bounds", "rows", "message"),
    [
        (torch.zeros(4), torch.arange(2), r"the row of each of 3 data, found shapes \[4\] and \[2\]"),
        (torch.zeros(4, 1), torch.arange(3), r"a bound of every datum, \[N\]"),
        (torch.tensor([0.0, -math.inf, 0.0, 0.0]), torch.arange(3), "expected finite bounds"),
        (torch.zeros(4), torch.tensor([0, 1, 4]), "different rows between 0 and 3"),
        (torch.zeros(4), torch.tensor([0, 1, 1]), "different rows between 0 and 3"),
    ],
)
def test_what_does_not_fit_is_refused(bounds: Tensor, rows: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        given(torch.tensor([-1.0, -2.0, -3.0])).over_all(bounds, rows)
