"""Tables of the predictive checks, and of the aggregate posterior against the prior."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from .page import number, table
from ..figures.checks import TAIL, furthest
from ..findings import Findings
from ...inference import PredictiveCheck


def check_table(found: Findings) -> str:
    """What was compared, in words and as a table; empty where nothing was."""
    if found.checks is None:
        return ""
    checks = found.checks
    part = found.kind
    outside = [name for name, check in checks.items() if not TAIL <= check.p_value <= 1 - TAIL]
    told = (
        f"{len(outside)} of {len(checks)} quantities of the data lie outside or among the outermost {TAIL:.0%} on a "
        f"side: {', '.join(outside)}."
        if outside
        else f"None of {len(checks)} quantities of the data lies outside or among the outermost {TAIL:.0%} on a side."
    )
    text = (
        f"<p>{checks.num_data} {part} data against {checks.num_replicates} data sets of the same size that the model "
        "made. <em>p</em> is the share of replicates with a higher value (uniform for the right model), <em>z</em> how "
        f"many of their standard deviations the data lie above their mean; ± is Monte Carlo noise. {escape(told)}</p>"
    )
    again = found.latent_checks
    discrepancies = [] if again is None else [check for name, check in again.items() if name not in checks]
    if discrepancies:
        text += (
            "<p>Quantities <em>given z</em> compare each datum with what the model makes from the datum's own latents, "
            "x ~ p(x | z) with z ~ q(z | x). Their p lies near one half unless the likelihood misfits.</p>"
        )
    text += "".join(f"<p>{escape(note[0].upper() + note[1:])}.</p>" for note in checks.notes)
    rows = [_row(check, "") for check in checks.values()] + [_row(check, ", given z") for check in discrepancies]
    columns = ("quantity", "data", "model", "p", "z")
    return text + table([(name, place > 0) for place, name in enumerate(columns)], rows)


def aggregate_table(found: Findings) -> str:
    """Moments of the aggregate posterior and of the prior; empty where there is none."""
    aggregated = found.aggregate
    if aggregated is None:
        return ""

    def pair(value: Any, error: Any, i: int) -> str:
        return f"{number(float(value[i]), 2)} ± {number(float(error[i]), 2)}"

    rows = [
        (
            f"z<sub>{i + 1}</sub>",
            pair(aggregated.mean, aggregated.mean_error, i),
            pair(aggregated.prior_mean, aggregated.prior_mean_error, i),
            pair(aggregated.variance, aggregated.variance_error, i),
            pair(aggregated.prior_variance, aggregated.prior_variance_error, i),
            f"{float(aggregated.distance[i]):.3f} ± {float(aggregated.distance_error[i]):.3f}",
            f"{float(aggregated.p_value[i]):.2g}",
        )
        for i in furthest(aggregated)
    ]
    columns = ("dimension", "mean", "prior", "variance", "prior", "distance", "p")
    return table([(name, place > 0) for place, name in enumerate(columns)], rows)


def _row(check: PredictiveCheck, given: str) -> tuple[str, ...]:
    p = f"{check.p_value:.3f} ± {check.p_value_error:.3f}"
    if not TAIL <= check.p_value <= 1 - TAIL:
        p = f'<span class="warn" title="a misfit: the model hardly ever makes this value">{p}</span>'
    mean, spread = float(check.replicated.mean()), float(check.replicated.std())
    # As many digits as the spread has, and one more.
    digits = min(max(1 - math.floor(math.log10(spread)), 0), 8) if 0 < spread < math.inf else 3
    z, error = check.z_score, check.z_score_error
    told = "–" if math.isnan(z) else ("−∞" if z < 0 else "∞") if math.isinf(z) else number(z, 1)
    return (
        escape(check.name + given),
        number(check.observed, digits),
        f"{number(mean, digits)} ± {number(spread, digits)}",
        p,
        told + (f" ± {number(error, 1)}" if math.isfinite(error) else ""),
    )
