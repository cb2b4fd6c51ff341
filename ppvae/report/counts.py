"""Counts: how their variance grows with their mean, and where each stands among those that the model draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core import ModelGuidePair
from ..core.errors import PairError
from ..data import Dataset, random_rows
from ..inference import generate, quantile_residuals

BINS = 20
NUM_DATA = 300
NUM_SETS = 20
"""Data sets of the model beside the data."""
EXPECTED = 1.0
"""Counts of which fewer are expected are mostly 0, and put at random among their equals: they show nothing."""


@dataclass(frozen=True, eq=False)
class CountFindings:
    """Counts against the model's.

    Attributes:
        mean: over data, of every entry that is not always 0, [D].
        variance: likewise.
        model_mean: the same of data sets that the model generates, [NUM_SETS, D].
        model_variance: likewise.
        share: of the quantile levels in each of BINS bins, times BINS: one where the model is right, [BINS]; None where
            there are none, of too few counts or of a class that is summed out.
        share_error: its standard error over data, [BINS].
        num_levels: how many levels these are.
    """

    mean: Tensor
    variance: Tensor
    model_mean: Tensor
    model_variance: Tensor
    share: Tensor | None = None
    share_error: Tensor | None = None
    num_levels: int = 0

    @property
    def outside(self) -> int:
        """Of how many entries the variance lies outside those of all the model's data sets."""
        low, high = self.model_variance.amin(0), self.model_variance.amax(0)
        return int(((self.variance < low) | (self.variance > high)).sum())


def count_findings(
    pair: ModelGuidePair, data: Dataset, site: str, notes: list[str], options: Mapping[str, Any]
) -> CountFindings | None:
    """What there is to say of counts; None of other data, and of fewer than two.

    Args:
        pair: the pair.
        data: the data shown.
        site: the observed site.
        notes: the list that takes what could not be computed.
        options: seed and device.
    """
    if data.value_space != "count" or len(data) < 2:
        return None
    few = data.take(random_rows(len(data), NUM_DATA))
    x = few.main_of(few.tensor()).flatten(1).double()
    made = generate(pair, NUM_SETS * len(few), like=few, kind="sample", site=site, **options)
    made = made.flatten(1).unflatten(0, (NUM_SETS, len(few))).double()
    used = x.sum(0) > 0
    moments = [(part.mean(-2)[..., used], part.var(-2)[..., used]) for part in (x, made)]
    found = CountFindings(*moments[0], *moments[1])
    try:
        residuals = quantile_residuals(pair, few, site=site, **options)
    except PairError as refusal:
        notes.append(f"residuals: {str(refusal).splitlines()[0]}")
        return found
    level, shown = residuals.level.flatten(1), residuals.location.flatten(1) >= EXPECTED
    shown &= level.isfinite()
    if not bool(shown.any()):
        notes.append(f"residuals: of no count {EXPECTED:g} or more is expected, and the others show nothing")
        return found
    share, error = shares(level, shown)
    return replace(found, share=share, share_error=error, num_levels=int(shown.sum()))


def shares(level: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Of levels [N, D] in each bin, times the number of bins, and the standard error over data: each [BINS].

    Levels of one datum depend on each other, so that the error is that of a ratio of sums over data.
    """
    place = (level.nan_to_num() * BINS).long().clamp(0, BINS - 1)
    inside = torch.zeros(len(level), BINS, dtype=torch.float64).scatter_add_(1, place, shown.double())
    count = shown.sum(1, keepdim=True).double()
    share = inside.sum(0) / count.sum()
    error = (inside - share * count).square().sum(0).sqrt() / count.sum()
    return BINS * share, BINS * error
