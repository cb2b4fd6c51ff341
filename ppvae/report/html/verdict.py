"""The first lines of a report: what the run came to in one sentence, and what to be wary of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from .page import number
from ..common_data import on_common_data
from ..figures.charts import label_of
from ..figures.checks import is_misfit
from ..findings import ACTIVE, ReportData, kind_of
from ...inference import PredictiveCheck
from ...runs.evaluation.evaluation import Evaluation

_DROP = 0.1  # nats per datum: a validation bound that fell by less has not fallen
_SIGMAS = 3.0


def verdict(report: ReportData) -> str:
    """One sentence: the best estimate over the data on which the methods can be trusted, with its side and its error.

    Of several the exact one, then the highest lower bound. The ELBO, which is trusted everywhere, only where nothing
    else is.
    """
    rows, count = on_common_data(report.evaluation)
    rows = [row for row in rows if row["vouched"]]
    rows = [row for row in rows if row["method"] != "elbo"] or rows
    if report.evaluation is None or not rows:
        return "Its log evidence is not known: no estimate of these parameters can be trusted."
    best = max(rows, key=lambda row: (row["side"] == "exact", row["side"] == "lower", row["mean"]))
    error = f" ± {best['monte_carlo_error']:.3f}" if best["monte_carlo_error"] else ""
    side = {"lower": "at least ", "upper": "at most "}.get(best["side"], "")
    data = f"{over(report.evaluation, count)} data"
    return (
        f"Log evidence of {data}: {side}{number(best['mean'], 2)}{error} nats per datum, by {label_of(best['label'])}."
    )


def over(evaluation: Evaluation, count: int) -> str:
    """So many data of the evaluation, in words: "85 of 100 held-out"."""
    whole = int(evaluation.data["num_data"])
    return f"{'' if count == whole else f'{count} of '}{whole} {kind_of(evaluation.data['part'])}"


def warnings(report: ReportData) -> list[str]:
    """What a reader should know before the numbers; each a sentence."""
    return [*_of_evaluations(report), *_of_training(report), *_of_latents(report), *_of_checks(report)]


def _of_evaluations(report: ReportData) -> Iterator[str]:
    if report.evaluation is None and report.stale_evaluations:
        yield "The estimates in the run folder are of other parameters than those shown here."
    if report.evaluation is None:
        return
    if report.evaluation.data["part"] == "train":
        yield "The estimates are of training data, which the model has learnt."
    counts = [
        f"{label_of(row['label'])} on {row['num_trusted'] or 'none'} of {row['num_data']}"
        for row in report.evaluation.rows
        if row["num_trusted"] < row["num_data"]
    ]
    if counts:
        yield f"Not every estimate can be trusted: {', '.join(counts)} data."
    rows = [row for row in on_common_data(report.evaluation)[0] if row["vouched"]]
    for low, high in ((low, high) for low in rows for high in rows):
        if _is_below(low["side"]) and _is_above(high["side"]) and low["side"] != high["side"]:
            gap = high["mean"] - low["mean"]
            error = math.hypot(low["monte_carlo_error"] or 0.0, high["monte_carlo_error"] or 0.0)
            if gap < -_SIGMAS * error - 1e-6:
                one, other = (f"{label_of(row['label'])} ({row['side']})" for row in (low, high))
                yield (
                    f"{one} lies {-gap:.3f} ± {error:.3f} nats above {other}, where it should lie below: one of them "
                    "is wrong."
                )


def _is_below(side: str) -> bool:
    return side in ("lower", "exact")


def _is_above(side: str) -> bool:
    return side in ("upper", "exact")


def _of_training(report: ReportData) -> Iterator[str]:
    history: list[dict[str, Any]] = list(report.run.history)
    values = [row["elbo_validation"] for row in history if "elbo_validation" in row]
    if len(values) == len(history) > 1 and f"epoch {len(history)}," in report.run.parameters:
        best = max(values)
        if values[-1] < best - _DROP:
            yield (
                f"It has overfitted: the validation bound fell by {best - values[-1]:.2f} nats since epoch "
                f"{1 + values.index(best)}."
            )
    if report.run.info.get("outcome") in ("running", "interrupted", "failed"):
        yield f"Training has not come to its end: {report.run.info.get('message') or 'it is running, or was killed'}."


def _of_latents(report: ReportData) -> Iterator[str]:
    for found in report.latent.values():
        if found.active is not None and len(found.active) > 1:
            idle, of = int((found.active <= ACTIVE).sum()), f" of {found.label}" if found.label else ""
            if idle:
                yield f"{idle} of {len(found.active)} latent dimensions{of} carry nothing of the data."


def _of_checks(report: ReportData) -> Iterator[str]:
    for found in report.observed.values():
        checks: Mapping[str, PredictiveCheck] = found.checks or {}
        far = [name for name, check in checks.items() if is_misfit(check)]
        if far:
            of = f" of {found.label}" if found.label else ""
            yield (
                f"Data that the model makes are unlike the data in {len(far)} of {len(checks)} quantities{of}: "
                f"{', '.join(far)}."
            )
