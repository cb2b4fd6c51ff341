"""Mode-seeking and mass-covering, in numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ppvae.core import PpvaeError
from ppvae.inference.comparison.divergences import divergences, fit_normal

INTERVAL = (-12.0, 12.0)


def normal(x: Tensor, loc: float, scale: float) -> Tensor:
    return -0.5 * ((x - loc) / scale).square() - math.log(scale) - 0.5 * math.log(2 * math.pi)


def two_modes(x: Tensor) -> Tensor:
    """0.7 N(-2, 0.8^2) + 0.3 N(3, 0.5^2): asymmetric, so that a swapped direction shows."""
    return torch.logaddexp(math.log(0.7) + normal(x, -2.0, 0.8), math.log(0.3) + normal(x, 3.0, 0.5))


def test_forward_covers_the_mass() -> None:
    fit = fit_normal(two_modes, divergence="forward", interval=INTERVAL)
    mean = 0.7 * -2 + 0.3 * 3
    variance = 0.7 * (0.64 + 4) + 0.3 * (0.25 + 9) - mean**2
    assert (fit.loc, fit.scale) == pytest.approx((mean, math.sqrt(variance)), abs=1e-6)
    assert len(fit.optima) == 1


def test_reverse_seeks_a_mode() -> None:
    fit = fit_normal(two_modes, divergence="reverse", interval=INTERVAL)
    assert (fit.loc, fit.scale) == pytest.approx((-2.0, 0.8), abs=0.02)
    assert fit.reverse == pytest.approx(-math.log(0.7), abs=0.01)  # q sees one of the modes
    places = [loc for loc, _, _ in fit.optima]
    assert any(loc == pytest.approx(3.0, abs=0.02) for loc in places)  # the other mode is a local optimum
    values = [value for _, _, value in fit.optima]
    assert values == sorted(values)


def test_each_is_best_by_its_own_measure() -> None:
    forward = fit_normal(two_modes, divergence="forward", interval=INTERVAL)
    reverse = fit_normal(two_modes, divergence="reverse", interval=INTERVAL)
    assert forward.forward < reverse.forward - 1
    assert reverse.reverse < forward.reverse - 0.1
    for fit, which in ((forward, 1), (reverse, 0)):  # no neighbour is better
        best = divergences(two_modes, fit.loc, fit.scale, interval=INTERVAL)[which]
        for loc, scale in ((0.02, 1.0), (-0.02, 1.0), (0.0, 1.02), (0.0, 0.98)):
            moved = divergences(two_modes, fit.loc + loc, fit.scale * scale, interval=INTERVAL)[which]
            assert moved > best


def test_a_normal_is_fitted_exactly_by_both() -> None:
    for divergence in ("reverse", "forward"):
        fit = fit_normal(lambda x: normal(x, 1.3, 0.6), divergence=divergence, interval=INTERVAL)
        assert (fit.loc, fit.scale) == pytest.approx((1.3, 0.6), abs=1e-4)
        assert (fit.reverse, fit.forward) == pytest.approx((0.0, 0.0), abs=1e-6)


def test_divergences_between_normals() -> None:
    reverse, forward = divergences(lambda x: normal(x, 0.0, 1.0), 0.5, 0.7, interval=INTERVAL)
    assert reverse == pytest.approx(-math.log(0.7) + (0.49 + 0.25) / 2 - 0.5, abs=1e-8)
    assert forward == pytest.approx(math.log(0.7) + (1 + 0.25) / (2 * 0.49) - 0.5, abs=1e-8)


def test_errors() -> None:
    with pytest.raises(PpvaeError, match=r"integrates to 0\.5 on \[0, 12\]"):
        fit_normal(lambda x: normal(x, 0.0, 1.0), divergence="forward", interval=(0.0, 12.0))
    with pytest.raises(PpvaeError, match="'reverse' or 'forward', found 'both'"):
        fit_normal(two_modes, divergence="both", interval=INTERVAL)  # type: ignore[arg-type]
