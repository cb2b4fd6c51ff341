"""The figures of a report, each with its title, its caption and its text alternative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import charts
from .chains import chains as charts_of_chains
from .images import as_images
from .picture import Picture, chart, of_site, tiles
from .weights import weight_noise
from ..common_data import columns_of, on_common_data
from ..described import evidence_of
from ..findings import ACTIVE, GRID, ReportData, kind_of
from ..sites import LatentFindings, ObservedFindings
from ...runs.evaluation.evaluation import Evaluation


def pictures_of(report: ReportData) -> dict[str, Picture]:
    """All figures that this run has, by name."""
    pictures = [make(report) for make in _ALL]
    pictures += [make(report, found) for make in _OBSERVED for found in report.observed.values()]
    pictures += [make(report, found) for make in _LATENT for found in report.latent.values()]
    return {picture.name: picture for picture in pictures if picture is not None}


def _learning_curve(report: ReportData) -> Picture | None:
    history = report.run.history
    if not history:
        return None
    last, best = history[-1], report.run.info.get("best_epoch")
    alt = f"Line chart of the bound over {len(history)} epochs: training ends at {last['elbo_train']:.2f}"
    if "elbo_validation" in last:
        alt += f", validation at {last['elbo_validation']:.2f}"
        alt += f", its best {history[best - 1]['elbo_validation']:.2f} at epoch {best}" if best else ""
    return chart(
        "learning_curve",
        "Learning curve",
        alt + " nats per datum.",
        f"The bound on {evidence_of(report.run.pair)}, up is better. Where the two curves part, the model learns its "
        "training data by heart." + (" The first epochs lie below the picture." if len(history) > 20 else ""),
        charts.learning_curve,
        history,
        best,
    )


def _bound_parts(report: ReportData) -> Picture | None:
    history = report.run.history
    if not history or "kl_train" not in history[-1]:
        return None
    last = history[-1]
    return chart(
        "bound_parts",
        "The two parts of the bound",
        f"Two line charts: reconstruction ends at {last['reconstruction_train']:.2f}, KL at {last['kl_train']:.2f} "
        "nats per datum in training.",
        "The bound is the left minus the right: how well data are reconstructed, minus what their latents cost.",
        charts.bound_parts,
        history,
    )


def _reconstructions(report: ReportData, found: ObservedFindings) -> Picture | None:
    if found.reconstructed is None:
        return None
    name = of_site("reconstructions", "Reconstructions", found.label)
    how = "averaged over draws of the guide" if found.averaged else "at the guide's mean"
    before, after = _images(found.x, report, found), _images(found.reconstructed, report, found)
    if before is None or after is None:
        there = slice(None) if found.present is None else found.present
        gaps = "" if found.present is None else " that is there"
        return chart(
            *name,
            "Scatter plot of reconstructed against original values, beside the diagonal.",
            f"Every value{gaps} of {report.kind} data against the mean of p({found.site} | z) {how}; the line is "
            "equality.",
            charts.values_scatter,
            found.x[there],
            found.reconstructed[there],
        )
    gaps = "" if found.present is None else " What is not there is blank."
    rows = _example_rows(report.labels, len(before))
    blocks = [torch.cat((before[part], after[part])) for part in rows.split(10) if len(part) == 10] or [
        torch.cat((before[rows], after[rows]))
    ]
    columns = 10 if len(rows) >= 10 else len(rows)
    return tiles(
        *name,
        f"Grid of {len(rows)} {report.kind} data, each above its reconstruction.",
        f"{report.kind.capitalize()} data ({report.part}); below each, the mean of p({found.site} | z) {how}.{gaps}",
        torch.cat(blocks),
        columns,
        rows_in_pairs=True,
        size=36,
    )


def _samples(report: ReportData, found: ObservedFindings) -> Picture | None:
    images = None if found.samples is None else _images(found.samples, report, found)
    if images is None:
        return None
    return tiles(
        *of_site("samples", "Samples from the prior", found.label),
        f"Grid of {len(images)} data drawn from the model.",
        f"New data: z from the prior, then {'a draw from' if found.drawn else 'the mean of'} p({found.site} | z)."
        + (" Each has the length of a datum." if found.lengths else "")
        + report.beside("held-out data" if report.kind == "held-out" else "training data"),
        images,
        12,
        size=36,
    )


def _images(x: Tensor, report: ReportData, found: ObservedFindings) -> Tensor | None:
    """The values of a site as pictures; those of another member than the data's main one are none."""
    return as_images(x, report.data) if found is report.main else None


