"""The verbs: fit, sample, estimate, compare."""

from . import elbo, evidence
from .comparison import compare_along_run, compare_elbos
from .criticism import (
    AggregatePosterior,
    PosteriorChecks,
    PredictiveCheck,
    aggregate_posterior,
    inference_gaps,
    posterior_checks,
    site_report,
)
from .elbo.evaluation import BoundEstimate, evaluate_bound
from .elbo.wake_sleep import wake_sleep
from .evidence import Evidence, log_evidence, log_evidence_of_data_set
from .hmc import HMC, ChEES, GlobalDraws, PosteriorDraws, sample_global_posterior, sample_posterior
from .prediction import (
    ConditionalPrediction,
    PredictiveMoments,
    decode,
    denoise,
    embed,
    generate,
    inpaint,
    predict_given,
    predictive_moments,
    prune,
    reconstruct,
    signal_to_noise,
    weight_moments,
)
from .training import Callback, EarlyStopping, Fit, FitInterrupt, FitOutcome, KLWarmup, TrainingState, fit, fit_mcem

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
    "FitInterrupt",
    "FitOutcome",
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
