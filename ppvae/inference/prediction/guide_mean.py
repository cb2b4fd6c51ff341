"""The mean of a pair's guide, and the observed site of a prediction."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..execution.arguments import choose_name, require_integer
from ..execution.over_data import OverData
from ...core import Data, PairError, Structure, draw, predict, structure
from ...core.axes import to_pyro
from ...core.conditioning import guide_as_model
from ...core.errors import try_one_of


class GuideMean:
    """An estimate of every local latent's mean, for averaging over ``passes`` calls (one where it is exact)."""

    def __init__(self, work: OverData, num_samples: int) -> None:
        require_integer("num_samples", num_samples, 1)
        self.pair = work.pair
        self.values: dict[str, Tensor] = {}
        self.reader = guide_as_model(work.pair, self.values)
        shape = structure(work.pair, work.example)
        self.names = [info.name for info in shape.local_latents]
        self.has_means = True
        try:
            with torch.no_grad(), torch.random.fork_rng():
                self.has_means = all(bool(torch.isfinite(v).all()) for v in self(work.example).values())
        except PairError:
            self.has_means = False
        single = len(shape.guide_latents) == 1 and all(site.kind == "latent" for site in shape.guide)
        self.passes = 1 if self.has_means and single else num_samples

    def __call__(self, x: Data) -> dict[str, Tensor]:
        """Site name to [B, *event]."""
        shape = structure(self.pair, x)
        latents = draw(self.pair, x, 1).latents
        if not self.has_means:
            return {name: latents[name][0] for name in self.names}
        self.values.update({i.name: to_pyro(latents[i.name], i, shape.nesting) for i in shape.guide_latents})
        means = predict(self.reader, x, {})
        return {name: means[name] for name in self.names}


def observed_site(work: OverData, site: str | None, exclude: Collection[str] = ()) -> str:
    """The observed site of this name; for None, the only one that is not excluded.

    Raises:
        PairError: an unknown site; or None, and not exactly one site.
    """
    observed = structure(work.pair, work.example).observed
    names = [i.name for i in observed if i.scope == "local" and 0 not in i.event_shape and i.name not in exclude]
    return choose_name(names, site, "observed site")


def latent_site(shape: Structure, site: str | None) -> str:
    """The local latent site of this name; for None, the only one.

    Raises:
        PairError: an unknown site, or one that is summed out; or None, and not exactly one site.
    """
    names, summed = [info.name for info in shape.local_latents], [info.name for info in shape.enumerated]
    if site in summed or (summed and not names):
        raise PairError(
            f"latent site {site or summed[0]!r} is summed out: it has probabilities, and no value"
            + try_one_of("discrete_posterior(pair, data)", "sample_discrete(pair, data), for draws")
        )
    return choose_name(names, site, "local latent site")
