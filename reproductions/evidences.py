"""Means of the evidence over data, and estimates of it side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ppvae.inference import evidence, log_evidence


def mean_of(values: Tensor) -> list[float]:
    """Over data, and its standard error over them; what a method refused is left out."""
    there = values.double()[values.isfinite()]
    return [float(there.mean()), float(there.std()) / len(there) ** 0.5]


def estimated(pair: Any, data: Any, method: evidence.EvidenceMethod) -> list[float]:
    """The mean of log p(x) over data by a method, and its standard error."""
    return mean_of(log_evidence(pair, data, method=method, progress=False).log_evidence)


def side_by_side(pair: Any, data: Any, methods: Mapping[str, evidence.EvidenceMethod], base: str) -> dict[str, Any]:
    """By each method the mean, that of its difference from one of them, and how many data it vouches for."""
    found = {name: log_evidence(pair, data, method=method, progress=False) for name, method in methods.items()}
    return {
        name: {
            "mean": mean_of(estimate.log_evidence),
            "less": mean_of(estimate.log_evidence - found[base].log_evidence),
            "trusted": [int(estimate.trusted.sum()), len(data)],
        }
        for name, estimate in found.items()
    }


def ranked(values: Mapping[str, float]) -> str:
    """Names from the highest value to the lowest."""
    return " > ".join(sorted(values, key=values.__getitem__, reverse=True))
