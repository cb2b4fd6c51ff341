"""The mean of a pair's guide, and the sites that a verb of prediction is about."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..execution.arguments import one_of, require_integer
from ..execution.over_data import OverData
from ...core import Data, PairError, draw, predict, structure
from ...core.conditioning import guide_as_model
from ...core.structure import to_pyro


class GuideMean:
    """An estimate of every local latent's mean, to be averaged over ``passes`` calls (one where it is exact)."""

    def __init__(self, work: OverData, num_samples: int) -> None:
        require_integer("num_samples", num_samples, 1)
        self.pair = work.pair
        self.drawn: dict[str, Tensor] = {}
        self.reader = guide_as_model(work.pair, self.drawn)
        shape = structure(work.pair, work.example)
        self.names = [info.name for info in shape.local_latents]
        self.known = True
        try:
            with torch.no_grad(), torch.random.fork_rng():
                self.known = all(bool(torch.isfinite(v).all()) for v in self(work.example).values())
        except PairError:
            self.known = False
        one = len(shape.guide_latents) == 1 and all(site.kind == "latent" for site in shape.guide)
        self.passes = 1 if self.known and one else num_samples

    def __call__(self, x: Data) -> dict[str, Tensor]:
        """Site name to [B, *event]."""
        shape = structure(self.pair, x)
        latents = draw(self.pair, x, 1).latents
        if not self.known:
            return {name: latents[name][0] for name in self.names}
        self.drawn.update({i.name: to_pyro(latents[i.name], i, shape.nesting) for i in shape.guide_latents})
        means = predict(self.reader, x, {})
        return {name: means[name] for name in self.names}


def observed_site(work: OverData, asked: str | None, known: Collection[str] = ()) -> str:
    """The observed site of this name, or the only one that is not known.

    Raises:
        PairError: an unknown site, or several and none named.
    """
    observed = structure(work.pair, work.example).observed
    names = [i.name for i in observed if i.scope == "local" and 0 not in i.event_shape and i.name not in known]
    return one_of(names, asked, "observed site")
