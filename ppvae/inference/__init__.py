"""The verbs: fit, sample, estimate, compare."""

from . import elbo, evidence
from .bound import BoundEstimate, evaluate_bound
from .compare import compare_elbos
from .evidence import Evidence, log_evidence
from .gaps import inference_gaps
from .hmc import HMC, ChEES, PosteriorDraws, sample_posterior
from .options import EarlyStopping, KLWarmup
from .predictive import denoise, embed, generate, inpaint, reconstruct
from .svi import fit
from .training import Callback, Fit, Outcome, TrainingState

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
    "generate",
    "inference_gaps",
    "inpaint",
    "log_evidence",
    "reconstruct",
    "sample_posterior",
]
