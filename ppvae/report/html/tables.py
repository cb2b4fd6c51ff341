"""Tables of the estimates, of the predictive checks, and of the aggregate posterior against the prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from .page import fill, number
from ..common_data import on_common_data
from ..figures.charts import dimensions_of
from ..figures.checks import TAIL, furthest, is_misfit
from ..figures.theme import elide
from ..findings import ACTIVE, ReportData
from ..sites import LatentFindings, ObservedFindings
from ...inference import PredictiveCheck
from ...runs.evaluation.evaluation import Evaluation
from ...runs.evaluation.simulation_check import sentence

COLUMNS = 12
"""Of a table of data, which a person can read."""
R_HAT = 1.1


def evaluation_table(evaluation: Evaluation | None) -> str:
    """The estimates, their messages, and the checks of the methods; empty where there is no evaluation."""
    if evaluation is None:
        return ""
    rows, count = on_common_data(evaluation)
    return fill(
        "evaluation.html",
        data=evaluation.data,
        count=count,
        own=evaluation.rows,
        parameters=evaluation.values["parameters"],
        held=any(row.get("info", {}).get("global_sites") == "mean" for row in rows),
        estimates=rows,
        whole=[row for row in evaluation.rows if row.get("over_all")],
        trouble=[
            f"{row['label']}: {count} data: {message}" for row in rows for message, count in row["messages"].items()
        ],
        simulations=[simulation_table(check) for check in evaluation.values["simulation_checks"]],
    )


def simulation_table(check: Mapping[str, Any]) -> str:
    """A check of the methods on simulated data."""
    return fill(
        "simulation.html",
        num_data=check["num_data"],
        rows=check["rows"],
        quantiles=[f"{level:.0%} quantile" for level in check["levels"][1:]],
        sentences=[sentence(row, check["num_data"]) for row in check["rows"]],
    )


def check_table(report: ReportData) -> str:
    """The predictive checks of each observed site, in words and as a table; empty where there are none."""
    checked = [found for found in report.observed.values() if found.checks is not None]
    return Markup("").join(_checks_of(found, report.kind, first=found is checked[0]) for found in checked)


def _checks_of(found: ObservedFindings, kind: str, *, first: bool) -> str:
    checks = found.checks
    assert checks is not None
    outside = [name for name, check in checks.items() if is_misfit(check)]
    summary = (
        f"{len(outside)} of {len(checks)} quantities of the data lie outside or among the outermost {TAIL:.0%} on a "
        f"side: {', '.join(outside)}."
        if outside
        else f"None of {len(checks)} quantities of the data lies outside or among the outermost {TAIL:.0%} on a side."
    )
    again = found.latent_checks
    discrepancies = [] if again is None else [check for name, check in again.items() if name not in checks]
    return fill(
        "checks.html",
        site=found.label,
        first=first,
        checks=checks,
        kind=kind,
        told=summary,
        discrepancies=discrepancies,
        rows=[_row(check, "") for check in checks.values()] + [_row(check, ", given z") for check in discrepancies],
    )


def aggregate_table(report: ReportData) -> str:
    """Moments of the aggregate posterior and of the prior, for each latent site; empty where there is none."""
    return Markup("").join(_aggregate_of(found) for found in report.latent.values())


def _aggregate_of(found: LatentFindings) -> str:
    posterior = found.aggregate
    if posterior is None:
        return ""

    def pair(value: Any, error: Any, i: int) -> str:
        return f"{number(float(value[i]), 2)} ± {number(float(error[i]), 2)}"

    names = dimensions_of(found.site, found.shape)
    rows = [
        (
            names[i],
            (
                pair(posterior.mean, posterior.mean_error, i),
                pair(posterior.prior_mean, posterior.prior_mean_error, i),
                pair(posterior.variance, posterior.variance_error, i),
                pair(posterior.prior_variance, posterior.prior_variance_error, i),
                f"{float(posterior.distance[i]):.3f} ± {float(posterior.distance_error[i]):.3f}",
                f"{float(posterior.p_value[i]):.2g}",
            ),
        )
        for i in furthest(posterior)
    ]
    return fill("aggregate.html", site=found.label, rows=rows)


def site_table(report: ReportData) -> str:
    """What each site contributes to the bound; empty where that is not known."""
    if report.sites is None:
        return ""
    rows = []
    for row in report.sites.sites:
        kl = "–"
        if row.route != "observed":
            kl = number(row.kl, 2) + (f" ± {number(row.kl_error, 2)}" if row.kl_error else "")
        log_p = number(row.log_p, 2) if row.route == "observed" else "–"
        found = report.latent.get(row.name)
        active = None if found is None else found.active
        units = "–" if active is None else f"{int((active > ACTIVE).sum())} of {len(active)}"
        rows.append(
            (elide(row.name, 40), ("observed" if row.route == "observed" else f"{row.scope} latent", log_p, kl, units))
        )
    return fill("sites.html", rows=rows, kind=report.kind, active=ACTIVE)


def topics_table(report: ReportData) -> str:
    """The words of each latent dimension that the data use, the most active first; empty where there are none."""
    found = next(iter(report.latent.values()), None)
    if report.topics is None or found is None or found.active is None:
        return ""
    used = [i for i in found.active.argsort(descending=True).tolist() if found.active[i] > ACTIVE]
    names = dimensions_of(found.site, found.shape)
    rows = [(names[i], (" ".join(report.topics.words[i]),)) for i in used]
    return fill("topics.html", rows=rows, count=len(found.active)) if rows else ""


def layers_table(report: ReportData) -> str:
    """KL of each layer of latents, and how much of the data it decides; empty where there are no layers."""
    if not report.layers or report.sites is None:
        return ""
    last = report.layers[-1]
    decided = [f"{held.share:.1%} ± {held.share_error:.1%}" for held in report.layers] + ["100 %"]
    rows = []
    for name, share in zip((*last.sites, *last.redrawn), decided, strict=True):
        row = report.sites.site(name)
        kl = number(row.kl, 2) + (f" ± {number(row.kl_error, 2)}" if row.kl_error else "")
        rows.append((name, (kl, share.replace("%", " %").replace("  ", " "))))
    return fill("layers.html", rows=rows, kind=report.kind)


def filled_table(report: ReportData) -> str:
    """Rows of data with gaps, filled; empty where there are none, or too many columns to be read."""
    found = report.filled
    if found is None or found.restoration is None or found.x.dim() != 2 or found.x.shape[1] > COLUMNS:
        return ""
    again, names = found.restoration, report.data.feature_names
    rows = []
    for place, datum in enumerate(found.rows.tolist()):
        cells = []
        for column, there in enumerate(found.present[place].tolist()):
            spread = number(float(again.standard_deviation[place, column]), 2)
            value = found.x[place, column] if there else again.mean[place, column]
            cells.append((number(float(value), 2) + ("" if there else f" ± {spread}"), not there))
        rows.append((str(datum + 1), cells))
    worst = float(again.r_hat.max())
    told = f"Its chains have not mixed: worst R-hat {worst:.2f}." if worst > R_HAT else ""
    names = tuple(f"entry {i + 1}" for i in range(found.x.shape[1])) if names is None else names
    return fill("filled.html", rows=rows, names=names, kind=report.kind, told=told)


def time_table(report: ReportData) -> str:
    """Where the time went: seconds, work and work per second of training and of every estimate."""
    run, info = report.run, report.run.info
    phases: list[tuple[str, float, str, str]] = []
    seen = sum(1 for _ in run.history) * len(run.data)
    if info.get("seconds") and seen:
        work = f"{len(run.history)} epochs of {len(run.data)} data"
        phases.append(("training", float(info["seconds"]), work, _rate(seen / info["seconds"])))
    for one in (report.evaluation, *report.more_evaluations):
        for row in one.rows if one is not None else ():
            seconds, count = float(row["seconds"]), int(row["num_data"])
            phases.append((str(row["label"]), seconds, f"{count} data", _rate(count / max(seconds, 1e-9))))
    longest = max((seconds for _, seconds, _, _ in phases), default=1.0)
    rows = [(name, seconds, 100 * seconds / longest, work, rate) for name, seconds, work, rate in phases]
    return fill("times.html", rows=rows) if rows else ""


def _rate(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ") if value >= 10 else f"{value:.2g}"


def _row(check: PredictiveCheck, suffix: str) -> tuple[str, str, str, str, bool, str]:
    """Its name, the data's value, the model's, p, whether that is a misfit, and z."""
    mean, deviation = float(check.replicated.mean()), float(check.replicated.std())
    # As many digits as the deviation has, and one more.
    digits = min(max(1 - math.floor(math.log10(deviation)), 0), 8) if 0 < deviation < math.inf else 3
    z, error = check.z_score, check.z_score_error
    z_text = "–" if math.isnan(z) else ("−∞" if z < 0 else "∞") if math.isinf(z) else number(z, 1)
    return (
        check.name + suffix,
        number(check.observed, digits),
        f"{number(mean, digits)} ± {number(deviation, digits)}",
        f"{check.p_value:.3f} ± {check.p_value_error:.3f}",
        is_misfit(check),
        z_text + (f" ± {number(error, 1)}" if math.isfinite(error) else ""),
    )
