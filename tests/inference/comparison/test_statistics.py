"""The statistics of repeated numbers, and the clock of repeated steps."""

from __future__ import annotations

import math
import time

import pytest
import torch

from ppvae.inference.comparison.statistics import mean_and_error, seconds_of, variance_and_error


def test_mean_and_error() -> None:
    mean, error = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert mean == 3.0
    assert error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_the_errors_are_those_of_many_samples() -> None:
    """Over 4000 samples of 200 skewed values, both estimates scatter as their standard errors say."""
    draws = torch.empty(4000, 200, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(0))
    for estimate, truth in ((mean_and_error, 1.0), (variance_and_error, 1.0)):
        found = torch.tensor([estimate(values) for values in draws], dtype=torch.float64)
        assert abs(float(found[:, 0].mean()) - truth) < 4 * float(found[:, 0].std()) / 4000**0.5
        claimed = float(found[:, 1].square().mean().sqrt())
        assert claimed == pytest.approx(float(found[:, 0].std()), rel=0.06)


def test_steps_take_turns() -> None:
    called: list[str] = []
    steps = {"short": lambda: called.append("short"), "long": lambda: (called.append("long"), time.sleep(0.002))}
    taken = seconds_of(steps, 3, calls=2, warm_up=1)
    assert called == ["short", "short", "long", "long"] * 4
    assert {name: len(times) for name, times in taken.items()} == {"short": 3, "long": 3}
    assert min(taken["long"]) >= 0.002 > min(taken["short"])
