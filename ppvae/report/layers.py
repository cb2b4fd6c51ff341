"""Layers of latents one by one: what the data keep when the upper ones are held and the lower ones drawn again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .described import description_of
from ..core import ModelGuidePair, Structure
from ..data import Dataset
from ..inference import generate, predict_given
from ..inference.evidence import simulate_data
from ..models.description import Description

REDRAWN = 11
SHOWN = 4
_HELD = 100  # values of the upper layers, of which the first are shown
_TOTAL = 1000  # draws for the variance of all


@dataclass(frozen=True, eq=False)
class Held:
    """Data that share their upper layers.

    Attributes:
        sites: the layers that are held, from the top.
        redrawn: those below.
        means: of p(x | z), the first few, [SHOWN, REDRAWN, *event].
        share: of the variance of these means over the prior, summed over entries, that the held layers decide.
        share_error: its standard error.
    """

    sites: tuple[str, ...]
    redrawn: tuple[str, ...]
    means: Tensor
    share: float
    share_error: float


def layers_of(description: Description, shape: Structure) -> list[str]:
    """The local latents from the top down, where one depends on another; none where there are no layers.

    None either where a discrete latent is summed out: it might stand above what is held, which would tell of it.
    """
    if shape.enumerated:
        return []
    local = {info.name for info in shape.local_latents}
    order = [name for name in description.orders["model"] if name in local]
    linked = any(_above(description, name) & local for name in order)
    return order if len(order) > 1 and set(order) == local and linked else []


def _above(description: Description, name: str) -> set[str]:
    """All variables that a variable depends on in the model, directly or not."""
    parents = description.parents(name, "model")
    return set(parents).union(*(_above(description, parent) for parent in parents))


def held_layers(
    pair: ModelGuidePair, data: Dataset, site: str, shape: Structure, options: Mapping[str, Any]
) -> list[Held]:
    """For every number of upper layers what they decide; none where the model has no layers."""
    description = description_of(pair)
    order = [] if description is None else layers_of(description, shape)
    if not order:
        return []
    weights = "mean" if shape.global_latents else None
    latents = simulate_data(pair, data, _HELD, seed=options["seed"], global_sites=weights).latents
    everything = generate(pair, _TOTAL, like=data, site=site, **options).flatten(1).double()
    distance = (everything - everything.mean(0)).square().sum(1) * _TOTAL / (_TOTAL - 1)
    total, total_error = float(distance.mean()), float(distance.std()) / math.sqrt(_TOTAL)
    found = []
    for number in range(1, len(order)):
        given = {name: latents[name].repeat_interleave(REDRAWN, 0) for name in order[:number]}
        # Nothing that is drawn stands above what is held: one draw for each, of weight one.
        draws: dict[str, Any] = {"kind": "mean", "num_samples": 1, "chunk_size": 1000}
        like = Dataset(data.batch((torch.arange(_HELD) % len(data)).repeat_interleave(REDRAWN)))
        means = predict_given(pair, given, like=like, site=site, **draws, **options).samples[0]
        means = means.unflatten(0, (_HELD, REDRAWN))
        within = means.flatten(2).double().var(1).sum(1)
        mean, error = float(within.mean()), float(within.std()) / math.sqrt(_HELD)
        share_error = math.hypot(error / total, mean * total_error / total**2) if total > 0 else math.nan
        share = 1 - mean / total if total > 0 else math.nan
        found.append(Held(tuple(order[:number]), tuple(order[number:]), means[:SHOWN], share, share_error))
    return found
