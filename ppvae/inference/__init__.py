"""The verbs: fit, sample, estimate, compare."""

from . import elbo
from .bound import BoundEstimate, evaluate_bound
from .options import EarlyStopping, KLWarmup
from .svi import fit
from .training import Callback, Fit, Outcome, TrainingState

__all__ = [
    "BoundEstimate",
    "Callback",
    "EarlyStopping",
    "Fit",
    "KLWarmup",
    "Outcome",
    "TrainingState",
    "elbo",
    "evaluate_bound",
    "fit",
]
