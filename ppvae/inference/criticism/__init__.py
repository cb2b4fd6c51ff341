"""What is wrong with a trained pair: its data against real ones, its latents against the prior, its bound's gaps."""

from __future__ import annotations

from .aggregate_posterior import AggregatePosterior, aggregate_posterior
from .gaps import Gaps, inference_gaps
from .posterior_checks import PosteriorChecks, PredictiveCheck, posterior_checks
from .residuals import QuantileResiduals, quantile_residuals
from .site_report import site_report

__all__ = [
    "AggregatePosterior",
    "Gaps",
    "PosteriorChecks",
    "PredictiveCheck",
    "QuantileResiduals",
    "aggregate_posterior",
    "inference_gaps",
    "posterior_checks",
    "quantile_residuals",
    "site_report",
]
