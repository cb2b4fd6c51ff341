"""Log marginal likelihood of every datum: a file for each kind of method, one type of result."""

from __future__ import annotations

from .ais import AIS
from .auto import Auto
from .base import Bound, Estimate, Evidence, EvidenceMethod, Memory
from .bdmc import BDMC
from .bridge import BridgeSampling
from .chunk_store import ChunkKey, ChunkStore, SharedChunkStore
from .densities import Density, EncoderDensity, GaussianDensity, KernelDensity, TruncatedGaussianDensity
from .difference import Difference
from .exact import Exact
from .global_latents import log_evidence_of_data_set
from .importance import PSIS, ImportanceSampling, PriorSampling
from .log_evidence import log_evidence
from .outcome import Outcome
from .pareto import pareto_k, pareto_smoothed
from .ris import RIS
from .run import EvidenceRun, collect, sampling_memory
from .simulated_data import SimulatedData, simulate_data
from .weights import from_weights
from .whole import MeanOfAll

__all__ = [
    "AIS",
    "Auto",
    "BDMC",
    "Bound",
    "BridgeSampling",
    "ChunkKey",
    "ChunkStore",
    "Density",
    "Difference",
    "EncoderDensity",
    "Estimate",
    "Evidence",
    "EvidenceMethod",
    "EvidenceRun",
    "Exact",
    "GaussianDensity",
    "RIS",
    "ImportanceSampling",
    "KernelDensity",
    "MeanOfAll",
    "Memory",
    "Outcome",
    "PSIS",
    "PriorSampling",
    "SharedChunkStore",
    "SimulatedData",
    "TruncatedGaussianDensity",
    "collect",
    "from_weights",
    "log_evidence",
    "log_evidence_of_data_set",
    "pareto_k",
    "pareto_smoothed",
    "sampling_memory",
    "simulate_data",
]
