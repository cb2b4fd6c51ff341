"""The mean difference of two models' log evidence, over the same data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

SIGMAS = 2
"""Standard errors beyond which two models are told apart."""
FEWEST = 10
"""Data of which a standard error tells that: that of fewer is itself too uncertain."""


class Difference(NamedTuple):
    """The mean paired difference of two models over common data, nats per datum.

    Attributes:
        value: the mean over data of this model minus the other.
        error: its standard error over the choice of data, the noise of each datum included; NaN of one datum.
        num_data: pairs.
    """

    value: float
    error: float
    num_data: int

    @property
    def told_apart(self) -> bool:
        """Whether it is further from zero than two standard errors, of no fewer data than ten."""
        return self.num_data >= FEWEST and abs(self.value) > SIGMAS * self.error


def paired_difference(first: Tensor, second: Tensor, common_errors: Iterable[float] = ()) -> Difference:
    r"""The mean of $d_b = a_b - a'_b$ over the data that both have, and its standard error.

    $$\mathrm{se}^2 = \frac{\mathrm{var}_b\, d_b}{B} + \sum_i e_i^2$$

    Args:
        first: a, [N]; NaN where there is none.
        second: a', [N], of the same data.
        common_errors: e, standard errors of means whose noise all data share, so that it does not show between them.
    """
    gap = (first.double() - second.double())[torch.isfinite(first) & torch.isfinite(second)]
    value = float(gap.mean()) if len(gap) else math.nan
    return Difference(value, math.hypot(standard_error(gap), *common_errors), len(gap))


def standard_error(values: Tensor) -> float:
    """That of the mean of independent values, [N]; NaN of fewer than two."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
