"""What a trained pair says of data, known, new, damaged or incomplete."""

from __future__ import annotations

from .classes import Calibration, DiscretePosterior
from .conditional import ConditionalPrediction, predict_given
from .discrete import discrete_posterior, sample_discrete
from .inpaint import denoise, inpaint
from .masks import coarse_grid, hide
from .moments import PredictiveMoments, predictive_moments
from .noise import AdditiveNormal, Flips
from .predictive import decode, embed, generate, reconstruct
from .restoration import Restoration
from .topics import Topics, topics
from .weights import prune, signal_to_noise, weight_moments

__all__ = [
    "AdditiveNormal",
    "Calibration",
    "ConditionalPrediction",
    "DiscretePosterior",
    "Flips",
    "PredictiveMoments",
    "Restoration",
    "Topics",
    "coarse_grid",
    "decode",
    "denoise",
    "discrete_posterior",
    "embed",
    "generate",
    "hide",
    "inpaint",
    "predict_given",
    "predictive_moments",
    "prune",
    "reconstruct",
    "sample_discrete",
    "signal_to_noise",
    "topics",
    "weight_moments",
]
