"""Discrete sites that are summed out, asked for again: their posterior given the other latents, and draws of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .density import _flatten, over_groups, structure
from .enumeration import SummedOut
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .structure import SiteInfo, Structure, to_canonical, to_pyro
from .terms import Sites, sum_log_probs, summed_out
from .tracing import Latents, run_enumerated, run_plain, width_of


def summed_of(sites: Sites, shape: Structure, particles: int) -> SummedOut:
    """What is summed out of an enumerated run."""
    summed = summed_out(sites, {n: s["fn"].log_prob(s["value"]) for n, s in sites.items()}, shape, particles)
    assert summed is not None
    return summed


def require_summed(shape: Structure) -> tuple[SiteInfo, ...]:
    """The sites that are summed out.

    Raises:
        PairError: there are none.
    """
    if not shape.enumerated:
        raise PairError(
            "the model has no discrete site that is summed out"
            + try_one_of('pyro.sample("y", ..., infer={"enumerate": "parallel"}) in the model, and no "y" in the guide')
        )
    return shape.enumerated


def discrete_marginals(pair: ModelGuidePair, x: Data, latents: Latents) -> dict[str, Tensor]:
    r"""The probability of every value of every site that is summed out, $p(y \mid x, z, w)$, at given latents.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: a value for every latent site of the model, local [*S, B, *event], global [*S, *event].

    Returns:
        site to probabilities, [*S, B, *nested, K], in the order of ``enumerate_support``.

    Raises:
        PairError: nothing is summed out; or as :func:`~ppvae.core.log_joint`.
    """
    shape = structure(pair, x)
    infos = require_summed(shape)
    axes, particles, flat = _flatten(latents, shape)

    def visit(group: slice) -> dict[str, Tensor]:
        width = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        summed = summed_of(run_enumerated(pair, x, shape, values, width), shape, width)
        return {i.name: _canonical(summed.probabilities(i.name, summed.names), i, shape, width) for i in infos}

    return _join(over_groups(pair, particles, visit), axes)


def draw_discrete(pair: ModelGuidePair, x: Data, latents: Latents) -> dict[str, Tensor]:
    r"""A joint draw of the sites that are summed out, $y \sim p(y \mid x, z, w)$, at given latents.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: as for :func:`discrete_marginals`.

    Returns:
        site to value, [*S, B, *nested, *event].

    Raises:
        PairError: as :func:`discrete_marginals`.
    """
    shape = structure(pair, x)
    infos = require_summed(shape)
    axes, particles, flat = _flatten(latents, shape)

    def visit(group: slice) -> dict[str, Tensor]:
        width = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        summed = summed_of(run_enumerated(pair, x, shape, values, width), shape, width)
        drawn = summed.values(summed.sample(summed.names))
        return {i.name: _expanded(drawn[i.name], i, shape, width) for i in infos}

    return _join(over_groups(pair, particles, visit), axes)


def terms_at_draw(pair: ModelGuidePair, x: Data, latents: Latents) -> tuple[Tensor, Tensor]:
    r"""One term of the sum, $\log p(x, y, z)$ of the sites under it at one drawn y, from two runs of the model.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: one value for every latent site of the model.

    Returns:
        from the run with all values of y at once, and from one with the drawn value alone, both [1, B]. They differ
        where y is masked out (:class:`~ppvae.core.enumeration.SummedOut`), and else only if the program is wrong.
    """
    shape = structure(pair, x)
    with local_parameters(pair):
        values = {i.name: to_pyro(latents[i.name][None], i, shape.nesting) for i in shape.model_latents}
        summed = summed_of(run_enumerated(pair, x, shape, values, 1), shape, 1)
        index = summed.sample(summed.names)
        values |= summed.values(index)
        sites = run_plain(pair, x, shape, values, 1)
    under_sum = {name: sites[name] for name in summed.names if name in sites}
    return summed.log_joint_at(index), sum_log_probs(under_sum, shape, 1).local


def _canonical(probability: Tensor, info: SiteInfo, shape: Structure, particles: int) -> Tensor:
    """From [K, *Pyro's batch] to [L, B, *nested, K]."""
    values = probability.movedim(0, -1)
    batch = (*((particles,) if particles > 1 else ()), *(1,) * (shape.nesting - len(info.batch_shape)))
    values = values.expand(*batch, *info.batch_shape, info.num_values)
    return to_canonical(values, replace(info, event_shape=(info.num_values,)), shape.nesting, particles)


def _expanded(value: Tensor, info: SiteInfo, shape: Structure, particles: int) -> Tensor:
    batch = (*((particles,) if particles > 1 else ()), *(1,) * (shape.nesting - len(info.batch_shape)))
    return to_canonical(value.expand(*batch, *info.batch_shape, *info.event_shape), info, shape.nesting, particles)


def _join(groups: list[dict[str, Tensor]], axes: torch.Size) -> dict[str, Tensor]:
    return {
        name: torch.cat([group[name] for group in groups]).reshape(*axes, *groups[0][name].shape[1:])
        for name in groups[0]
    }