def _manifold(report: ReportData) -> Picture | None:
    if report.manifold is None:
        return None
    images = as_images(report.manifold.flatten(0, 1), report.data)
    if images is None:
        return None
    return tiles(
        "manifold",
        "The learnt manifold",
        f"Grid of {GRID} by {GRID} decoded images that change smoothly from corner to corner.",
        "The mean of p(x | z) where z runs over the quantiles of the prior in both dimensions "
        f"(Kingma & Welling 2013, figure 4).{report.beside('an average datum')}",
        images,
        GRID,
        size=32,
    )


def _latents(report: ReportData, found: LatentFindings) -> Picture | None:
    if found.latents is None:
        return None
    background = None
    if found.train_latents is not None:
        labels = report.run.data.labels
        background = (found.train_latents, None if labels is None else labels[: len(found.train_latents)])
    small = "" if background is None else " (large points) and training data (small)"
    plane = charts.in_plane(found.latents)[2]
    by_label = "" if report.labels is None else ", coloured by label"
    return chart(
        *of_site("latents", "Where the data lie", found.label),
        f"Scatter plot of the posterior means of {len(found.latents)} {report.kind} data{by_label}.",
        f"The mean of q({found.site} | x) of {report.kind} data{small}{by_label}."
        + ("" if report.labels is None or report.labels_are_data else " Labels were never shown to the model.")
        + (f" This is {plane}." if plane else ""),
        charts.scatter,
        found.latents,
        report.labels,
        background,
        charts.dimensions_of(found.site, found.shape),
    )


def _kl(report: ReportData, found: LatentFindings) -> Picture | None:
    if found.kl is None:
        return None
    kl, active, z = found.kl, found.active, found.site
    between = f"KL of {z}, posterior from prior," if found.label else f"KL(q({z} | x) ‖ p({z}))"
    count = 0 if active is None else int((active > ACTIVE).sum())
    remark = ", the 40 largest" if len(kl) > 40 else ""
    return chart(
        *of_site("kl_per_dimension", "What each latent dimension carries", found.label),
        f"Bar chart of the KL of {len(kl)} latent dimensions, from {float(kl.max()):.2f} down to "
        f"{float(kl.min()):.2f} nats" + ("." if active is None else f"; {count} are active."),
        f"{between} per dimension, mean over {report.kind} data{remark}."
        + (
            ""
            if active is None
            else f" {count} of {len(kl)} dimensions are active: the variance of their posterior mean over data is "
            f"above {ACTIVE} (Burda et al. 2015)."
        ),
        charts.kl_per_dimension,
        kl,
        active,
        charts.dimensions_of(z, found.shape),
    )


def _estimates(report: ReportData) -> Picture | None:
    rows, count = on_common_data(report.evaluation)
    rows = [row for row in rows if row["mean"] is not None]
    if report.evaluation is None or not rows:
        return None
    means = "; ".join(f"{row['label']} {row['mean']:.2f}" for row in rows)
    whole = int(report.evaluation.data["num_data"])
    over = "" if count == whole else f" All are over the same {count} of {whole} data."
    hollow = "" if all(row["vouched"] for row in rows) else " Hollow: cannot be trusted on all of these data."
    return chart(
        "estimates",
        f"Estimates of {evidence_of(report.run.pair)}",
        f"Interval chart, nats per datum: {means}.",
        "Each estimate with two standard errors of its noise. An arrow points to where the truth is expected: above a "
        f"lower bound, below an upper one.{over}{hollow}",
        charts.estimates,
        rows,
    )


