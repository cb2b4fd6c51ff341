"""Data that are masked out: what stands there is a placeholder, which no density may depend on."""

from __future__ import annotations

import torch
from torch import Tensor

from .density import draw, log_joint, structure
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair
from .rewriting import rewritten
from .simulation import observed_and_present


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
    before, found = log_joint(pair, x, latents).local[0], {}
    for name in masked:
        value, present = values[name]
        fullest = value[present.reshape(len(present), -1).sum(1).argmax()]
        other = rewritten(x, shape, {name: torch.where(present, value, fullest)})
        after = log_joint(pair, other, latents).local[0]
        same_gaps = (observed_and_present(pair, other, shape)[name][1] == present).reshape(len(present), -1).all(1)
        found[name] = same_gaps & ~torch.isclose(before, after, rtol=1e-3, atol=1e-3, equal_nan=True)
    return found


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
