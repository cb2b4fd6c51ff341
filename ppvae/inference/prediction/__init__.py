"""What a trained pair says of data, known, new, damaged or incomplete."""

from __future__ import annotations

from .conditional import ConditionalPrediction, predict_given
from .inpaint import inpaint
from .moments import PredictiveMoments, predictive_moments
from .predictive import decode, denoise, embed, generate, reconstruct
from .weights import prune, signal_to_noise, weight_moments

__all__ = [
    "ConditionalPrediction",
    "PredictiveMoments",
    "decode",
    "denoise",
    "embed",
    "generate",
    "inpaint",
    "predict_given",
    "predictive_moments",
    "prune",
    "reconstruct",
    "signal_to_noise",
    "weight_moments",
]
