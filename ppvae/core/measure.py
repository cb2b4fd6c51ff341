"""What the log evidence of a model is the logarithm of: probabilities or densities, and of which values."""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from .density import structure
from .pair import Data, ModelGuidePair
from .simulation import observed_and_present

MEASURED_ROWS = 64
"""Data whose observed values tell those of one model from those of another."""


class Measure(NamedTuple):
    """Of how many values of one datum p(x) is a probability, and of how many a density.

    A probability has no unit, a density that of its value's inverse: log p(x) of two models compares only where both
    have the same measure, of the same values.

    Attributes:
        probabilities: values of a discrete distribution.
        densities: values of a continuous one.
        values: a fingerprint of what is observed of the first data, so that ``obs=(x - mean) / scale`` is told from
            ``obs=x``: of the values of densities, in whichever sites and order, and of how many values of
            probabilities are alike, which another name for each of them does not change.
    """

    probabilities: int
    densities: int
    values: str = ""

    def __str__(self) -> str:
        """``probabilities of 784 values``, ``densities of 3 values``, or both."""
        counts = {"probabilities": self.probabilities, "densities": self.densities}
        words = [f"{kind} of {count} value{'s' * (count != 1)}" for kind, count in counts.items() if count]
        return " and ".join(words) or "of no values"


def measure_of(pair: ModelGuidePair, x: Data) -> Measure:
    """The measure of a pair's evidence.

    Args:
        pair: the pair.
        x: some data, [B, *event]; for pairs of which the same is asked, the same first ones.
    """
    shape = structure(pair, x)
    counts = {True: 0, False: 0}
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}
    with torch.no_grad():
        found = observed_and_present(pair, x, shape)
    for info in shape.observed:
        one_of_several = info.is_a(dist.OneHotCategorical)  # one value, written as several
        counts[info.is_discrete] += math.prod(info.shape[:-1] if one_of_several else info.shape)
        if info.name in found:
            value, present = (tensor[:MEASURED_ROWS] for tensor in found[info.name])
            if one_of_several:
                value, present = value.argmax(-1), present.all(-1)
            kept = torch.where(present, value.float(), math.nan)
            kinds[info.is_discrete].append(kept.reshape(len(kept), -1))
    digest = hashlib.sha256()
    for discrete, values in kinds.items():
        if values:
            rows = torch.cat(values, 1).cpu()
            told = rows[~rows.isnan()].unique(return_counts=True)[1] if discrete else rows
            digest.update(told.sort(-1).values.contiguous().numpy().tobytes())
    return Measure(counts[True], counts[False], digest.hexdigest())
