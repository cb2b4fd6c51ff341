"""Discrete sites that are summed out, asked for again: their posterior given the other latents, and draws of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .axes import to_canonical, to_pyro
from .density import _flatten, draw, over_groups, structure
from .elimination import require_sum_fits
from .enumeration import SummedOut, mask_of
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .structure import SiteInfo, Structure
from .terms import Sites, sum_log_probs, summed_out
from .tracing import Latents, run_enumerated, run_plain, run_program, width_of

_LARGE = 10**7  # elements above which the memory is asked


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
            + try_one_of(
                'pyro.sample("y", ..., infer={"enumerate": "parallel"}) in the model, and no "y" in the guide',
                "the same mark at a site of the guide, for q(y | x)",
            )
        )
    return shape.enumerated


def discrete_marginals(
    pair: ModelGuidePair, x: Data, latents: Latents, *, num_draws: int | None = None
) -> dict[str, Tensor]:
    r"""The probability of every value of every site that is summed out, $p(y \mid x, z, w)$, at given latents.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: a value for every latent site of the model, local [*S, B, *event], global [*S, *event].
        num_draws: as for :func:`~ppvae.core.log_joint`.

    Returns:
        site to probabilities, [*S, B, *nested, K], in the order of ``enumerate_support``.

    Raises:
        PairError: nothing is summed out; or as :func:`~ppvae.core.log_joint`.
    """
    shape = structure(pair, x)
    infos = require_summed(shape)
    axes, particles, flat = _flatten(latents, shape, num_draws)

    def visit(group: slice) -> dict[str, Tensor]:
        width = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        summed = summed_of(run_enumerated(pair, x, shape, values, width), shape, width)
        return {i.name: _canonical(summed.probabilities(i.name, summed.names), i, shape, width) for i in infos}

    return _join(over_groups(pair, particles, visit), axes)


def draw_discrete(
    pair: ModelGuidePair, x: Data, latents: Latents, *, num_draws: int | None = None
) -> dict[str, Tensor]:
    r"""A joint draw of the sites that are summed out, $y \sim p(y \mid x, z, w)$, at given latents.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: as for :func:`discrete_marginals`.
        num_draws: likewise.

    Returns:
        site to value, [*S, B, *nested, *event].

    Raises:
        PairError: as :func:`discrete_marginals`.
    """
    shape = structure(pair, x)
    infos = require_summed(shape)
    axes, particles, flat = _flatten(latents, shape, num_draws)

    def visit(group: slice) -> dict[str, Tensor]:
        width = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        summed = summed_of(run_enumerated(pair, x, shape, values, width), shape, width)
        drawn = summed.values(summed.sample(summed.names))
        return {i.name: _expanded(drawn[i.name], i, shape, width) for i in infos}

    return _join(over_groups(pair, particles, visit), axes)


class DiscreteSite(NamedTuple):
    """What there is to say of a site that is marked to be enumerated.

    Attributes:
        values: all of its values, in the order of ``enumerate_support``, [K, *event].
        present: where it is not masked out, bool [B, *nested].
    """

    values: Tensor
    present: Tensor


def discrete_sites(pair: ModelGuidePair, x: Data) -> dict[str, DiscreteSite]:
    """The values of the local discrete sites that are summed out of the model, or marked in the guide.

    Args:
        pair: the pair.
        x: the batch, [B, *event].

    Returns:
        by site, those of the model first.

    Raises:
        PairError: there are none.
    """
    shape = structure(pair, x)
    infos = (*shape.enumerated, *(info for info in shape.guide_enumerated if info.scope == "local"))
    if not infos:
        require_summed(shape)
    with local_parameters(pair):
        sites = dict(run_program(pair, "guide", x, None, nesting=shape.nesting, enumerate=True))
        if shape.enumerated:
            latents = draw(pair, x, 1).latents
            values = {i.name: to_pyro(latents[i.name], i, shape.nesting) for i in shape.model_latents}
            model = run_enumerated(pair, x, shape, values, 1)
            sites.update({info.name: model[info.name] for info in shape.enumerated})
    return {
        i.name: DiscreteSite(
            sites[i.name]["value"].reshape(i.num_values, *i.event_shape), _present(sites[i.name], i, shape)
        )
        for i in infos
    }


def _present(site: Any, info: SiteInfo, shape: Structure) -> Tensor:
    mask, rank = mask_of(site), len(info.batch_shape)
    if mask is None:
        mask = torch.ones(info.batch_shape, dtype=torch.bool, device=site["value"].device)
    elif mask.dim() > rank:  # it depends on values of other sites
        mask = mask.flatten(0, mask.dim() - rank - 1).any(0)
    mask = mask.expand(info.batch_shape)
    return to_canonical(mask, replace(info, event_shape=()), shape.nesting, 1)[0]


def terms_at_draw(pair: ModelGuidePair, x: Data, latents: Latents) -> tuple[Tensor, Tensor]:
    r"""$\log p(x, y, z)$ of the local sites at one drawn y, from two runs of the model.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: one value for every latent site of the model.

    Returns:
        as a term of the sum, from the run with all values of y at once, and from a run with the drawn value alone, both
        [1, B]. They differ where y is masked out (:class:`~ppvae.core.enumeration.SummedOut`), and else only if the
        program is wrong.
    """
    shape = structure(pair, x)
    with local_parameters(pair), _RefuseLarge(shape):
        values = {i.name: to_pyro(latents[i.name][None], i, shape.nesting) for i in shape.model_latents}
        sites = run_enumerated(pair, x, shape, values, 1)
        summed = summed_of(sites, shape, 1)
        index = summed.sample(summed.names)
        rest = sum_log_probs({n: s for n, s in sites.items() if n not in summed.names}, shape, 1).local
        plain = run_plain(pair, x, shape, {**values, **summed.values(index)}, 1)
    return summed.log_joint_at(index) + rest, sum_log_probs(plain, shape, 1).local


class _RefuseLarge(TorchDispatchMode):
    """Refuses, before it is made, a tensor over so many values of the sites that it does not fit into memory."""

    def __init__(self, shape: Structure) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names, self.batch = [info.name for info in shape.enumerated], max(shape.batch, 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [value for value in args if isinstance(value, Tensor)]
        if len(tensors) > 1:
            try:
                elements = torch.Size(torch.broadcast_shapes(*(t.shape for t in tensors))).numel()
            except RuntimeError:
                elements = 0
            if elements > _LARGE:
                require_sum_fits(self.names, elements // self.batch, elements * tensors[0].element_size())
        return func(*args, **(kwargs or {}))


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
