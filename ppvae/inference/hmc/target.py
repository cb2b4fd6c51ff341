r"""The posterior of every datum as a target in unconstrained coordinates, and where chains start on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from .integrator import Target
from .kernel import HMCState, initial_state
from ...core import Data, ModelGuidePair, PairError, Unconstrained, draw, log_joint, simulate, structure
from ...core.compile import bind
from ...core.errors import did_you_mean, try_one_of

Start = Literal["guide", "prior"]
GlobalSites = Mapping[str, Tensor] | Literal["mean"] | None

START_TRIES = 10
GUIDE_DRAWS = 32  # to scale the first mass by
GLOBAL_DRAWS = 1000  # to average a global site's guide over


def posterior_target(pair: ModelGuidePair, coordinates: Unconstrained) -> Target:
    r"""The target ``target(u, state, x, globals)`` of a pair's local latents.

    $$\log \tilde p(u) = \log p(x, z(u) \mid w) + \log \left| \det \frac{\partial z}{\partial u} \right|$$

    Args:
        pair: the pair.
        coordinates: from :func:`ppvae.core.unconstrained`.

    Returns:
        A pure function of positions u [*S, B, d], the pair's ``state_of``, a batch x [B, *event], and the values at
        which global sites are held, site name to [*event]; [*S, B], nats.
    """

    def density(pair: ModelGuidePair, u: Tensor, x: Data, globals_: Mapping[str, Tensor]) -> Tensor:
        latents, log_jacobian = coordinates.constrain(u)
        return log_joint(pair, x, with_globals(latents, globals_, u)).local + log_jacobian

    pure = bind(pair, density)

    def target(u: Tensor, state: Mapping[str, Tensor], x: Data, globals_: Mapping[str, Tensor]) -> Tensor:
        log_density: Tensor = pure(state, u, x, globals_)
        return log_density

    return target


def with_globals(latents: Mapping[str, Tensor], globals_: Mapping[str, Tensor], u: Tensor) -> dict[str, Tensor]:
    """Latents together with the held global sites, expanded over the sample axes of u [*S, B, d]."""
    axes = u.shape[:-2]
    return {**latents, **{name: value.expand(*axes, *value.shape) for name, value in globals_.items()}}


def held_globals(pair: ModelGuidePair, x: Data, given: GlobalSites) -> dict[str, Tensor]:
    """The values at which global latent sites are held.

    Args:
        pair: the pair.
        x: some data, for the guide.
        given: values by site, [*event], or "mean" for the guide's mean, an average of 1000 of its draws.

    Raises:
        PairError: the pair has global sites and no values are given, or they do not fit.
    """
    infos = structure(pair, x).global_latents
    names = [info.name for info in infos]
    if given is None:
        if names:
            raise PairError(
                f"the pair has global latent sites {names}: the posterior of a datum depends on their values"
                + try_one_of(
                    'global_sites="mean" to hold them at the mean of the guide',
                    f"global_sites={{{names[0]!r}: value}} to hold them elsewhere, such as at one draw of the guide",
                )
            )
        return {}
    if isinstance(given, str):
        if given != "mean":
            raise PairError(f"global_sites: expected 'mean' or a mapping from site to value, found {given!r}")
        sums = {name: torch.zeros(()) for name in names}
        for _ in range(0, GLOBAL_DRAWS, 50):
            latents = draw(pair, x, 50).latents
            sums = {name: sums[name].to(latents[name]) + latents[name].sum(0) for name in names}
        return {name: value / GLOBAL_DRAWS for name, value in sums.items()}
    for name in given:
        if name not in names:
            raise PairError(f"global_sites: {name!r} is no global site: {did_you_mean(name, names)}")
    for info in infos:
        if info.name not in given:
            raise PairError(f"global_sites: no value for the global site {info.name!r}")
        if tuple(given[info.name].shape) != info.shape:
            raise PairError(
                f"global_sites: site {info.name!r}: expected shape {list(info.shape)}, "
                f"found {list(given[info.name].shape)}"
            )
    return dict(given)


def start_positions(pair: ModelGuidePair, x: Data, coordinates: Unconstrained, num_draws: int, start: Start) -> Tensor:
    """Positions [num_draws, B, d] drawn from the guide or from the prior, by torch's own generator."""
    if start == "guide":
        latents = draw(pair, x, num_draws).latents
    else:
        drawn = [simulate(pair, x).latents for _ in range(num_draws)]
        latents = {name: torch.stack([one[name] for one in drawn]) for name in coordinates.names}
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
    """Start every lane where density and gradient are finite, in at most ten tries.

    Returns:
        the state, and which lanes found no such place, bool [C, B]; these stand at the origin.
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
