"""The mean log evidence of a whole data set from estimates of a few of its data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from .difference import standard_error
from .outcome import Outcome
from ...core import DataError
from ...core.errors import try_one_of

if TYPE_CHECKING:
    from .base import Evidence


class MeanOfAll(NamedTuple):
    """The mean of log p(x) over a whole data set, from estimates of a few of its data and a bound of all.

    Attributes:
        value: nats per datum.
        error: its standard error over the choice of the few, the noise of their estimates included; NaN of one datum.
        side: "lower" where the estimates are lower bounds, or a datum that has none to be trusted counts with its own
            bound; else that of the estimates.
        num_data: of the whole data set.
        num_estimated: of the few.
        num_by_bound: how many of the few count with their bound.
    """

    value: float
    error: float
    side: Literal["exact", "lower", "upper", "consistent"]
    num_data: int
    num_estimated: int
    num_by_bound: int


def mean_of_all(evidence: Evidence, bounds: Tensor, rows: Tensor) -> MeanOfAll:
    """The difference estimator; see :meth:`~ppvae.inference.evidence.Evidence.over_all`."""
    if bounds.dim() != 1 or rows.shape != evidence.log_evidence.shape:
        raise DataError(
            f"over_all: expected a bound of every datum, [N], and the row of each of {len(evidence)} data, "
            f"found shapes {list(bounds.shape)} and {list(rows.shape)}"
        )
    if not bool(torch.isfinite(bounds).all()):
        raise DataError("over_all: expected finite bounds of all data, found some that are not")
    if int(rows.min()) < 0 or int(rows.max()) >= len(bounds) or len(rows.unique()) < len(rows):
        raise DataError(
            f"over_all: expected different rows between 0 and {len(bounds) - 1}, found {rows.tolist()[:10]}"
        )
    own, values = bounds[rows].double(), evidence.log_evidence.double()
    kept = evidence.trusted
    if evidence.bound == "lower":
        kept = evidence.estimated & torch.tensor([Outcome(code).leaves_a_bound for code in evidence.outcome.tolist()])
    num_by_bound = int((~kept).sum())
    if num_by_bound and evidence.bound == "upper":
        raise DataError(
            f"over_all: {num_by_bound} of {len(evidence)} data have no upper bound that can be trusted, and no other"
            + try_one_of("a method that has one of them all", "AIS or ImportanceSampling, which are lower bounds")
        )
    gap = (values - own).where(kept, 0.0)
    share = len(rows) / len(bounds)
    # The few of a finite set: were they all, the noise of their estimates alone would be left.
    error = standard_error(gap)
    noise = float(evidence.standard_error[kept].double().square().sum().sqrt()) / len(rows)
    if math.isfinite(noise):
        error = math.hypot(error * math.sqrt(1 - share), noise * math.sqrt(share))
    error = math.hypot(error, evidence.common_error or 0.0)
    return MeanOfAll(
        float(bounds.double().mean() + gap.mean()),
        error,
        "lower" if num_by_bound else evidence.bound,
        len(bounds),
        len(rows),
        num_by_bound,
    )