def _sandwich(report: ReportData) -> Picture | None:
    # An estimate that can be trusted on no datum has no values, and two may have none in common.
    columns = columns_of(report.evaluation)
    columns = {key: values for key, values in columns.items() if bool(torch.isfinite(values).any())}
    rows = [] if report.evaluation is None else [r for r in report.evaluation.rows if r["key"] in columns]
    if len(rows) < 3:
        return None
    # Against the exact values where they are known, else an estimate on neither side, else the last lower bound.
    ranks = {"exact": 0, "consistent": 1, "lower": 2, "upper": 3}
    reference = min(reversed(rows), key=lambda row: ranks[row["side"]])
    gaps = [
        charts.Gap(charts.label_of(row["label"]), row["side"], *_gap(report.evaluation, columns, row, reference))
        for row in rows
        if row["key"] != reference["key"]
    ]
    gaps = [gap for gap in gaps if bool(torch.isfinite(gap.values).any())]
    if not gaps or report.evaluation is None:
        return None
    name = charts.label_of(reference["label"])
    kind = kind_of(report.evaluation.data["part"])
    medians = "; ".join(f"{gap.name} {float(gap.values[torch.isfinite(gap.values)].median()):+.2f}" for gap in gaps)
    return chart(
        "sandwich",
        "Datum by datum",
        f"Dot charts of every estimate minus {name} for each datum; medians, nats: {medians}.",
        f"Every estimate minus {name}, for each {kind} datum, with two standard errors of the difference; data in the "
        f"order of {gaps[0].name}. Lower bounds belong below zero and upper bounds above, up to noise; hollow marks "
        "lie outside the picture, and data on which an estimate cannot be trusted are left out.",
        charts.sandwich,
        gaps,
        name,
    )


