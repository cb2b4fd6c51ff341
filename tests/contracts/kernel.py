"""What every Markov kernel over chains must do: cases that a kernel inherits, and that a broken one must fail.

The target is asymmetric, the logarithm of a Gamma variable in each coordinate, because a symmetric one cannot see a
reversed direction; its draws, moments and distribution function are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from ppvae.inference.hmc.integrator import PhasePoint, Step, Target, integrate, leapfrog
from ppvae.inference.hmc.kernel import HMCNoise, HMCParameters, HMCState, Kernel, draw_noise, initial_state

SHAPE, RATE = (0.7, 3.0), (0.5, 2.0)
FALSE_ALARM = 1e-4  # of each statistical test


def log_gamma_target(u: Tensor, *_: Any) -> Tensor:
    """Log density of u = log g with g ~ Gamma(shape, rate) in each of two coordinates, up to a constant."""
    shape, rate = u.new_tensor(SHAPE), u.new_tensor(RATE)
    return (shape * u - rate * u.exp()).sum(-1)


def exact_draws(num: int) -> Tensor:
    """Independent draws of the target, [num, 2]."""
    gamma = torch.distributions.Gamma(torch.tensor(SHAPE), torch.tensor(RATE))
    return gamma.sample((num,)).log()


def assert_distributed(draws: Tensor, cdf: Callable[[np.ndarray], np.ndarray]) -> None:
    """Kolmogorov and Smirnov's test of independent draws."""
    p = scipy.stats.kstest(draws.numpy(), cdf).pvalue
    assert p > FALSE_ALARM, f"Kolmogorov-Smirnov: p = {p:.1e}"


def assert_mean(values: Tensor, expected: float, k: float = 4.0) -> None:
    """The mean of independent values is the expected one, within k measured standard errors."""
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean()) - expected) < k * error, f"{values.mean():g} +- {error:g}, expected {expected:g}"


def energy(point: PhasePoint, inverse_mass: Tensor) -> Tensor:
    return 0.5 * (inverse_mass * point.momentum.square()).sum(-1) - point.log_density


def start(target: Target, u: Tensor, momentum: Tensor) -> PhasePoint:
    state = initial_state(target, u)
    return PhasePoint(u, momentum, *state[1:], torch.ones_like(state.log_density, dtype=torch.bool))


def check_invariance(kernel: Kernel, target: Target, num: int = 20_000, step_size: float = 0.9) -> None:
    """Exact draws are exact draws still, after a few transitions: moments and distribution of each coordinate."""
    u = exact_draws(num)
    inverse_mass = torch.tensor([1.5, 0.4])
    state = initial_state(target, u)
    accepted = torch.zeros(())
    for _ in range(6):
        noise = draw_noise(state.u)
        state, info = kernel(state, noise, HMCParameters(torch.full((num,), step_size), inverse_mass))
        accepted += info.accepted.double().mean() / 6
    assert 0.2 < accepted < 0.98, f"the test is blunt: {accepted:.2f} accepted"
    for i in range(2):
        gamma = scipy.stats.gamma(SHAPE[i], scale=1 / RATE[i])
        assert_mean(state.u[:, i].exp(), gamma.mean())
        assert_mean(state.u[:, i], float(scipy.special.digamma(SHAPE[i])) - math.log(RATE[i]))
        assert_distributed(state.u[:, i].exp(), gamma.cdf)


def check_order(step: Step, target: Target) -> None:
    """The energy error falls with the square of the step size: its order, by regression, is 2."""
    u, momentum = exact_draws(200), torch.randn(200, 2)
    inverse_mass = torch.tensor([1.5, 0.4])
    sizes = torch.tensor([0.08, 0.04, 0.02, 0.01])
    errors = []
    for size in sizes:
        begin = start(target, u, momentum)
        end = integrate(step, begin, size.expand(200), inverse_mass, round(0.8 / float(size)))
        errors.append((energy(end, inverse_mass) - energy(begin, inverse_mass)).square().mean().sqrt())
    slope = np.polyfit(np.log(sizes.numpy()), np.log(torch.stack(errors).numpy()), 1)[0]
    assert abs(slope - 2) < 0.1, f"order {slope:.2f}"


