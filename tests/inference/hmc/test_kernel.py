"""The transition kernel keeps its contract, and kernels broken on purpose do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contracts.kernel import (
    KernelContract,
    check_invariance,
    check_order,
    check_reversible,
    check_volume,
    log_gamma_target,
)
from torch import Tensor

from ppvae.core.compile import capture, record
from ppvae.inference.hmc.integrator import PhasePoint, Step, Target, leapfrog, value_and_gradient
from ppvae.inference.hmc.kernel import (
    HMCInfo,
    HMCParameters,
    HMCState,
    Kernel,
    draw_noise,
    hmc_kernel,
    initial_state,
)


class TestHMC(KernelContract):
    @staticmethod
    def kernel(step: Step) -> Kernel:
        return hmc_kernel(step, 4)


class TestJitteredHMC(KernelContract):
    @staticmethod
    def kernel(step: Step) -> Kernel:
        return hmc_kernel(step, 7, jitter=0.3)


class TestCapturedHMC(KernelContract):
    """The leapfrog as a graph that was recorded once."""

    @staticmethod
    def step(target: Target) -> Step:
        return capture(leapfrog(target), mode="graph")

    @staticmethod
    def kernel(step: Step) -> Kernel:
        return hmc_kernel(step, 4)


class TestHMCWithoutInnerValues(KernelContract):
    """All leapfrogs but the last carry no log density."""

    @staticmethod
    def kernel(step: Step) -> Kernel:
        return hmc_kernel(step, 4, inner=leapfrog(log_gamma_target, value=False))

    def test_is_the_same_transition(self) -> None:
        arguments = self.chains()
        bare, full = self.kernel(leapfrog(log_gamma_target)), hmc_kernel(leapfrog(log_gamma_target), 4)
        for one, other in zip(bare(*arguments)[0], full(*arguments)[0], strict=True):
            assert torch.equal(one, other)


def test_a_recorded_step_without_a_value_does_not_compute_it() -> None:
    """The gradient of log cosh needs sinh and cosh, and no logarithm."""

    def operations(value: bool) -> set[str]:
        step = leapfrog(lambda u: -u.cosh().log().sum(-1), value=value)
        ones, finite = torch.ones(3), torch.ones(3, dtype=torch.bool)

        def flat(u: Tensor, p: Tensor, gradient: Tensor) -> list[Tensor]:
            return list(step(PhasePoint(u, p, ones, gradient, finite), 0.1 * ones, ones[:, None]))

        graph = record(flat, [torch.randn(3, 2) for _ in range(3)])
        graph.graph.eliminate_dead_code()
        return {str(node.target).split(".")[1] for node in graph.graph.nodes if node.op == "call_function"}

    assert operations(True) - operations(False) >= {"log", "sum"}
    assert {"cosh", "sinh"} <= operations(False)


def always_accepts(step: Step) -> Kernel:
    kernel = hmc_kernel(step, 4)

    def broken(state: HMCState, noise: Any, *rest: Any) -> tuple[HMCState, HMCInfo]:
        new, info = kernel(state, noise._replace(log_uniform=torch.full_like(noise.log_uniform, -torch.inf)), *rest)
        # What it decided is said as the honest kernel would have said it.
        return new, info._replace(accepted=noise.log_uniform < -info.energy_error)

    return broken


def accepts_with_the_wrong_sign(step: Step) -> Kernel:
    kernel = hmc_kernel(step, 4)

    def broken(state: HMCState, noise: Any, *rest: Any) -> tuple[HMCState, HMCInfo]:
        _, info = kernel(state, noise, *rest)
        accepted = noise.log_uniform < info.energy_error
        end, keep = info.proposal, accepted.unsqueeze(-1)
        new = HMCState(
            torch.where(keep, end.u, state.u),
            torch.where(accepted, end.log_density, state.log_density),
            torch.where(keep, end.gradient, state.gradient),
        )
        return new, info._replace(accepted=accepted)

    return broken


def forgets_the_kinetic_energy(step: Step) -> Kernel:
    kernel = hmc_kernel(step, 4)

    def broken(state: HMCState, noise: Any, *rest: Any) -> tuple[HMCState, HMCInfo]:
        _, info = kernel(state, noise, *rest)
        accepted = noise.log_uniform < info.proposal.log_density - state.log_density
        end, keep = info.proposal, accepted.unsqueeze(-1)
        new = HMCState(
            torch.where(keep, end.u, state.u),
            torch.where(accepted, end.log_density, state.log_density),
            torch.where(keep, end.gradient, state.gradient),
        )
        return new, info._replace(accepted=accepted)

    return broken


@pytest.mark.parametrize("broken", [always_accepts, accepts_with_the_wrong_sign, forgets_the_kinetic_energy])
def test_a_broken_acceptance_is_seen(broken: Callable[[Step], Kernel], float64: torch.dtype) -> None:
    check_invariance(hmc_kernel(leapfrog(log_gamma_target), 4), log_gamma_target)
    with pytest.raises(AssertionError, match=r"Kolmogorov|expected"):
        check_invariance(broken(leapfrog(log_gamma_target)), log_gamma_target)


def test_a_target_without_its_jacobian_is_seen(float64: torch.dtype) -> None:
    def without(u: Tensor) -> Tensor:
        return log_gamma_target(u) - u.sum(-1)

    with pytest.raises(AssertionError, match=r"Kolmogorov|expected"):
        check_invariance(hmc_kernel(leapfrog(without), 4), without)


def euler(target: Target) -> Step:
    evaluate = value_and_gradient(target)

    def step(point: PhasePoint, step_size: Tensor, inverse_mass: Tensor, *context: Any) -> PhasePoint:
        size = step_size.unsqueeze(-1)
        u = point.u + size * inverse_mass * point.momentum
        momentum = point.momentum + size * point.gradient
        return PhasePoint(u, momentum, *evaluate(u, *context), point.finite)

    return step


def wrong_sign(target: Target) -> Step:
    """A gradient of the wrong sign: reversible and volume preserving still, and its energy error never shrinks."""
    evaluate = value_and_gradient(target)

    def step(point: PhasePoint, step_size: Tensor, inverse_mass: Tensor, *context: Any) -> PhasePoint:
        size = step_size.unsqueeze(-1)
        half = point.momentum - 0.5 * size * point.gradient
        u = point.u + size * inverse_mass * half
        log_density, gradient = evaluate(u, *context)
        return PhasePoint(u, half - 0.5 * size * gradient, log_density, gradient, point.finite)

    return step


def test_broken_integrators_are_seen(float64: torch.dtype) -> None:
    with pytest.raises(AssertionError):
        check_order(euler(log_gamma_target), log_gamma_target)
    with pytest.raises(AssertionError):
        check_reversible(euler(log_gamma_target), log_gamma_target)
    with pytest.raises(AssertionError):
        check_volume(euler(log_gamma_target), log_gamma_target)
    with pytest.raises(AssertionError):
        check_order(wrong_sign(log_gamma_target), log_gamma_target)


def test_context_reaches_the_target(float64: torch.dtype) -> None:
    """A temperature in the context, as annealing uses it: at zero the target is flat and every move is accepted."""

    def tempered(u: Tensor, beta: Tensor) -> Tensor:
        return beta * log_gamma_target(u)

    kernel = hmc_kernel(leapfrog(tempered), 3)
    u = torch.zeros(5, 2)
    parameters = HMCParameters(torch.full((5,), 0.5), torch.ones(2))
    noise = draw_noise(u)
    for beta, flat in ((0.0, True), (1.0, False)):
        state = initial_state(tempered, u, torch.tensor(beta))
        new, info = kernel(state, noise, parameters, torch.tensor(beta))
        assert torch.allclose(info.acceptance, torch.ones(5)) is flat
        if flat:
            torch.testing.assert_close(new.u, u + 1.5 * noise.momentum)


def test_compiled_and_eager_leapfrogs_agree(float64: torch.dtype) -> None:
    u = torch.randn(7, 2)
    kernels = [hmc_kernel(capture(leapfrog(log_gamma_target), mode=mode), 5) for mode in ("eager", "compiled")]
    state, noise = initial_state(log_gamma_target, u), draw_noise(u)
    parameters = HMCParameters(torch.full((7,), 0.3), torch.ones(7, 2))
    eager, compiled = (kernel(state, noise, parameters)[0] for kernel in kernels)
    torch.testing.assert_close(compiled, eager, rtol=1e-12, atol=1e-12)


def test_noise_is_what_it_says() -> None:
    noise = draw_noise(torch.zeros(20_000, 3), torch.Generator().manual_seed(1))
    again = draw_noise(torch.zeros(20_000, 3), torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(noise, again, strict=True))
    assert abs(float(noise.momentum.mean())) < 4 / 60_000**0.5
    assert bool((noise.log_uniform <= 0).all())
    assert abs(float(noise.log_uniform.mean()) + 1) < 4 / 20_000**0.5  # an exponential has mean and scale one
    assert float(noise.jitter.abs().max()) <= 1
    assert abs(float(noise.jitter.mean())) < 4 / 60_000**0.5


def test_a_chain_with_one_coordinate_that_is_not_finite_is_evaluated_where_it_was() -> None:
    """The other coordinate is fine; a target that raises an error for such a chain would end all of them."""

    def target(u: Tensor) -> Tensor:
        assert bool(torch.isfinite(u).all())
        return -0.5 * u.square().sum(-1)

    u = torch.ones(2, 2)
    start = PhasePoint(u, torch.ones(2, 2), target(u), -u, torch.ones(2, dtype=torch.bool))
    inverse_mass = torch.tensor([[torch.inf, 1.0], [1.0, 1.0]])
    found = leapfrog(target)(start, torch.full((2,), 0.1), inverse_mass)
    assert found.finite.tolist() == [False, True]
    assert torch.equal(found.u[0], u[0]) and not torch.equal(found.u[1], u[1])
