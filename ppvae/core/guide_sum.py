r"""Exact expectations over a guide's discrete sites: every value of them, each with its probability as its weight.

$$\mathrm{E}_{q(y, z \mid x)} f(y, z) = \sum_k q(y_k \mid x)\, \mathrm{E}_{q(z \mid x, y_k)} f(y_k, z)$$

as ``pyro.infer.TraceEnum_ELBO`` takes it. A draw for every value stands on the axis of particles, so that whatever
takes particles takes these as well; the mean over that axis has a weight, :attr:`~ppvae.core.Draw.log_share`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from .axes import to_canonical
from .density import draw, join_groups, over_groups, structure
from .enumeration import proper_log_prob
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .site import SiteInfo
from .structure import Structure
from .support import log_density
from .terms import Draw, Sums, join_sums, own_weight, reduce_term
from .tracing import run_program, width_of

_MOST_VALUES = 10_000  # of all sites together, for each datum


def draw_all_values(pair: ModelGuidePair, x: Data, num_particles: int, num_data: int | None = None) -> Draw:
    r"""Draw from the guide with all values of its discrete sites that are marked ``infer={"enumerate": "parallel"}``.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        num_particles: draws of the other sites for every combination of values.
        num_data: N, handed to the guide.

    Returns:
        K times ``num_particles`` draws for K combinations, with ``log_share``, through which gradients flow.
        As :func:`~ppvae.core.draw` where the guide marks no site.

    Raises:
        PairError: a marked site that is global or in another plate than that over data, or too many combinations.
    """
    shape = structure(pair, x)
    infos = _require_served(shape)
    if not infos:
        return draw(pair, x, num_particles, num_data)
    count = math.prod(info.num_values for info in infos)

    def visit(group: slice) -> tuple[dict[str, Tensor], Sums, Tensor]:
        particles = width_of(group)
        sites = run_program(pair, "guide", x, num_data, particles, shape.nesting, enumerate=True)
        if len({sites[i.name]["infer"]["_enumerate_dim"] for i in infos}) < len(infos):
            raise PairError(
                f"guide site {infos[-1].name!r} is marked to be enumerated inside pyro.markov: the expectation would "
                "need every combination" + try_one_of("no pyro.markov around it", "the site in the model alone")
            )
        rows = _Rows(sites, infos, shape, particles)
        local: list[Tensor] = []
        global_: list[Tensor] = []
        tilt: list[Tensor] = []
        share = torch.zeros(count * particles, *(1,) * shape.nesting)
        values: dict[str, Tensor] = {}
        for info in shape.guide:
            site = sites[info.name]
            log_prob = log_density(site)
            term = rows.flat(scale_and_mask(log_prob, 1.0, site["mask"]), info.batch_shape)
            term = reduce_term(term, {**site, "mask": None}, shape, count * particles)
            (global_ if info.scope == "global" else local).append(term)
            if (weight := own_weight(site)) is not None:
                extra = rows.flat(scale_and_mask((weight - 1) * log_prob, 1.0, site["mask"]), info.batch_shape)
                tilt.append(reduce_term(extra, {**site, "mask": None}, shape, count * particles))
            if info in infos:
                share = share + rows.flat(proper_log_prob(log_prob, site), info.batch_shape)
            if info.kind != "observed":
                value = rows.flat(site["value"], info.batch_shape, info.event_shape)
                values[info.name] = to_canonical(value, info, shape.nesting, count * particles)
        share = share.reshape(count * particles, shape.batch)
        log_q = functools.reduce(torch.add, local)
        of_global = functools.reduce(torch.add, global_) if global_ else share.new_zeros(count * particles)
        return values, Sums(log_q, of_global, log_q, functools.reduce(torch.add, tilt) if tilt else None), share

    values, sums, shares = zip(*over_groups(pair, num_particles, visit), strict=True)
    latents, total = join_groups(values), join_sums(sums)
    auxiliary = {info.name: latents.pop(info.name) for info in shape.guide if info.kind == "auxiliary"}
    log_share = torch.cat(shares) + math.log(count)
    return Draw(latents, total.local, total.global_, total.tilt, auxiliary, log_share=log_share)


class _Rows:
    """From Pyro's axes, those of values on the far left, to one axis of values and particles."""

    def __init__(self, sites: Mapping[str, Any], infos: tuple[SiteInfo, ...], shape: Structure, particles: int) -> None:
        sizes = {sites[i.name]["infer"]["_enumerate_dim"]: i.num_values for i in infos}
        self.values = [sizes[dim] for dim in sorted(sizes)]
        self.particles, self.nesting = particles, shape.nesting
        self.axes = shape.nesting + (particles > 1)

    def flat(self, value: Tensor, batch_shape: tuple[int, ...], event_shape: tuple[int, ...] = ()) -> Tensor:
        """From [*values, particle, *batch, *event], any axis absent or one, to [values * particles, *batch, *event]."""
        batch: tuple[int, ...] = value.shape[: value.dim() - len(event_shape)]
        value = value.reshape(*(1,) * (len(self.values) + self.axes - len(batch)), *batch, *event_shape)
        inner = (*(1,) * (self.nesting - len(batch_shape)), *batch_shape)
        lead = (*self.values, *((self.particles,) if self.particles > 1 else ()))
        value = value.expand(*lead, *inner, *event_shape)
        return value.reshape(math.prod(self.values) * self.particles, *inner, *event_shape)


def _require_served(shape: Structure) -> tuple[SiteInfo, ...]:
    infos = shape.guide_enumerated
    for info in infos:
        if info.scope == "global" or len(info.plates) > 1:
            entries = math.prod(info.batch_shape)
            where = "outside the plate over data" if info.scope == "global" else f"in the plates {list(info.plates)}"
            raise PairError(
                f"guide site {info.name!r} is marked to be enumerated and stands {where}: an exact expectation would "
                f"need {info.num_values}^{entries} values"
                + try_one_of(
                    "the site in the model alone, where it is summed out plate by plate",
                    "elbo.ScoreFunctionELBO, elbo.VIMCO or elbo.ReweightedWakeSleep, which draw it",
                )
            )
    count = math.prod(info.num_values for info in infos)
    if count > _MOST_VALUES:
        raise PairError(
            f"guide sites {[info.name for info in infos]} are marked to be enumerated: expected at most "
            f"{_MOST_VALUES:,} values together, found {count:,}"
            + try_one_of("fewer marked sites", "elbo.ScoreFunctionELBO or elbo.VIMCO, which draw them")
        )
    return infos
