"""The figures that ``ppvae compare-elbos`` wrote into a run folder, for its report."""

from __future__ import annotations

from .pictures import Picture
from ..findings import ReportData

COMPARISON_NAMES = ("compared_bounds", "compared_noise", "compared_cost")


def comparison_pictures(report: ReportData) -> dict[str, Picture]:
    """The figures that ``ppvae compare-elbos`` wrote into the run folder."""
    folder = report.run.folder.path / "comparison"
    result = {}
    for name, file, title, caption in (
        (COMPARISON_NAMES[0], "bounds.png", "The bounds", "Mean over repeats; the line is the reference for log p(x)."),
        (
            COMPARISON_NAMES[1],
            "gradient_noise.png",
            "Signal-to-noise of the gradient",
            "Higher learns from fewer steps.",
        ),
        (COMPARISON_NAMES[2], "cost.png", "Noise against time", "Lower and further left is better."),
    ):
        path = folder / file
        if path.is_file():
            content = path.read_bytes()
            alt = f"Estimators of the bound compared: {title.lower()}."
            result[name] = Picture(name, title, alt, caption + " From ppvae compare-elbos.", content, content)
    return result
