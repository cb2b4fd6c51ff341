"""The paper's claim that superfluous latents do no harm, held to the curves of figure 2."""

from __future__ import annotations

from .cells import Found
from .training import points

FEW, MANY = 20, 200
ENCODERS = {"AEVB": "mnist-{}-AEVB", "AEVB, log σ": "scale-mnist-{}"}
"""The method's name on the page, and of its cells."""


def superfluous(found: Found) -> str:
    """The bound with many latents less that with few, at the largest number of samples that both have seen."""
    lines = []
    for method, cell in ENCODERS.items():
        few, many = ({row[0]: row for row in points(found.get(cell.format(dim), {}), "test")} for dim in (FEW, MANY))
        if both := set(few) & set(many):
            samples, bound, error = few[max(both)]
            less = f"{many[samples][1] - bound:+.2f} nats (each ± {error:.2f}, the same data)"
            lines.append(f"{method}: after {samples:,} samples the test bound with {MANY} is that with {FEW} {less}.")
    return "\n".join(["**Superfluous latents.**", *lines]) if lines else ""
