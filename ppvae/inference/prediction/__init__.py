"""What a trained pair says of data, known, new, damaged or incomplete."""

from __future__ import annotations

from .classes import Calibration, DiscretePosterior
from .conditional import ConditionalPrediction, predict_given
from .discrete import discrete_posterior, sample_discrete
from .inpaint import inpaint
from .moments import PredictiveMoments, predictive_moments
from .predictive import decode, denoise, embed, generate, reconstruct
from .weights import prune, signal_to_noise, weight_moments

__all__ = [
    "Calibration",
    "ConditionalPrediction",
    "DiscretePosterior",
    "PredictiveMoments",
    "decode",
    "denoise",
    "discrete_posterior",
    "embed",
    "generate",
    "inpaint",
    "predict_given",
    "predictive_moments",
    "prune",
    "reconstruct",
    "sample_discrete",
    "signal_to_noise",
    "weight_moments",
]
