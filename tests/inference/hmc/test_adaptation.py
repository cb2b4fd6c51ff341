"""Warm-up: dual averaging finds the target acceptance, pooled moments are numpy's, windows tile the warm-up."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from contracts.kernel import exact_draws, log_gamma_target

from ppvae.inference.hmc.adaptation import (
    mass_windows,
    shrink_variance,
    start_dual_averaging,
    start_moments,
    update_dual_averaging,
    update_moments,
)
from ppvae.inference.hmc.integrator import leapfrog
from ppvae.inference.hmc.kernel import HMCParameters, draw_noise, hmc_kernel, initial_state
from ppvae.inference.hmc.trajectory import jitter_leapfrogs, start_trajectory, update_trajectory


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
@pytest.mark.parametrize("first", [1e-3, 1.0, 1e3])
def test_every_chain_finds_its_own_step_size(target: float, first: float, float64: torch.dtype) -> None:
    """Where acceptance is exp(-step / scale), it is the target at -scale log target, wherever one starts."""
    scale = torch.tensor([0.01, 1.0, 50.0])
    state = start_dual_averaging(torch.full((3,), first))
    for _ in range(3):  # begun anew where it had come to, as at the end of each window of the mass
        for _ in range(300):
            state = update_dual_averaging(state, torch.exp(-state.step_size / scale), target)
        found, state = state.final_step_size, start_dual_averaging(state.final_step_size)
    torch.testing.assert_close(found, -scale * math.log(target), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_found_acceptance_is_what_was_asked_for(target: float, float64: torch.dtype) -> None:
    """On real, noisy acceptances, frozen step sizes accept on average as asked, to 0.05 after 300 transitions."""
    step, u = leapfrog(log_gamma_target), exact_draws(300)
    kernel, state = hmc_kernel(step, 5), initial_state(log_gamma_target, u)
    averaging = start_dual_averaging(torch.full((300,), 0.1))
    inverse_mass = torch.tensor([1.5, 0.4])
    for _ in range(300):
        state, info = kernel(state, draw_noise(u), HMCParameters(averaging.step_size, inverse_mass))
        averaging = update_dual_averaging(averaging, info.acceptance, target)
    found = []
    for _ in range(50):
        state, info = kernel(state, draw_noise(u), HMCParameters(averaging.final_step_size, inverse_mass))
        found.append(info.acceptance.mean())
    assert abs(float(torch.stack(found).mean()) - target) < 0.05


def test_moments_are_those_of_all_chains_together(float64: torch.dtype) -> None:
    draws = torch.randn(30, 4, 5, 2) * torch.tensor([3.0, 0.1]) + 1e4
    moments = start_moments(draws[0])
    include = torch.ones(4, 5, dtype=torch.bool)
    include[1, 2] = include[:, 4] = False
    for u in draws:
        moments = update_moments(moments, u, include)
    for datum in range(4):
        kept = draws[:, include[:, datum], datum].flatten(0, 1)
        assert float(moments.num_draws[datum]) == len(kept)
        torch.testing.assert_close(moments.mean[datum], kept.mean(0))
        torch.testing.assert_close(moments.deviation[datum] / (len(kept) - 1), kept.var(0))
    prior = torch.full((5, 2), 7.0)
    variance = shrink_variance(moments, prior)
    expected = (120 * draws[:, :, 0].flatten(0, 1).var(0) + 5 * 7.0) / 125
    torch.testing.assert_close(variance[0], expected)
    assert bool((variance[4] == 7.0).all())  # no draw of it was counted


def test_a_datum_that_never_moved_keeps_its_mass(float64: torch.dtype) -> None:
    u = torch.ones(3, 2, 2)
    moments = start_moments(u)
    for step in range(10):
        moments = update_moments(moments, u + step * torch.tensor([[0.0], [1.0]]))
    variance = shrink_variance(moments, torch.full((2, 2), 3.0))
    assert bool((variance[0] == 3.0).all())
    assert bool((variance[1] != 3.0).all())


@pytest.mark.parametrize("num_warmup", [0, 1, 19, 20, 50, 149, 150, 151, 200, 500, 1000, 1234])
def test_windows_tile_the_middle_of_warmup(num_warmup: int) -> None:
    windows = mass_windows(num_warmup)
    if num_warmup < 20:
        assert windows == []
        return
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(windows))
    assert all(start < stop for start, stop in windows)
    assert windows[0][0] > 0
    assert windows[-1][1] == num_warmup - min(50, num_warmup // 2)


def test_jittered_leapfrogs_have_the_length_as_their_mean() -> None:
    found = [jitter_leapfrogs(20.0, index) for index in range(1024)]
    assert abs(sum(found) / 1024 - 20) < 1
    assert min(found) == 1
    assert max(found) == 40


@pytest.mark.parametrize("initial", [1, 10])
def test_chees_finds_the_length_of_a_trajectory(initial: int, float64: torch.dtype) -> None:
    """On a round Gaussian with steps of 0.1 the best length is known."""
    torch.manual_seed(2)

    def gaussian(u: torch.Tensor) -> torch.Tensor:
        return -0.5 * u.square().sum(-1)

    u = torch.randn(8, 50, 5)
    state, step = initial_state(gaussian, u), leapfrog(gaussian)
    parameters = HMCParameters(torch.full((8, 50), 0.1), torch.ones(50, 5))
    trajectory = start_trajectory(u, initial)
    lengths = []
    for index in range(400):
        kernel = hmc_kernel(step, jitter_leapfrogs(float(trajectory.log_length.exp()), index))
        new, info = kernel(state, draw_noise(u), parameters)
        trajectory = update_trajectory(trajectory, state, info, parameters, learning_rate=0.05, max_leapfrog=200)
        state = new
        lengths.append(float(trajectory.log_length))
    found = math.exp(sum(lengths[-200:]) / 200) * 0.1
    # The change of squared distances goes with sin^2 t; for t uniform on (0, 2 T), its mean
    # 1 / 2 - sin(4 T) / (8 T) is largest where tan(4 T) = 4 T: at T = 1.123.
    assert 0.95 < found < 1.3


def test_the_centre_of_chees_is_the_mean_of_all_positions_so_far(float64: torch.dtype) -> None:
    def gaussian(u: torch.Tensor) -> torch.Tensor:
        return -0.5 * (u - 3.0).square().sum(-1)

    u = torch.randn(4, 2, 3)
    state, kernel = initial_state(gaussian, u), hmc_kernel(leapfrog(gaussian), 3)
    parameters = HMCParameters(torch.full((4, 2), 0.1), torch.ones(2, 3))
    trajectory, means = start_trajectory(u, 3), []
    for _ in range(6):
        means.append(state.u.mean(0))
        new, info = kernel(state, draw_noise(u), parameters)
        trajectory = update_trajectory(trajectory, state, info, parameters, learning_rate=0.05, max_leapfrog=9)
        state = new
    torch.testing.assert_close(trajectory.centre, torch.stack(means).mean(0))
