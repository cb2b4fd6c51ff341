"""The figures of a report: each drawn for both themes, with its title, its caption and its text alternative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import charts
from .chains import chains as charts_of_chains
from .images import as_images, grid
from .theme import DARK, LIGHT, Theme, draw
from .weights import weight_noise
from ..findings import ACTIVE, GRID, ReportData, columns_of, kind_of, on_common_data


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: of its file, without ``.png``.
        title: its heading.
        alt: what it shows, for who cannot see it.
        caption: how to read it.
        light: PNG for a light page.
        dark: PNG for a dark one.
        pixels: whether it is made of enlarged pixels.
    """

    name: str
    title: str
    alt: str
    caption: str
    light: bytes
    dark: bytes
    pixels: bool = False


def pictures_of(found: ReportData) -> dict[str, Picture]:
    """All figures that this run has, by name."""
    made = [make(found) for make in _ALL]
    return {picture.name: picture for picture in made if picture is not None}


def _chart(name: str, title: str, alt: str, caption: str, chart: Callable[..., Any], *args: Any) -> Picture:
    light, dark = (draw(chart, *args, theme=theme) for theme in (LIGHT, DARK))
    return Picture(name, title, alt, caption, light, dark)


def _tiles(name: str, title: str, alt: str, caption: str, images: Tensor, columns: int, **options: Any) -> Picture:
    def one(theme: Theme) -> bytes:
        return grid(images, columns, theme, **options)

    return Picture(name, title, alt, caption, one(LIGHT), one(DARK), pixels=True)


def _learning_curve(found: ReportData) -> Picture | None:
    history = found.run.history
    if not history:
        return None
    last, best = history[-1], found.run.info.get("best_epoch")
    alt = f"Line chart of the bound over {len(history)} epochs: training ends at {last['elbo_train']:.2f}"
    if "elbo_validation" in last:
        alt += f", validation at {last['elbo_validation']:.2f}"
        alt += f", its best {history[best - 1]['elbo_validation']:.2f} at epoch {best}" if best else ""
    return _chart(
        "learning_curve",
        "Learning curve",
        alt + " nats per datum.",
        "The bound on log p(x), up is better. Where the two curves part, the model learns its training data by heart."
        + (" The first epochs lie below the picture." if len(history) > 20 else ""),
        charts.learning_curve,
        history,
        best,
    )


def _bound_parts(found: ReportData) -> Picture | None:
    history = found.run.history
    if not history or "kl_train" not in history[-1]:
        return None
    last = history[-1]
    return _chart(
        "bound_parts",
        "The two parts of the bound",
        f"Two line charts: reconstruction ends at {last['reconstruction_train']:.2f}, KL at {last['kl_train']:.2f} "
        "nats per datum in training.",
        "The bound is the left minus the right: how well data are reconstructed, minus what their latents cost.",
        charts.bound_parts,
        history,
    )


def _reconstructions(found: ReportData) -> Picture | None:
    if found.reconstructed is None:
        return None
    before, after = as_images(found.x, found.data), as_images(found.reconstructed, found.data)
    if before is None or after is None:
        return _chart(
            "reconstructions",
            "Reconstructions",
            "Scatter plot of reconstructed against original values, beside the diagonal.",
            f"Every value of {found.kind} data against the mean of p(x | z) at the guide's mean; the line is equality.",
            charts.values_scatter,
            found.x,
            found.reconstructed,
        )
    rows = _spread(found.labels, len(before))
    blocks = [torch.cat((before[part], after[part])) for part in rows.split(10) if len(part) == 10] or [
        torch.cat((before[rows], after[rows]))
    ]
    columns = 10 if len(rows) >= 10 else len(rows)
    return _tiles(
        "reconstructions",
        "Reconstructions",
        f"Grid of {len(rows)} {found.kind} data, each above its reconstruction.",
        f"{found.kind.capitalize()} data ({found.part}); below each, the mean of p(x | z) at the guide's mean.",
        torch.cat(blocks),
        columns,
        rows_in_pairs=True,
        size=36,
    )


def _samples(found: ReportData) -> Picture | None:
    images = None if found.samples is None else as_images(found.samples, found.data)
    if images is None:
        return None
    return _tiles(
        "samples",
        "Samples from the prior",
        f"Grid of {len(images)} data drawn from the model.",
        "New data: z from the prior, then the mean of p(x | z).",
        images,
        12,
        size=36,
    )


def _manifold(found: ReportData) -> Picture | None:
    if found.manifold is None:
        return None
    images = as_images(found.manifold.flatten(0, 1), found.data)
    if images is None:
        return None
    return _tiles(
        "manifold",
        "The learnt manifold",
        f"Grid of {GRID} by {GRID} decoded images that change smoothly from corner to corner.",
        "The mean of p(x | z) where z runs over the quantiles of the prior in both dimensions "
        "(Kingma & Welling 2013, figure 4).",
        images,
        GRID,
        size=32,
    )


