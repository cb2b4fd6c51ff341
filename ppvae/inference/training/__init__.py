"""Training: stochastic gradient ascent on a bound, and Monte Carlo EM."""

from __future__ import annotations

from .many import fit_many
from .many_result import ManyFits, ManyFitsInterrupt
from .mcem import fit_mcem
from .options import EarlyStopping
from .schedules import Constant, Cyclic, Exponential, KLWarmup, Linear, Schedule
from .state import Callback, Fit, FitInterrupt, FitOutcome, TrainingState
from .svi import fit

__all__ = [
    "Callback",
    "Constant",
    "Cyclic",
    "EarlyStopping",
    "Exponential",
    "Fit",
    "FitInterrupt",
    "FitOutcome",
    "KLWarmup",
    "Linear",
    "ManyFits",
    "ManyFitsInterrupt",
    "Schedule",
    "TrainingState",
    "fit",
    "fit_many",
    "fit_mcem",
]
