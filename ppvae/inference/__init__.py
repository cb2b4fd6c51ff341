"""The verbs: fit, sample, estimate, compare."""

from . import elbo, evidence
from .bound import BoundEstimate, evaluate_bound
from .compare import compare_elbos
from .evidence import Evidence, log_evidence
from .gaps import inference_gaps
from .hmc import HMC, ChEES, PosteriorDraws, sample_posterior
from .mcem import fit_mcem
from .options import EarlyStopping, KLWarmup
from .predictive import denoise, embed, generate, inpaint, reconstruct
from .svi import fit
from .training import Callback, Fit, Outcome, TrainingState
from .wake_sleep import wake_sleep

__all__ = [
    "HMC",
    "BoundEstimate",
    "Callback",
    "ChEES",
    "EarlyStopping",
    "Evidence",
    "Fit",
    "KLWarmup",
    "Outcome",
    "PosteriorDraws",
    "TrainingState",
    "compare_elbos",
    "denoise",
    "elbo",
    "embed",
    "evaluate_bound",
    "evidence",
    "fit",
    "fit_mcem",
    "generate",
    "inference_gaps",
    "inpaint",
    "log_evidence",
    "reconstruct",
    "sample_posterior",
    "wake_sleep",
]
