"""The posterior moments of each weight, its signal-to-noise ratio, and pruning by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..execution.placement import dtype_of, home_of, to
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, predict, structure
from ...core.axes import to_pyro
from ...core.conditioning import guide_as_model, hold_sites
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...data import as_dataset

_DRAWS = 1000  # where a guide's mean and variance are not known in closed form


@dataclass(frozen=True)
class WeightMoments:
    """The posterior of one global site.

    Attributes:
        mean: of every weight, [*event].
        scale: standard deviation of every weight, [*event].
    """

    mean: Tensor
    scale: Tensor

    @property
    def signal_to_noise(self) -> Tensor:
        r"""$|\mu| / \sigma$ of every weight, [*event] (Blundell et al. 2015, arXiv 1505.05424, section 3.4)."""
        return self.mean.abs() / self.scale


@dataclass(frozen=True, eq=False)
class Pruning:
    """Weights fixed at their posterior mean, those of least signal-to-noise ratio at zero.

    Attributes:
        values: site to value, [*event], an argument for ``global_sites=``.
        mask: site to bool [*event], False where a weight is set to zero.
        threshold: the smallest signal-to-noise ratio of a weight that is not set to zero.
        fraction: of the weights that are set to zero.
        pair: the pair with its global sites fixed at these values.
    """

    values: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    threshold: float
    fraction: float
    pair: ModelGuidePair


@in_evaluation_mode
def weight_moments(pair: ModelGuidePair, data: Any) -> dict[str, WeightMoments]:
    """Posterior mean and standard deviation of every global latent: exact where the guide's distributions have them in
    closed form, else from 1000 draws (Pyro's autoguides).

    Args:
        pair: a pair with global latents, such as the result of :func:`ppvae.models.bayesianise`.
        data: data of the right shape; the programs run on the first datum.

    Raises:
        PairError: the pair has no global latent.
    """
    x = _first_datum(pair, data)
    shape = structure(pair, x)
    names = [info.name for info in shape.global_latents]
    if not names:
        raise PairError(
            "the pair has no global latent, so its weights have no posterior" + try_one_of("bayesianise(pair)")
        )
    moments: dict[str, WeightMoments] = {}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        if not any(info.kind == "auxiliary" for info in shape.guide):
            moments, again = _exact(pair, x, names), _exact(pair, x, names)
            # A moment that varies between draws is conditional on another site's draw.
            moments = {n: m for n, m in moments.items() if n in again and _equal(m, again[n])}
        rest = [name for name in names if name not in moments]
        if rest:
            draws = [draw(pair, x, 50).latents for _ in range(_DRAWS // 50)]
            for name in rest:
                values = torch.cat([part[name] for part in draws])
                moments[name] = WeightMoments(values.mean(0), values.std(0))
    return {name: moments[name] for name in names}


@in_evaluation_mode
def signal_to_noise(pair: ModelGuidePair, data: Any) -> dict[str, Tensor]:
    r"""$|\mu| / \sigma$ of every weight: site to [*event]; arguments as for :func:`weight_moments`."""
    return {name: moments.signal_to_noise for name, moments in weight_moments(pair, data).items()}


@in_evaluation_mode
def prune(
    pair: ModelGuidePair,
    data: Any,
    *,
    fraction: float | None = None,
    threshold: float | None = None,
    sites: tuple[str, ...] | None = None,
) -> Pruning:
    r"""Set the weights of least signal-to-noise ratio to zero and fix the others at their posterior mean.

    Args:
        pair: a pair with global latents.
        data: data of the right shape.
        fraction: of weights to set to zero, over all sites together, in [0, 1]; or
        threshold: the ratio $|\mu| / \sigma$ below which a weight is set to zero.
        sites: sites to prune; None for all that end in "weight" or, if none does, all. The others are not pruned.

    Raises:
        PairError: no global latents, or an unknown site.
        PpvaeError: neither or both of fraction and threshold, or one out of range.
    """
    if (fraction is None) == (threshold is None):
        raise PpvaeError("prune: expected one of fraction and threshold" + try_one_of("fraction=0.5", "threshold=1.0"))
    if (fraction is not None and not 0 <= fraction <= 1) or (threshold is not None and threshold < 0):
        raise PpvaeError(
            f"prune: expected a fraction in [0, 1] or a threshold of at least 0, found {fraction}, {threshold}"
        )
    moments = weight_moments(pair, data)
    targets = sites or tuple(name for name in moments if name.endswith("weight")) or tuple(moments)
    for name in targets:
        if name not in moments:
            structure(pair, _first_datum(pair, data)).site(name)  # suggests the nearest, if there is none at all
            raise PairError(f"site {name!r} is not a global latent: expected one of {sorted(moments)}")
    ratios = torch.cat([moments[name].signal_to_noise.flatten() for name in targets])
    if fraction is not None:
        count = round(fraction * len(ratios))
        ascending = ratios.sort().values
        threshold = float(ascending[count]) if count < len(ratios) else float("inf")
    assert threshold is not None
    mask = {
        name: moment.signal_to_noise >= threshold if name in targets else torch.ones_like(moment.mean, dtype=torch.bool)
        for name, moment in moments.items()
    }
    values = {name: moments[name].mean * mask[name] for name in moments}
    count_zero = sum(int((~mask[name]).sum()) for name in targets)
    return Pruning(
        values, mask, threshold, count_zero / len(ratios), hold_sites(pair, _first_datum(pair, data), values)
    )


def _exact(pair: ModelGuidePair, x: Data, names: list[str]) -> dict[str, WeightMoments]:
    """Mean and variance in closed form: the guide serves as a model whose sites are observed."""
    shape = structure(pair, x)
    latents = draw(pair, x, 1).latents
    values = {info.name: to_pyro(latents[info.name], info, shape.nesting) for info in shape.guide_latents}
    reader = guide_as_model(pair, values)
    try:
        mean, variance = (predict(reader, x, {}, kind=kind) for kind in ("mean", "variance"))
    except PairError:
        return {}
    moments = {name: WeightMoments(mean[name], variance[name].sqrt()) for name in names}
    return {name: m for name, m in moments.items() if bool(torch.isfinite(m.scale).all())}


def _equal(first: WeightMoments, other: WeightMoments) -> bool:
    return torch.equal(first.mean, other.mean) and torch.equal(first.scale, other.scale)


def _first_datum(pair: ModelGuidePair, data: Any) -> Data:
    dataset = as_dataset(data, dtype=dtype_of(pair)).take(1).binarize(0)
    return to(dataset.batch(torch.arange(1), dtype=dtype_of(pair)), home_of(pair), dtype_of(pair))
