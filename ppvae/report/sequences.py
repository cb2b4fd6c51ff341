"""Sequences of data: as they are, reconstructed, and new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sites import cut
from ..core import ModelGuidePair, Structure
from ..core.lengths import present as steps_within
from ..data import Dataset
from ..inference import DiscretePosterior
from ..inference.evidence import simulate_data

ROWS = 4
NEW = 8


@dataclass(frozen=True, eq=False)
class SequenceFindings:
    """A few sequences.

    Attributes:
        x: the data, [ROWS, T, D], 0 beyond their lengths.
        lengths: how many steps each has, [ROWS].
        generated: new sequences, drawn from the model, [NEW, T, D], each of the length of a datum.
        new_lengths: theirs, [NEW].
        reconstructed: means of p(x | z), [ROWS, T, D]; None where each step is a site of its own.
        states: the probability of each value of a chain of discrete latents given x, 0 beyond the lengths,
            [ROWS, T, K]; None without one.
        binary: whether all values are 0 and 1.
    """

    x: Tensor
    lengths: Tensor
    generated: Tensor
    new_lengths: Tensor
    reconstructed: Tensor | None = None
    states: Tensor | None = None
    binary: bool = False


def sequence_findings(
    pair: ModelGuidePair,
    data: Dataset,
    shape: Structure,
    reconstructed: Tensor | None,
    discrete: DiscretePosterior | None,
    options: Mapping[str, Any],
) -> SequenceFindings | None:
    """The first sequences; None where the data are none: [T, D], and no pictures.

    Args:
        pair: the pair.
        data: the data shown.
        shape: the pair's structure.
        reconstructed: reconstructions of the main site, [N, *event]; None where there are none.
        discrete: the posterior of discrete latents.
        options: seed and device.
    """
    if len(data.event_shape) != 2 or data.image_shape is not None:
        return None
    few, num_steps = data.take(min(NEW, len(data))), data.event_shape[0]
    x = few.main_of(few.tensor())[:ROWS]
    lengths = few.members.get("lengths")
    lengths = torch.full((len(few),), num_steps) if lengths is None else lengths
    inside = steps_within(lengths, num_steps)
    weights = "mean" if shape.global_latents else None
    made = simulate_data(pair, few, len(few), seed=options["seed"], global_sites=weights).x
    new = cut(few.main_of(made).cpu(), inside)  # type: ignore[arg-type]
    again = reconstructed
    again = None if again is None or again.shape[1:] != x.shape[1:] else cut(again[: len(x)], inside[: len(x)])
    binary = bool(((x == 0) | (x == 1)).all())
    x, own = cut(x, inside[: len(x)]), lengths[: len(x)]
    states = _states(discrete, x)
    states = None if states is None else cut(states, inside[: len(x)])
    return SequenceFindings(x, own, new, lengths, again, states, binary)


def _states(discrete: DiscretePosterior | None, x: Tensor) -> Tensor | None:
    """The probabilities of a chain with one discrete latent for each step, [N, T, K]."""
    columns = [] if discrete is None else list(discrete.probabilities.values())
    if len(columns) != x.shape[1] or any(p.shape != columns[0].shape or p.dim() != 2 for p in columns):
        return None
    return torch.stack(columns, 1)[: len(x)]
