"""Means of the evidence over data, and estimates of it side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise, product
from typing import Any

from torch import Tensor

from ppvae.inference import elbo, evaluate_bound, evidence, log_evidence

from .cells import Found
from .pages import table

METHODS: dict[str, Callable[[bool], evidence.EvidenceMethod]] = {
    "appendix D": lambda quick: evidence.RIS.paper(),
    "AIS": lambda quick: evidence.AIS(num_temperatures=50 if quick else 500, start="prior"),
    "importance sampling": lambda quick: evidence.ImportanceSampling(500 if quick else 5000),
}
"""The published estimator and two more, of the quick version or not."""


def mean_of(values: Tensor) -> list[float]:
    """Over data, and its standard error over them; what a method refused is left out."""
    there = values.double()[values.isfinite()]
    return [float(there.mean()), float(there.std()) / len(there) ** 0.5]


def estimated(pair: Any, data: Any, method: evidence.EvidenceMethod) -> list[float]:
    """The mean of log p(x) over data by a method, and its standard error."""
    return mean_of(log_evidence(pair, data, method=method, progress=False).log_evidence)


def over_all(pair: Any, data: Any, index: Tensor, few: evidence.Evidence) -> list[float]:
    """The mean of log p(x) over all data, and its standard error, from the evidence of some drawn at random."""
    bound = evaluate_bound(pair, data, elbo=elbo.TraceELBO(), progress=False).elbo
    whole = few.over_all(bound, index)
    return [whole.value, whole.error]


def side_by_side(
    pair: Any, data: Any, methods: Mapping[str, evidence.EvidenceMethod], base: str, num_weights: int | None = None
) -> dict[str, Any]:
    """By each method the mean, that of its difference from one of them, and how many data it vouches for.

    Of that one the value for each datum too, so that pairs can be compared on the same data; where weights have a
    posterior, averaged over so many draws of them.
    """
    found = {
        name: log_evidence(pair, data, method=method, global_sites=num_weights, progress=False)
        for name, method in methods.items()
    }
    sides: dict[str, Any] = {
        name: {
            "mean": mean_of(estimate.log_evidence),
            "less": mean_of(estimate.log_evidence - found[base].log_evidence),
            "trusted": [int(estimate.trusted.sum()), len(data)],
        }
        for name, estimate in found.items()
    }
    sides[base]["values"] = [round(value, 4) for value in found[base].log_evidence.tolist()]
    return sides


def ranking(values: Mapping[str, Tensor]) -> str:
    """By their means over the same data, from the best to the worst, with what lies between two neighbours."""
    names = sorted(values, key=lambda name: float(values[name].mean()), reverse=True)
    steps = [mean_of(values[one] - values[other]) for one, other in pairwise(names)]
    return names[0] + "".join(f" > {name} by {m:.1f} ± {e:.1f}" for name, (m, e) in zip(names[1:], steps, strict=True))


def order(found: Found, parts: Iterable[str]) -> str:
    """From the best algorithm to the worst by AIS, with what lies between two neighbours on the same data."""
    lines = []
    for num_train in sorted({cell["num_train"] for cell in found.values()}):
        cells = [cell for cell in found.values() if "estimates" in cell and cell["num_train"] == num_train]
        for at, part in product(sorted({at for cell in cells for at in cell["estimates"]}, key=int), parts):
            values = {
                c["algorithm"]: Tensor(c["estimates"][at][part]["AIS"]["values"]) for c in cells if at in c["estimates"]
            }
            if len(values) > 1:
                lines.append((f"{num_train:,}", f"{int(at):,}", part, ranking(values)))
    head = ("N_train", "samples seen", "data", "by AIS, nats per datum on the same data")
    return (
        f"**Which is best** (published, 1,000, 10,000,000, test: MCEM > AEVB > wake-sleep).\n\n{table(head, lines)}"
        if lines
        else ""
    )


def all_sides(found: Found, parts: Iterable[str], methods: Iterable[str]) -> str:
    """What :func:`side_by_side` kept of every cell."""
    lines = []
    for cell in found.values():
        for (samples, both), part, name in product(cell.get("estimates", {}).items(), parts, methods):
            if one := both[part].get(name):
                value, (gap, error), trusted = one["mean"][0], one["less"], "{} of {}".format(*one["trusted"])
                where = (f"{cell['num_train']:,}", cell["algorithm"], f"{int(samples):,}", part, name)
                lines.append((*where, f"{value:.2f}", f"{gap:+.3f} ± {error:.3f}", trusted))
    head = ("N_train", "algorithm", "samples seen", "data", "estimator", "log p(x)", "less AIS", "vouched for")
    return f"**Estimators side by side.**\n\n{table(head, lines)}"
