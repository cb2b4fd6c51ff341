"""ELBO estimators, one file each; all are subclasses of ``pyro.infer.elbo.ELBO``."""

from .base import ELBO, BoundTerms, PairWithEstimator
from .doubly_reparameterized import DoublyReparameterizedELBO
from .importance_weighted import ImportanceWeightedELBO
from .particles import Particles, log_mean_exp, pathwise, score_particles
from .renyi import RenyiELBO
from .reweighted_wake_sleep import ReweightedWakeSleep
from .score_function import ScoreFunctionELBO
from .sticking_the_landing import StickingTheLandingELBO
from .trace import TraceELBO
from .trace_mean_field import TraceMeanFieldELBO
from .vimco import VIMCO
from .with_classifier import WithClassifier

__all__ = [
    "ELBO",
    "VIMCO",
    "BoundTerms",
    "DoublyReparameterizedELBO",
    "ImportanceWeightedELBO",
    "Particles",
    "RenyiELBO",
    "ReweightedWakeSleep",
    "ScoreFunctionELBO",
    "StickingTheLandingELBO",
    "TraceELBO",
    "TraceMeanFieldELBO",
    "WithClassifier",
    "PairWithEstimator",
    "log_mean_exp",
    "pathwise",
    "score_particles",
]
