r"""One transition of Hamiltonian Monte Carlo over chains, as a pure function of state, noise and parameters.

The noise is an argument, so that a transition can be replayed, permuted and tested chain by chain. The kernel does not
depend on pairs; annealed importance sampling calls it with a temperature in its context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .integrator import PhasePoint, Step, Target, integrate, value_and_gradient

DIVERGENCE = 1000.0
"""A trajectory whose energy error passes this many nats counts as diverging (Stan's threshold)."""


class HMCState(NamedTuple):
    """The state of the chains between transitions.

    Attributes:
        u: position, [*chains, d].
        log_density: the target at u, [*chains], nats.
        gradient: of the target at u, [*chains, d].
    """

    u: Tensor
    log_density: Tensor
    gradient: Tensor


class HMCNoise(NamedTuple):
    """The random numbers of one transition.

    Attributes:
        momentum: standard normals, [*chains, d].
        log_uniform: logarithms of uniforms on (0, 1), [*chains].
        jitter: uniforms on (-1, 1), [*chains].
    """

    momentum: Tensor
    log_uniform: Tensor
    jitter: Tensor


class HMCParameters(NamedTuple):
    """The parameters that warm-up adapts and sampling keeps fixed.

    Attributes:
        step_size: [*chains], positive.
        inverse_mass: diagonal of the inverse mass, an estimate of the target's variances, broadcasting to [*chains, d].
    """

    step_size: Tensor
    inverse_mass: Tensor


class HMCInfo(NamedTuple):
    """Statistics of one transition.

    Attributes:
        acceptance: probability of acceptance, [*chains], in 0 to 1.
        accepted: the decision, bool [*chains].
        energy: potential plus kinetic energy at the start of the trajectory, [*chains], nats.
        energy_error: energy at its end minus at its start, [*chains]; infinite where a number was not finite.
        diverging: whether the error passed 1000 nats or was not finite, bool [*chains].
        num_leapfrog: steps taken, int64 [*chains].
        proposal: the end of the trajectory, accepted or not.
    """

    acceptance: Tensor
    accepted: Tensor
    energy: Tensor
    energy_error: Tensor
    diverging: Tensor
    num_leapfrog: Tensor
    proposal: PhasePoint


Kernel: TypeAlias = Callable[..., tuple[HMCState, HMCInfo]]
"""``kernel(state, noise, parameters, *context) -> (state, info)``."""


def initial_state(target: Target, u: Tensor, *context: Any) -> HMCState:
    """The state at a position u [*chains, d]; also after a change of context, such as the next temperature."""
    return HMCState(u, *value_and_gradient(target)(u, *context))


def draw_noise(u: Tensor, generator: torch.Generator | None = None) -> HMCNoise:
    """Fresh noise for positions u [*chains, d], of their dtype and device; None for torch's own generator."""
    momentum = torch.randn(u.shape, dtype=u.dtype, device=u.device, generator=generator)
    uniform, jitter = torch.rand((2, *u.shape[:-1]), dtype=u.dtype, device=u.device, generator=generator)
    # 1 - u is on (0, 1]: no logarithm of zero.
    return HMCNoise(momentum, torch.log1p(-uniform), 2 * jitter - 1)


def hmc_kernel(step: Step, num_leapfrog: int, *, jitter: float = 0.0, inner: Step | None = None) -> Kernel:
    r"""One transition: a new momentum, a trajectory of L steps, acceptance or rejection, each chain for itself.

    $$p \sim \mathcal{N}(0, M),\quad H(u, p) = -\log \pi(u) + \tfrac12 p^\top M^{-1} p,\quad
      \Pr(\text{accept}) = \min(1, e^{-(H' - H)})$$

    Duane et al. 1987; Neal 2011 (arXiv 1206.1901), section 5.2. The step size of a transition is drawn from
    $\epsilon (1 \pm \text{jitter})$ before its trajectory, so that no length is resonant with the target.

    Args:
        step: from :func:`~.integrator.leapfrog`, captured or not.
        num_leapfrog: L, at least 1.
        jitter: half-width of the step size's uniform factor, in 0 to 1.
        inner: a step without a value, ``leapfrog(target, value=False)``, for all leapfrogs but the last; None to
            use ``step`` for all.

    Returns:
        ``kernel(state, noise, parameters, *context) -> (state, info)``, pure; no chain depends on another.

    >>> from ppvae.inference.hmc.integrator import leapfrog
    >>> target = lambda u: -0.5 * u.square().sum(-1)
    >>> kernel = hmc_kernel(leapfrog(target), 5)
    >>> state = initial_state(target, torch.zeros(3, 2))
    >>> _ = torch.manual_seed(0)
    >>> parameters = HMCParameters(step_size=torch.full((3,), 0.3), inverse_mass=torch.ones(3, 2))
    >>> state, info = kernel(state, draw_noise(state.u), parameters)
    >>> [round(a, 2) for a in info.acceptance.tolist()]
    [0.97, 0.94, 0.96]
    """

    def kernel(state: HMCState, noise: HMCNoise, parameters: HMCParameters, *context: Any) -> tuple[HMCState, HMCInfo]:
        inverse_mass = parameters.inverse_mass
        step_size = parameters.step_size * (1 + jitter * noise.jitter) if jitter else parameters.step_size
        momentum = noise.momentum / inverse_mass.sqrt()
        start = PhasePoint(*state[:1], momentum, *state[1:], torch.ones_like(state.log_density, dtype=torch.bool))
        end = integrate(step, start, step_size, inverse_mass, num_leapfrog, *context, inner=inner)

        energy = _energy(start, inverse_mass)
        error = torch.where(end.finite, _energy(end, inverse_mass) - energy, torch.inf)
        accepted = noise.log_uniform < -error  # False for a NaN
        keep = accepted.unsqueeze(-1)
        new = HMCState(
            torch.where(keep, end.u, state.u),
            torch.where(accepted, end.log_density, state.log_density),
            torch.where(keep, end.gradient, state.gradient),
        )
        info = HMCInfo(
            acceptance=torch.nan_to_num((-error).clamp(max=0).exp(), nan=0.0),
            accepted=accepted,
            energy=energy,
            energy_error=error,
            diverging=~(error < DIVERGENCE),
            num_leapfrog=torch.full_like(accepted, num_leapfrog, dtype=torch.int64),
            proposal=end,
        )
        return new, info

    return kernel


def _energy(point: PhasePoint, inverse_mass: Tensor) -> Tensor:
    return 0.5 * (inverse_mass * point.momentum.square()).sum(-1) - point.log_density
