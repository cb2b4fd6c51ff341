"""Discrete sites that are summed out, asked for again: their posterior given the other latents, and draws of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .axes import to_canonical, to_pyro
from .density import _flatten, draw, join_groups, over_groups, structure
from .elimination import require_sum_fits
from .enumeration import SummedOut, mask_of
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .site import SiteInfo
from .structure import Structure
from .support import log_density
from .terms import Sites, sum_log_probs, summed_out
from .tracing import Latents, run_model, run_program, width_of

_LARGE = 10**7  # elements above which the memory is asked


def summed_of(sites: Sites, shape: Structure, particles: int, stand_in: int | None = None) -> SummedOut:
    """What is summed out of an enumerated run."""
    log_probs = {name: log_density(site) for name, site in sites.items()}
    summed = summed_out(sites, log_probs, shape, particles, stand_in)
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

    def probabilities(summed: SummedOut, infos: Sequence[SiteInfo]) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        found = {info.name: summed.probabilities(info.name, summed.names).movedim(0, -1) for info in infos}
        return {info.name: (found[info.name], (info.num_values,)) for info in infos}

    return _of_each(pair, x, latents, num_draws, probabilities)


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

    def values(summed: SummedOut, infos: Sequence[SiteInfo]) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
        drawn = summed.values(summed.sample(summed.names))
        return {info.name: (drawn[info.name], info.event_shape) for info in infos}

    return _of_each(pair, x, latents, num_draws, values)


def _of_each(
    pair: ModelGuidePair,
    x: Data,
    latents: Latents,
    num_draws: int | None,
    find: Callable[[SummedOut, Sequence[SiteInfo]], dict[str, tuple[Tensor, tuple[int, ...]]]],
) -> dict[str, Tensor]:
    """Of each site that is summed out what ``find`` gives, Pyro's [*batch, *event] and the shape of its event:
    [*S, B, *nested, *event]."""
    shape = structure(pair, x)
    infos = require_summed(shape)
    axes, particles, flat = _flatten(latents, shape, num_draws)

    def visit(group: slice) -> dict[str, Tensor]:
        width, found = width_of(group), {}
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        given = find(summed_of(run_model(pair, x, shape, values, width), shape, width), infos)
        lead = (width,) if width > 1 else ()
        for info in infos:
            value, event = given[info.name]
            value = value.expand(*lead, *(1,) * (shape.nesting - len(info.batch_shape)), *info.batch_shape, *event)
            found[info.name] = to_canonical(value, replace(info, event_shape=event), shape.nesting, width)
        return found

    joined = join_groups(over_groups(pair, particles, visit))
    return {name: value.reshape(*axes, *value.shape[1:]) for name, value in joined.items()}


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
            model = run_model(pair, x, shape, values, 1)
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
        [1, B]. They differ only if the program is wrong.
    """
    shape = structure(pair, x)
    with local_parameters(pair), _RefuseLarge(shape):
        values = {i.name: to_pyro(latents[i.name][None], i, shape.nesting) for i in shape.model_latents}
        sites = run_model(pair, x, shape, values, 1)
        summed = summed_of(sites, shape, 1, stand_in=0)  # what is masked out then has probability one, as in a run
        index = summed.sample(summed.names)
        rest = sum_log_probs({n: s for n, s in sites.items() if n not in summed.names}, shape, 1).local
        plain = run_model(pair, x, shape, {**values, **summed.values(index)}, 1, enumerate=False)
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