def _latents(found: ReportData) -> Picture | None:
    if found.latents is None:
        return None
    behind = None
    if found.train_latents is not None:
        labels = found.run.data.labels
        behind = (found.train_latents, None if labels is None else labels[: len(found.train_latents)])
    small = "" if behind is None else " (large points) and training data (small)"
    how = charts.in_plane(found.latents)[2]
    coloured = "" if found.labels is None else ", coloured by label"
    return _chart(
        "latents",
        "Where the data lie",
        f"Scatter plot of the posterior means of {len(found.latents)} {found.kind} data{coloured}.",
        f"The mean of q(z | x) of {found.kind} data{small}{coloured}. "
        "Labels were never shown to the model" + (f"; {how}." if how else "."),
        charts.scatter,
        found.latents,
        found.labels,
        behind,
    )


def _kl(found: ReportData) -> Picture | None:
    if found.kl is None:
        return None
    active = found.active
    count = len(found.kl) if active is None else int((active > ACTIVE).sum())
    shown = ", the 40 largest" if len(found.kl) > 40 else ""
    return _chart(
        "kl_per_dimension",
        "What each latent dimension carries",
        f"Bar chart of the KL of {len(found.kl)} latent dimensions, from {float(found.kl.max()):.2f} down to "
        f"{float(found.kl.min()):.2f} nats; {count} are active.",
        f"KL(q(z | x) ‖ p(z)) per dimension, mean over {found.kind} data{shown}. {count} of {len(found.kl)} dimensions "
        f"are active: the variance of their posterior mean over data is above {ACTIVE} (Burda et al. 2015).",
        charts.kl_per_dimension,
        found.kl,
        active,
    )


def _estimates(found: ReportData) -> Picture | None:
    rows, count = on_common_data(found)
    if found.evaluation is None or not rows:
        return None
    told = "; ".join(f"{row['label']} {row['mean']:.2f}" for row in rows)
    whole = int(found.evaluation["data"]["num_data"])
    over = "" if count == whole else f" Means are over the {count} of {whole} data on which all can be trusted."
    return _chart(
        "estimates",
        "Estimates of log p(x)",
        f"Interval chart, nats per datum: {told}.",
        "Each estimate with two standard errors of its noise. An arrow points to where the truth is expected: above a "
        f"lower bound, below an upper one.{over}",
        charts.estimates,
        rows,
    )


def _sandwich(found: ReportData) -> Picture | None:
    # An estimate that can be trusted on no datum has no values, and two may have none in common.
    columns = {key: values for key, values in columns_of(found).items() if bool(torch.isfinite(values).any())}
    rows = [] if found.evaluation is None else [r for r in found.evaluation["estimates"] if r["key"] in columns]
    if len(rows) < 3:
        return None
    # Against the truth where it is known, else an estimate on neither side, else the last lower bound.
    ranks = {"exact": 0, "consistent": 1, "lower": 2, "upper": 3}
    reference = min(reversed(rows), key=lambda row: ranks[row["side"]])
    gaps = {
        charts.label_of(row["label"]): (row["side"], columns[row["key"]] - columns[reference["key"]])
        for row in rows
        if row["key"] != reference["key"]
    }
    gaps = {key: (side, gap) for key, (side, gap) in gaps.items() if bool(torch.isfinite(gap).any())}
    if not gaps:
        return None
    name = charts.label_of(reference["label"])
    evaluated = "" if found.evaluation is None else kind_of(found.evaluation["data"]["part"])
    told = "; ".join(f"{key} {float(gap[torch.isfinite(gap)].median()):+.2f}" for key, (_, gap) in gaps.items())
    return _chart(
        "sandwich",
        "Datum by datum",
        f"Dot chart of every estimate minus {name} for each datum; medians, nats: {told}.",
        f"Every estimate minus {name}, for each {evaluated} datum, in the order of the ELBO's gap. Lower bounds belong "
        "below zero and upper bounds above, up to noise; hollow marks lie outside the picture, and data on which an "
        "estimate cannot be trusted are left out.",
        charts.sandwich,
        gaps,
        name,
    )


def _per_datum(found: ReportData) -> Picture | None:
    best = _best_estimate(found)
    if best is None:
        return None
    label, values = best
    shown = charts.label_of(label)
    labels = None if found.labels is None else found.labels[: len(values)]
    return _chart(
        "per_datum",
        "Which data the model finds likely",
        f"{shown} of {len(values)} {found.kind} data, from {float(values.min()):.1f} to "
        f"{float(values.max()):.1f} nats.",
        f"{shown} of every {found.kind} datum" + ("." if found.labels is None else ", by label; the line is the mean."),
        charts.per_datum,
        values,
        labels,
        label,
    )


