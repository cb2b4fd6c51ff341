"""The figures of a comparison of estimators that ``ppvae compare-elbos`` wrote into a run folder, for its report."""

from __future__ import annotations

import json

from . import estimators
from .picture import Picture, chart
from ..findings import ReportData
from ...core import PpvaeError
from ...inference.comparison.result import Comparison

COMPARISON_NAMES = ("compared_bounds", "compared_noise", "compared_cost")


def comparison_pictures(report: ReportData) -> dict[str, Picture]:
    """The figures, drawn from ``comparison/comparison.json``; none where there is no such file."""
    path = report.run.folder.path / "comparison" / "comparison.json"
    if not path.is_file():
        return {}
    try:
        comparison = Comparison.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, PpvaeError):
        return {}
    rows = [row for row in comparison.estimators if row.checkpoint == comparison.checkpoints[-1]]
    bounds = "; ".join(f"{estimators.short(row.estimator)} {row.bound:.2f}" for row in rows)
    steps = "; ".join(f"{estimators.short(row.estimator)} {1e3 * row.seconds:.1f} ms" for row in rows)
    source = "From ppvae compare-elbos."
    pictures = [
        chart(
            COMPARISON_NAMES[0],
            "The bounds",
            f"Interval chart of the bound by every estimator, nats per datum: {bounds}.",
            f"Mean over {comparison.num_repeats} repeats with two standard errors; the line is the reference for "
            f"log p(x). {source}",
            estimators.bounds,
            comparison,
        )
    ]
    if comparison.blocks:
        pictures += [
            chart(
                COMPARISON_NAMES[1],
                "Signal-to-noise of the gradient",
                f"Interval charts of the signal-to-noise ratio of the gradient under {len(rows)} estimators.",
                f"Higher learns from fewer steps. {source}",
                estimators.gradient_noise,
                comparison,
            ),
            chart(
                COMPARISON_NAMES[2],
                "Noise against time",
                f"Scatter plot of the gradient's variance against the time of a step: {steps}.",
                f"Lower and further left is better. {source}",
                estimators.cost,
                comparison,
            ),
        ]
    return {picture.name: picture for picture in pictures}
