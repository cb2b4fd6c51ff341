"""The verbs: fit, sample, estimate, compare."""

from . import elbo, evidence
from .aggregate_posterior import AggregatePosterior, aggregate_posterior
from .bound import BoundEstimate, evaluate_bound
from .compare import compare_along_run, compare_elbos
from .evidence import Evidence, log_evidence, log_evidence_of_data_set
from .gaps import inference_gaps
from .hmc import HMC, ChEES, GlobalDraws, PosteriorDraws, sample_global_posterior, sample_posterior
from .mcem import fit_mcem
from .options import EarlyStopping, KLWarmup
from .posterior_checks import PosteriorChecks, PredictiveCheck, posterior_checks
from .predict_given import ConditionalPrediction, predict_given
from .predictive import decode, denoise, embed, generate, inpaint, reconstruct
from .site_report import site_report
from .svi import fit
from .training import Callback, Fit, Outcome, TrainingState
from .uncertainty import PredictiveMoments, predictive_moments
from .wake_sleep import wake_sleep
from .weights import prune, signal_to_noise, weight_moments

__all__ = [
    "HMC",
    "AggregatePosterior",
    "BoundEstimate",
    "Callback",
    "ChEES",
    "ConditionalPrediction",
    "EarlyStopping",
    "Evidence",
    "Fit",
    "GlobalDraws",
    "KLWarmup",
    "Outcome",
    "PosteriorChecks",
    "PosteriorDraws",
    "PredictiveCheck",
    "PredictiveMoments",
    "TrainingState",
    "aggregate_posterior",
    "compare_along_run",
    "compare_elbos",
    "decode",
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
    "log_evidence_of_data_set",
    "posterior_checks",
    "predict_given",
    "predictive_moments",
    "prune",
    "reconstruct",
    "sample_global_posterior",
    "sample_posterior",
    "signal_to_noise",
    "site_report",
    "wake_sleep",
    "weight_moments",
]