def _extremes(found: ReportData) -> Picture | None:
    best, images = _best_estimate(found), as_images(found.x, found.data)
    if best is None or images is None or len(best[1]) < 40:
        return None
    label, values = best
    shown = charts.label_of(label)
    order = values.argsort()
    chosen = torch.cat((images[order[-20:].flip(0)], images[order[:20]]))
    return _tiles(
        "extremes",
        "The likeliest and the least likely",
        f"Two rows of the twenty likeliest {found.kind} data, then two rows of the twenty least likely.",
        f"{found.kind.capitalize()} data with the highest {shown} (two upper rows) and the lowest (two lower rows).",
        chosen,
        10,
        rows_in_pairs=True,
        size=36,
    )


def _best_estimate(found: ReportData) -> tuple[str, Tensor] | None:
    """The truth of every datum shown where it is known, else the largest of the lower bounds that all data have."""
    if found.evaluation is None or found.evaluation["data"]["part"] != found.part:
        return None
    columns = columns_of(found)
    rows = [
        row
        for row in found.evaluation["estimates"]
        if row["side"] in ("exact", "lower")
        and bool(torch.isfinite(columns.get(row["key"], torch.tensor(torch.nan))).all())
    ]
    best = max(rows, key=lambda row: (row["side"] == "exact", row["mean_of_all"]), default=None)
    return None if best is None else (str(best["label"]), columns[best["key"]][: len(found.x)].float())


def _spread(labels: Tensor | None, count: int) -> Tensor:
    """Rows to show: thirty, or three of every label where there are ten of them."""
    if labels is not None and labels.dim() == 1 and len(labels.unique()) == 10:
        kinds = labels.unique().tolist()
        chosen = [(labels == kind).nonzero().flatten()[:3] for kind in kinds]
        if all(len(rows) == 3 for rows in chosen):
            return torch.stack(chosen, 1).flatten()
    return torch.arange(min(30, count))


def _chains(found: ReportData) -> Picture | None:
    draws = found.chains
    if draws is None:
        return None
    worst = max(float(value.max()) for value in draws.rhat().values())
    least = min(float(value.min()) for value in draws.ess().values())
    num_chains, num_draws, num_data = draws.unconstrained.shape[:3]
    diverging = int(draws.stats["diverging"].sum())
    return _chart(
        "chains",
        "HMC chains for the posterior",
        f"Trace of {num_chains} chains and histograms of their ranks; worst R-hat {worst:.3f}.",
        f"{num_chains} chains of {num_draws} draws for each of {num_data} data: worst R-hat {worst:.3f}, smallest "
        f"effective sample size {least:.0f}, {diverging} divergences. Chains that mixed overlap on the left and are "
        "flat on the right.",
        charts_of_chains,
        draws,
    )


def _weight_noise(found: ReportData) -> Picture | None:
    if not found.signal_to_noise:
        return None
    values = torch.cat([value.flatten() for value in found.signal_to_noise.values()])
    below = float((values < 1).double().mean())
    return _chart(
        "weight_noise",
        "Signal-to-noise of the weights",
        f"Histograms of the signal-to-noise ratio of {len(values)} weights; {below:.0%} lie below one.",
        f"{below:.0%} of {len(values)} weights have a posterior mean smaller than their standard deviation: "
        "ppvae.inference.prune takes these first.",
        weight_noise,
        found.signal_to_noise,
    )


def _uncertainty(found: ReportData) -> Picture | None:
    if found.moments is None:
        return None
    spread = found.moments.epistemic.clamp(min=0).sqrt()
    largest = float(spread.max())
    mean, unknown = as_images(found.moments.mean, found.data), as_images(spread / max(largest, 1e-12), found.data)
    if mean is None or unknown is None:
        return None
    blocks = [torch.cat((mean[i : i + 10], unknown[i : i + 10])) for i in range(0, len(mean) - len(mean) % 10, 10)]
    return _tiles(
        "uncertainty",
        "What the weights do not know",
        "Rows of predicted data, each above the part of its standard deviation that comes from the weights.",
        f"Predicted {found.kind} data, averaged over weights and latents; below each, the standard deviation that is "
        f"due to the weights alone (epistemic), at most {largest:.2f}.",
        torch.cat(blocks) if blocks else torch.cat((mean, unknown)),
        10 if blocks else len(mean),
        rows_in_pairs=True,
        size=36,
    )


_ALL: tuple[Callable[[ReportData], Picture | None], ...] = (
    _estimates,
    _sandwich,
    _learning_curve,
    _bound_parts,
    _reconstructions,
    _samples,
    _manifold,
    _latents,
    _kl,
    _per_datum,
    _extremes,
    _chains,
    _weight_noise,
    _uncertainty,
)
