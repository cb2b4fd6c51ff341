"""Log marginal likelihood of every datum: one file per method, one type of result."""

from __future__ import annotations

from .ais import AIS
from .base import Bound, Estimate, Evidence, EvidenceMethod
from .bdmc import BDMC
from .exact import Exact
from .importance import ImportanceSampling
from .log_evidence import log_evidence
from .outcome import Outcome
from .pareto import pareto_k
from .prior_sampling import PriorSampling
from .simulated import SimulatedData, simulate_data

__all__ = [
    "AIS",
    "BDMC",
    "Bound",
    "Estimate",
    "Evidence",
    "EvidenceMethod",
    "Exact",
    "ImportanceSampling",
    "Outcome",
    "PriorSampling",
    "SimulatedData",
    "log_evidence",
    "pareto_k",
    "simulate_data",
]
