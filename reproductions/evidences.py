"""Means of the evidence over data, and estimates of it side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from torch import Tensor

from ppvae.inference import evidence, log_evidence

from .cells import Found


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


def order(found: Found, parts: Iterable[str]) -> str:
    """From the best algorithm to the worst by AIS, where several have seen as many samples of as many data."""
    lines = []
    for num_train in sorted({cell["num_train"] for cell in found.values()}):
        cells = [cell for cell in found.values() if "estimates" in cell and cell["num_train"] == num_train]
        common = set.intersection(*(set(cell["estimates"]) for cell in cells)) if len(cells) > 1 else set[str]()
        for at, part in product(sorted(common, key=int), parts):
            values = {cell["algorithm"]: cell["estimates"][at][part]["AIS"]["mean"][0] for cell in cells}
            best = " > ".join(sorted(values, key=values.__getitem__, reverse=True))
            lines.append(f"{num_train:,} training data, {int(at):,} samples, {part}: {best}")
    published = "**Which is best, by AIS** (published: 1,000, 10,000,000, test: MCEM > AEVB > wake-sleep)."
    return f"{published} {'; '.join(lines)}." if lines else ""
