"""Estimators of the bound against each other, on one pair: bias, variance, gradient noise, cost."""

from __future__ import annotations

from .compare import compare_along_run, compare_elbos
from .result import BlockRow, Comparison, EstimatorRow

__all__ = ["BlockRow", "Comparison", "EstimatorRow", "compare_along_run", "compare_elbos"]
