"""Log marginal likelihood of every datum: one file per method, one type of result."""

from __future__ import annotations

from .base import Bound, Estimate, Evidence, EvidenceMethod
from .exact import Exact
from .importance import ImportanceSampling
from .log_evidence import log_evidence
from .outcome import Outcome
from .pareto import pareto_k
from .prior_sampling import PriorSampling

__all__ = [
    "Bound",
    "Estimate",
    "Evidence",
    "EvidenceMethod",
    "Exact",
    "ImportanceSampling",
    "Outcome",
    "PriorSampling",
    "log_evidence",
    "pareto_k",
]
