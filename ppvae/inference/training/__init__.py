"""Training: stochastic gradient ascent on a bound, and Monte Carlo EM."""

from __future__ import annotations

from .mcem import fit_mcem
from .options import EarlyStopping, KLWarmup
from .state import Callback, Fit, FitInterrupt, FitOutcome, TrainingState
from .svi import fit

__all__ = [
    "Callback",
    "EarlyStopping",
    "Fit",
    "FitInterrupt",
    "KLWarmup",
    "FitOutcome",
    "TrainingState",
    "fit",
    "fit_mcem",
]