def check_reversible(step: Step, target: Target) -> None:
    """Forward, momentum negated, forward: back at the start, to 1e-10."""
    u, momentum = exact_draws(100), torch.randn(100, 2)
    size, inverse_mass = 0.05 + 0.1 * torch.rand(100), torch.tensor([1.5, 0.4])
    end = integrate(step, start(target, u, momentum), size, inverse_mass, 10)
    assert (end.u - u).abs().max() > 0.1
    back = integrate(step, end._replace(momentum=-end.momentum), size, inverse_mass, 10)
    assert (back.u - u).abs().max() < 1e-10
    assert (back.momentum + momentum).abs().max() < 1e-10


def check_volume(step: Step, target: Target) -> None:
    """The Jacobian of a trajectory in (u, p) has determinant one, by central differences."""
    point = torch.cat([exact_draws(1)[0], torch.randn(2)])
    width = 1e-5

    def flow(points: Tensor) -> Tensor:
        end = integrate(
            step,
            start(target, points[:, :2], points[:, 2:]),
            torch.full((8,), 0.2),
            torch.tensor([1.5, 0.4]),
            5,
        )
        return torch.cat([end.u, end.momentum], 1)

    moved = flow(torch.cat([point + width * torch.eye(4), point - width * torch.eye(4)]))
    determinant = torch.linalg.det((moved[:4] - moved[4:]) / (2 * width))
    assert abs(float(determinant) - 1) < 1e-6, f"determinant {determinant:g}"


def take(rows: Any, index: Tensor) -> Any:
    """Some chains of a NamedTuple of tensors."""
    return type(rows)(*(value[index] for value in rows))


class KernelContract:
    """Inherit, and give the kernel; everything is in float64."""

    @staticmethod
    def step(target: Target) -> Step:
        return leapfrog(target)

    @staticmethod
    def kernel(step: Step) -> Kernel:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _in_float64(self, float64: torch.dtype) -> None:
        pass

    def test_leaves_the_target_invariant(self) -> None:
        check_invariance(self.kernel(self.step(log_gamma_target)), log_gamma_target)

    def test_energy_error_is_of_order_two(self) -> None:
        check_order(self.step(log_gamma_target), log_gamma_target)

    def test_is_reversible(self) -> None:
        check_reversible(self.step(log_gamma_target), log_gamma_target)

    def test_preserves_volume(self) -> None:
        check_volume(self.step(log_gamma_target), log_gamma_target)

    def chains(self, num: int = 12) -> tuple[HMCState, HMCNoise, HMCParameters]:
        u = exact_draws(num)
        parameters = HMCParameters(0.2 + torch.rand(num), 0.5 + torch.rand(num, 2))
        return initial_state(log_gamma_target, u), draw_noise(u), parameters

    def test_chains_do_not_see_each_other(self) -> None:
        """Permuted or with some removed, under the same noise, every chain does what it did."""
        kernel = self.kernel(self.step(log_gamma_target))
        whole = self.chains()
        state, info = kernel(*whole)
        for index in (torch.randperm(12), torch.tensor([3, 4, 11])):
            part_state, part_info = kernel(*(take(rows, index) for rows in whole))
            for found, expected in zip(part_state, take(state, index), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            assert torch.equal(part_info.accepted, info.accepted[index])

    @pytest.mark.parametrize("wrong", [1e6, math.nan, math.inf])
    def test_one_diverging_chain_leaves_the_others_bit_identical(self, wrong: float) -> None:
        kernel = self.kernel(self.step(log_gamma_target))
        state, noise, parameters = self.chains()
        good, good_info = kernel(state, noise, parameters)
        step_size = parameters.step_size.clone()
        step_size[5] = wrong
        found, info = kernel(state, noise, parameters._replace(step_size=step_size))
        others = torch.arange(12) != 5
        for one, other in zip(found, good, strict=True):
            assert torch.equal(one[others], other[others])
        for one, other in zip(info[:-1], good_info[:-1], strict=True):
            assert torch.equal(one[others], other[others])
        assert bool(info.diverging[5])
        assert not bool(info.accepted[5])
        assert float(info.acceptance[5]) == 0
        assert torch.equal(found.u[5], state.u[5])
        assert all(bool(torch.isfinite(value).all()) for value in found)

    def test_is_pure(self) -> None:
        """The same arguments give the same result, and none of them is changed."""
        kernel = self.kernel(self.step(log_gamma_target))
        arguments = self.chains()
        copies = [[value.clone() for value in rows] for rows in arguments]
        first, second = kernel(*arguments)[0], kernel(*arguments)[0]
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        for rows, copy in zip(arguments, copies, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(rows, copy, strict=True))
