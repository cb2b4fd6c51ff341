"""The evidence in closed form, where a model offers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory, nan_like
from .outcome import Outcome
from .run import EvidenceRun
from ...core import Data, PairError
from ...core.compile import bind
from ...core.errors import try_one_of


@dataclass(frozen=True)
class Exact(EvidenceMethod):
    r"""$\log p(x)$ by the pair's own ``log_evidence(x)``, for instance that of ``FactorAnalysis``.

    Raises:
        PairError: the pair offers no ``log_evidence``, or its result is not [B].
    """

    bound: ClassVar[Bound] = "exact"

    def check(self, run: EvidenceRun) -> None:
        """The pair has a method ``log_evidence``."""
        if not callable(getattr(run.original, "log_evidence", None)):
            raise PairError(
                f"Exact: {type(run.original).__name__} offers no log_evidence(x), its evidence in closed form"
                + try_one_of(
                    "method=ImportanceSampling(1000), AIS() or BridgeSampling()",
                    "give the pair a method log_evidence(self, x) that returns log p(x), [B]",
                )
            )

    def memory(self, run: EvidenceRun) -> Memory:
        """As much as one draw takes."""
        return Memory(run.bytes_per_datum + run.bytes_per_draw, 0.0, 1)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """The closed form, without error."""
        # One eager call: a closed form may validate its arguments, which cannot be captured.
        value: Tensor = bind(run.original, lambda pair, x: pair.log_evidence(x))(run.state, x)
        if value.shape != (run.batch_of(x),):
            raise PairError(f"Exact: expected log_evidence(x) of shape [{run.batch_of(x)}], found {list(value.shape)}")
        outcome = torch.zeros_like(value, dtype=torch.int64)
        outcome[~torch.isfinite(value)] = Outcome.NOT_FINITE
        nan = nan_like(value)
        return Estimate(value, torch.zeros_like(value), nan, nan, outcome, {})