def _gap(
    evaluation: Evaluation | None, columns: Mapping[str, Tensor], row: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """An estimate minus another, datum by datum, and the standard error of the difference: each [N]."""
    values = columns[row["key"]] - columns[other["key"]]
    unknown = torch.full_like(values, torch.nan)
    parts = [
        unknown if evaluation is None else evaluation.columns.get(f"{one['key']}/standard_error", unknown).double()
        for one in (row, other)
    ]
    return values, torch.hypot(*parts)


def _per_datum(report: ReportData) -> Picture | None:
    best = _best_estimate(report)
    if best is None:
        return None
    label, values, rows = best
    name = charts.label_of(label)
    known = torch.isfinite(values)
    labels = None if report.labels is None else report.labels[rows][known]
    by_label = "" if labels is None else ", by label; the line is the mean"
    without = "" if bool(known.all()) else f" Without {int((~known).sum())} on which it cannot be trusted."
    values = values[known]
    return chart(
        "per_datum",
        "Which data the model finds likely",
        f"{name} of {len(values)} {report.kind} data, from {float(values.min()):.1f} to "
        f"{float(values.max()):.1f} nats.",
        f"{name} of every {report.kind} datum{by_label}.{without}",
        charts.per_datum,
        values,
        labels,
        label,
    )


def _extremes(report: ReportData) -> Picture | None:
    best, images = _best_estimate(report), as_images(report.x, report.data)
    if best is None or images is None or int(torch.isfinite(best[1]).sum()) < 40:
        return None
    label, values, rows = best
    name, images = charts.label_of(label), images[rows]
    order = values.nan_to_num(nan=math.inf).argsort()[: int(torch.isfinite(values).sum())]
    selection = torch.cat((images[order[-20:].flip(0)], images[order[:20]]))
    return tiles(
        "extremes",
        "The likeliest and the least likely",
        f"Two rows of the twenty likeliest {report.kind} data, then two rows of the twenty least likely.",
        f"{report.kind.capitalize()} data with the highest {name} (two upper rows) and the lowest (two lower rows).",
        selection,
        10,
        rows_in_pairs=True,
        size=36,
    )


def _best_estimate(report: ReportData) -> tuple[str, Tensor, Tensor] | None:
    """The exact log evidence of every datum where it is known, else the largest of the lower bounds that are vouched
    for: its label, its values of the data that the report shows, NaN where they cannot be trusted, and their rows."""
    if report.evaluation is None or report.evaluation.data["part"] != report.part:
        return None
    columns, (rows, _) = columns_of(report.evaluation), on_common_data(report.evaluation)
    rows = [row for row in rows if row["vouched"] and row["side"] in ("exact", "lower") and row["key"] in columns]
    best = max(rows, key=lambda row: (row["side"] == "exact", row["mean"]), default=None)
    if best is None:
        return None
    shown = torch.arange(len(report.x)) if report.datum is None else report.datum
    places = torch.isin(shown, report.evaluation.datum).nonzero().flatten()
    at = torch.searchsorted(report.evaluation.datum, shown[places])
    return str(best["label"]), columns[best["key"]][at].float(), places


def _example_rows(labels: Tensor | None, count: int) -> Tensor:
    """Rows to show: thirty, or three of every label where there are ten of them."""
    if labels is not None and labels.dim() == 1 and len(labels.unique()) == 10:
        kinds = labels.unique().tolist()
        examples = [(labels == kind).nonzero().flatten()[:3] for kind in kinds]
        if all(len(rows) == 3 for rows in examples):
            return torch.stack(examples, 1).flatten()
    return torch.arange(min(30, count))


def _chains(report: ReportData) -> Picture | None:
    draws = report.chains
    if draws is None:
        return None
    worst = max(float(value.max()) for value in draws.rhat().values())
    least = min(float(value.min()) for value in draws.ess().values())
    num_chains, num_draws, num_data = draws.unconstrained.shape[:3]
    diverging = int(draws.stats["diverging"].sum())
    return chart(
        "chains",
        "HMC chains for the posterior",
        f"Trace of {num_chains} chains and histograms of their ranks; worst R-hat {worst:.3f}.",
        f"{num_chains} chains of {num_draws} draws for each of {num_data} data: worst R-hat {worst:.3f}, smallest "
        f"effective sample size {least:.0f}, {diverging} divergences. Left, the first coordinate of the first "
        "datum; right, the ranks of each chain's draws among all. Chains that mixed overlap there and are flat here.",
        charts_of_chains,
        draws,
    )


def _weight_noise(report: ReportData) -> Picture | None:
    if not report.signal_to_noise:
        return None
    values = torch.cat([value.flatten() for value in report.signal_to_noise.values()])
    below = float((values < 1).double().mean())
    return chart(
        "weight_noise",
        "Signal-to-noise of the weights",
        f"Histograms of the signal-to-noise ratio of {len(values)} weights; {below:.0%} lie below one.",
        f"{below:.0%} of {len(values)} weights have a posterior mean smaller than their standard deviation: "
        "ppvae.inference.prune takes these first.",
        weight_noise,
        report.signal_to_noise,
    )


def _uncertainty(report: ReportData) -> Picture | None:
    if report.moments is None:
        return None
    deviation = report.moments.epistemic.clamp(min=0).sqrt()
    largest = float(deviation.max())
    mean = as_images(report.moments.mean, report.data)
    noise = as_images(deviation / max(largest, 1e-12), report.data)
    if mean is None or noise is None:
        return None
    blocks = [torch.cat((mean[i : i + 10], noise[i : i + 10])) for i in range(0, len(mean) - len(mean) % 10, 10)]
    return tiles(
        "uncertainty",
        "What the weights do not know",
        "Rows of predicted data, each above the part of its standard deviation that comes from the weights.",
        f"Predicted {report.kind} data, averaged over weights and latents; below each, the standard deviation that is "
        f"due to the weights alone (epistemic), at most {largest:.2f}.",
        torch.cat(blocks) if blocks else torch.cat((mean, noise)),
        10 if blocks else len(mean),
        rows_in_pairs=True,
        size=36,
    )


_ALL: tuple[Callable[[ReportData], Picture | None], ...] = (
    _estimates,
    _sandwich,
    _learning_curve,
    _bound_parts,
    _manifold,
    _per_datum,
    _extremes,
    _chains,
    _weight_noise,
    _uncertainty,
)
_OBSERVED = (_reconstructions, _samples)
_LATENT = (_latents, _kl)
