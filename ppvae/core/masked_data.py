"""Data that are masked out: placeholders, which no density may depend on, in the place of no possible value."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from .axes import to_canonical
from .density import draw, log_joint, observing_run, structure
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .rewriting import entries_in_batch, rewritten
from .simulation import observed_and_present
from .support import base_of, support_of
from .wrappers import entries_present


def reads_masked(pair: ModelGuidePair, x: Data) -> dict[str, Tensor]:
    """Of each observed site with masked entries, the data whose log p(x, z) changes with what stands there, bool [B].

    The entries of the datum that has most of them take the places of those that are masked out. Left out is a site
    whose value is not a part of the batch, where nothing else can be written, and a datum whose gaps are told by the
    values themselves (a label of -1), which these then fill.

    Args:
        pair: the pair.
        x: a batch, [B, *event].
    """
    shape = structure(pair, x)
    places = {place.site for place in shape.places}
    masked = [i.name for i in shape.observed if i.scope == "local" and i.masked and i.name in places]
    if not masked:
        return {}
    latents, values = draw(pair, x, 1).latents, observed_and_present(pair, x, shape)
    before, shared, filled = log_joint(pair, x, latents, num_draws=1).local[0], _of_other_sites(pair, x), {}
    for name in masked:
        value, present = values[name]
        fullest = value[present.reshape(len(present), -1).sum(1).argmax()]
        filled[name] = torch.where(present | shared.get(name, present), value, fullest)

    def moved_by(names: Collection[str]) -> tuple[Tensor, Tensor]:
        other = rewritten(x, shape, {name: filled[name] for name in names})
        after, again = log_joint(pair, other, latents, num_draws=1).local[0], observed_and_present(pair, other, shape)
        same = [(again[name][1] == values[name][1]).reshape(len(after), -1).all(1) for name in names]
        return torch.stack(same).all(0), ~torch.isclose(before, after, rtol=1e-3, atol=1e-3, equal_nan=True)

    same_gaps, moved = moved_by(masked)  # all at once, which is nearly always the end of it
    if bool(same_gaps.all()) and not bool(moved.any()):
        return dict.fromkeys(masked, moved)
    return {name: torch.logical_and(*moved_by([name])) for name in masked}


def _of_other_sites(pair: ModelGuidePair, x: Data) -> dict[str, Tensor]:
    """Of each site, the entries that another one observes too, bool [B, *event]: no placeholders to that one."""
    shape = structure(pair, x)
    with local_parameters(pair):
        seen = entries_in_batch(x, shape, observing_run(pair, x, shape))
    if len(seen) < 2:
        return {}
    counts = {its.place.leaf: torch.zeros(its.length, dtype=torch.int32) for its in seen.values()}
    for its in seen.values():
        counts[its.place.leaf][its.entries[its.present].cpu()] += 1
    shared = {}
    for name, its in seen.items():
        others = counts[its.place.leaf][its.entries.cpu()].to(its.present.device) - its.present.int()
        shared[name] = to_canonical(others > 0, shape.site(name), shape.nesting, 1)[0]
    return shared


def masked_data_error(name: str, datum: int) -> PairError:
    """A density that depends on what stands in a gap."""
    return PairError(
        f"site {name!r}: log p(x, z) of datum {datum} depends on what stands in its masked entries, which another site "
        "reads: expected entries that nothing reads, found a placeholder that would be taken for a value"
        + try_one_of(
            "pyro.sample(..., obs=..., obs_mask=...), for which a missing value is a latent",
            "the site that reads it given the latents instead",
            "mask out what reads it, too",
        )
    )


def require_gaps_beside_values(pair: ModelGuidePair, x: Data) -> None:
    """No mask is computed from the values that it leaves out, where the site could have had them.

    ``Poisson(rate).mask(x > 0)`` leaves out the probability of every zero, so that the rest does not add up to 1. A
    placeholder is no such value: a label of -1, or one number in place of a continuous value. Nor is one that another
    site explains, as a hurdle model's first part does.

    Args:
        pair: the pair.
        x: a batch, [B, *event].

    Raises:
        PairError: names the site and a value.
    """
    shape = structure(pair, x)
    masked = [info for info in shape.observed if info.scope == "local" and info.masked]
    if any(0 in info.event_shape for info in shape.observed):
        return  # a pyro.factor may be what normalises the rest
    with local_parameters(pair):
        sites = observing_run(pair, x, shape)
        in_batch = entries_in_batch(x, shape, sites)
        for info in masked:
            present, value = entries_present(sites[info.name]), sites[info.name]["value"]
            support = support_of(sites[info.name]["fn"])
            if info.name not in in_batch or present is None or support is None or base_of(support).event_dim:
                continue
            left_out = base_of(support).check(value) & ~present.expand(value.shape)
            if not info.is_discrete and len(value[left_out].unique()) < 2:
                continue
            rows = to_canonical(value, info, shape.nesting, 1)[0].roll(1, 0)
            again = observing_run(pair, rewritten(x, shape, {info.name: rows}), shape)
            after = entries_present(again[info.name])
            told = left_out if after is None else left_out & after
            others = [(sites[other.name], again[other.name]) for other in shape.observed if other is not info]
            if bool(told.any()) and all(torch.equal(*(v["value"].nan_to_num() for v in both)) for both in others):
                raise PairError(
                    f"site {info.name!r}: its mask depends on its own values and leaves out {float(value[told][0]):g}, "
                    f"which its {info.family_name} can have: without the probability of that, the rest does not "
                    "integrate to 1"
                    + try_one_of(
                        "no mask, where that is a value like any other",
                        "a member of the batch that says what was seen",
                        "a number that the site cannot have, where nothing was observed",
                    )
                )
