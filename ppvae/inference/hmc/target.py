r"""The posterior of every datum as a target in unconstrained coordinates, and where chains start on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from .integrator import Target
from .kernel import HMCState, initial_state
from ...core import Data, ModelGuidePair, Unconstrained, draw, simulate
from ...core.compile import bind

Start = Literal["guide", "prior"]
START_TRIES = 10
GUIDE_DRAWS = 32  # for the scale of the first mass


def posterior_target(pair: ModelGuidePair, coordinates: Unconstrained) -> Target:
    r"""The target ``target(u, state, x)`` of a pair's local latents.

    $$\log \tilde p(u) = \log p(x, z(u) \mid w) + \log \left| \det \frac{\partial z}{\partial u} \right|$$

    Args:
        pair: the pair, its global sites at fixed values.
        coordinates: from :func:`ppvae.core.unconstrained`.

    Returns:
        A pure function of positions u [*S, B, d], the pair's ``state_of`` and a batch x [B, *event]; [*S, B], nats.
    """
    pure = bind(pair, lambda pair, u, x: coordinates.log_joint(pair, x, u).log_density)

    def target(u: Tensor, state: Mapping[str, Tensor], x: Data) -> Tensor:
        log_density: Tensor = pure(state, u, x)
        return log_density

    return target


def start_positions(pair: ModelGuidePair, x: Data, coordinates: Unconstrained, num_draws: int, start: Start) -> Tensor:
    """Positions [num_draws, B, d] drawn from the guide or from the prior, by torch's own generator."""
    if start == "guide":
        latents = draw(pair, x, num_draws).latents
    else:
        simulations = [simulate(pair, x).latents for _ in range(num_draws)]
        latents = {name: torch.stack([simulation[name] for simulation in simulations]) for name in coordinates.names}
    return coordinates.unconstrain(latents)


def start_chains(
    pair: ModelGuidePair,
    x: Data,
    coordinates: Unconstrained,
    target: Target,
    context: tuple[object, ...],
    num_chains: int,
    start: Start,
) -> tuple[HMCState, Tensor]:
    """Start every chain where density and gradient are finite, in at most ten tries.

    Returns:
        the state, and which chains found no such place, bool [C, B]; these are at the origin.
    """
    u = start_positions(pair, x, coordinates, num_chains, start)
    state = initial_state(target, u, *context)
    for _ in range(START_TRIES - 1):
        bad = ~_usable(state)
        if not bool(bad.any()):
            break
        fresh = start_positions(pair, x, coordinates, num_chains, start)
        u = torch.where(bad.unsqueeze(-1), fresh, state.u)
        state = initial_state(target, u, *context)
    bad = ~_usable(state)
    u = torch.where(bad.unsqueeze(-1), torch.zeros_like(u), u).contiguous()
    gradient = torch.where(bad.unsqueeze(-1), torch.zeros_like(u), state.gradient).contiguous()
    return HMCState(u, state.log_density.contiguous(), gradient), bad


def start_variance(pair: ModelGuidePair, x: Data, coordinates: Unconstrained, start: Start) -> Tensor:
    """The first inverse mass, [B, d]: the guide's variances; ones for a start at the prior, or for a point guide."""
    if start == "prior":
        like = start_positions(pair, x, coordinates, 1, start)[0]
        return torch.ones_like(like)
    variance = start_positions(pair, x, coordinates, GUIDE_DRAWS, start).var(0)
    return torch.where(torch.isfinite(variance) & (variance > 1e-10), variance, 1.0).contiguous()


def _usable(state: HMCState) -> Tensor:
    finite = torch.isfinite(state.u).all(-1) & torch.isfinite(state.gradient).all(-1)
    return finite & torch.isfinite(state.log_density)
