"""The data of a report: all that its figures and tables need of the trained pair, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .classes import ClassFindings, class_findings
from .counts import CountFindings, count_findings
from .decoded import ROWS, average, first_of_each, interpolations, nearest, plane, traversals
from .described import covariates_of
from .filled import FilledFindings, filled_findings
from .layers import Held, held_layers
from .sequences import SequenceFindings, sequence_findings
from .sites import Attempts, LatentFindings, ObservedFindings, cut, latent_findings, observed_findings, within
from ..core import ModelGuidePair, Structure, structure
from ..data import Dataset, random_rows, tells_labels
from ..inference import (
    DiscretePosterior,
    PosteriorDraws,
    PredictiveMoments,
    Topics,
    discrete_posterior,
    predictive_moments,
    sample_posterior,
    signal_to_noise,
    site_report,
    topics,
)
from ..inference.criticism.site_report import SiteReport
from ..inference.execution.placement import dtype_of, like_pair
from ..inference.prediction import decode
from ..runs import Run
from ..runs.evaluation.evaluation import Evaluation, digest_of_parameters, read_evaluations

ACTIVE = 0.01
"""A latent dimension is active if the variance over data of its posterior mean is above this (Burda et al. 2015)."""
GRID = 16
FINE = 33
NUM_ROWS = 2000
NUM_NEIGHBOURS = 10_000
"""Training data among which neighbours of samples are looked for."""
_PARTICLES = 10
"""Draws per datum for the contribution of each site."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """The data of a report.

    Attributes:
        run: the run.
        part: the part of the data in the figures: "test" where there is one.
        data: some of its rows, drawn at random.
        x: the same, as the model sees them, [N, *event]: their main member.
        datum: which rows of the part they are, int64 [N]; None for the first ones.
        observed: what there is to say of each observed site, the main one first.
        latent: the same of each latent site that has a mean.
        sites: the contribution of each site to the bound; None where it is not known.
        manifold: decoded means at the quantiles of the prior, [GRID, GRID, *event], first axis downwards; None unless
            there are two latent dimensions.
        fine: the same on an even grid over ``fine_range``, [FINE, FINE, *event].
        fine_range: lowest and highest value of each latent dimension on that grid.
        traversals: decoded means where one dimension at a time runs through the prior, [rows, steps, *event].
        traversed: the dimension of each row.
        interpolations: decoded means between two data, [rows, steps, *event].
        interpolated: which two data of the part, [rows, 2].
        by_class: decoded means of data beside the covariates of each class, [rows, classes, *event]; None unless the
            labels of the data are covariates.
        recast: which data of the part, [rows].
        neighbours: rows of training data, each the nearest to one of the main site's samples.
        evaluation: the evaluation of these parameters on most of the data shown; None where there is none.
        more_evaluations: those of these parameters on other data.
        stale_evaluations: those of other parameters, such as an earlier epoch's.
        chains: HMC draws from p(z | x) of a few data; None without ``chains_for``.
        signal_to_noise: |mean| / sd of every weight that has a posterior, by site; empty where none has.
        moments: mean and variance of new data under that posterior, for the first data; None where none has.
        topics: the words that each latent dimension makes likelier; None where data are no counts of named words.
        discrete: the probabilities of the discrete latents that are summed out or marked; None where there are none.
        classes: new data of each class; None where the model has no class.
        layers: what the upper layers of latents decide; empty where there are no layers.
        sequences: a few sequences and new ones; None where data are none.
        counts: counts against the model's; None of other data.
        filled: gaps and what the model says of them; None where it declares none.
        notes: the quantities that could not be computed, and why.
        seed: of all draws.
        device: where it was computed.
        chains_for: the number of data that chains were run for.
    """

    run: Run
    part: str
    data: Dataset
    x: Tensor
    datum: Tensor | None = None
    observed: Mapping[str, ObservedFindings] = field(default_factory=dict)
    latent: Mapping[str, LatentFindings] = field(default_factory=dict)
    sites: SiteReport | None = None
    manifold: Tensor | None = None
    fine: Tensor | None = None
    fine_range: tuple[tuple[float, float], tuple[float, float]] | None = None
    traversals: Tensor | None = None
    traversed: Sequence[int] = ()
    interpolations: Tensor | None = None
    interpolated: Tensor | None = None
    by_class: Tensor | None = None
    recast: Tensor | None = None
    neighbours: Tensor | None = None
    evaluation: Evaluation | None = None
    more_evaluations: tuple[Evaluation, ...] = ()
    stale_evaluations: tuple[Evaluation, ...] = ()
    chains: PosteriorDraws | None = None
    signal_to_noise: Mapping[str, Tensor] = field(default_factory=dict)
    moments: PredictiveMoments | None = None
    topics: Topics | None = None
    discrete: DiscretePosterior | None = None
    classes: ClassFindings | None = None
    layers: Sequence[Held] = ()
    sequences: SequenceFindings | None = None
    counts: CountFindings | None = None
    filled: FilledFindings | None = None
    notes: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    chains_for: int = 0

    @property
    def kind(self) -> str:
        """The kind of the data shown: "held-out" or "training"."""
        return kind_of(self.part)

    @property
    def main(self) -> ObservedFindings | None:
        """The observed site of the figures of which there is one."""
        return next(iter(self.observed.values()), None)

    @property
    def labels(self) -> Tensor | None:
        """Labels of the data shown."""
        return self.data.labels

    @property
    def labels_are_data(self) -> bool:
        """Whether the model learnt from labels, all or some of them."""
        data = self.run.data
        others = {name: member for name, member in data.members.items() if name != data.main}
        return data.labels is not None and tells_labels(others, data.labels)

    def beside(self, whose: str) -> str:
        """A sentence on whose covariates a picture has; empty where the model has none."""
        names = covariates_of(self.run.pair)
        return f" Given beside z: {', '.join(names)} of {whose}." if names else ""


def structure_of(pair: ModelGuidePair, data: Dataset) -> Structure:
    """The sites of a pair on data of this kind."""
    return structure(pair, like_pair(data.batch(torch.arange(1)), dtype_of(pair)))


def kind_of(part: str) -> str:
    """The kind of the data of a part: "training" or "held-out"."""
    return "training" if part == "train" else "held-out"


def find(run: Run, *, seed: int = 0, device: str = "auto", chains_for: int = 0) -> ReportData:
    """Compute all that a report shows of a run; with HMC chains for ``chains_for`` data."""
    pair, part, attempt = run.pair, run.held_out, Attempts([])
    data = run.part(part)
    datum = random_rows(len(data), NUM_ROWS)
    data = data.take(datum).binarize(seed)
    options: dict[str, Any] = {"seed": seed, "device": device}
    shape = structure_of(pair, data)
    results = attempt.results
    results["observed"] = observed_findings(pair, data, shape, attempt.notes, options)
    main = next(iter(results["observed"].values()), None)
    if main is not None and main.present is None:  # data with gaps have no distance
        attempt("neighbours", lambda: _neighbours(main.samples, run))
    if chains_for > 0:
        few = data.take(random_rows(len(data), chains_for))
        draws: dict[str, Any] = {"num_samples": 250, "num_warmup": 200, "global_sites": "mean", "progress": False}
        attempt("chains", lambda: sample_posterior(pair, few, **draws, **options))
    if shape.global_latents:
        attempt("signal_to_noise", lambda: signal_to_noise(pair, data))
        attempt("moments", lambda: predictive_moments(pair, data.take(random_rows(len(data), 20)), **options))
    if shape.enumerated or shape.guide_enumerated:
        attempt("discrete", lambda: discrete_posterior(pair, data, **options))
    _find_kinds(attempt, pair, data, shape, main, options)
    attempt("sites", lambda: site_report(pair, data, num_particles=_PARTICLES, **options), (Exception,))
    train = None if part == "train" else run.part("train")
    train = None if train is None else train.take(random_rows(len(train), NUM_ROWS))
    latent = latent_findings(pair, data, train, shape, results.get("sites"), attempt.notes, options)
    results["latent"] = latent
    if len(shape.local_latents) == 1:
        for found in latent.values():
            _find_decoded(attempt, pair, found, data, device)
            if data.value_space == "count" and data.feature_names is not None and len(found.shape) == 1:
                attempt("topics", lambda: topics(pair, like=data, device=device))
    attempt.results |= evaluations_of(run, attempt.notes)
    x = data.main_of(data.tensor()) if main is None else main.x
    return ReportData(
        run, part, data, x, datum, **attempt.results, notes=tuple(attempt.notes), **options, chains_for=chains_for
    )


def _find_kinds(
    attempt: Attempts,
    pair: ModelGuidePair,
    data: Dataset,
    shape: Structure,
    main: ObservedFindings | None,
    options: Mapping[str, Any],
) -> None:
    """What there is to say of some kinds of models and data alone: classes, layers, sequences, counts, gaps."""
    discrete = attempt.results.get("discrete")
    again = None if main is None else main.reconstructed
    attempt("sequences", lambda: sequence_findings(pair, data, shape, again, discrete, options))
    if main is None or main.site not in (data.main, *data.members):
        return
    site, present = main.site, main.present
    attempt("classes", lambda: class_findings(pair, data, site, shape, discrete, options))
    attempt("layers", lambda: held_layers(pair, data, site, shape, options))
    if site == data.main:
        attempt("counts", lambda: count_findings(pair, data, site, attempt.notes, options))
    attempt("filled", lambda: filled_findings(pair, data, site, present, shape, options))


def evaluations_of(run: Run, problems: list[str]) -> dict[str, Any]:
    """The evaluation to show, those of the same parameters on other data, and those of other parameters.

    ``problems`` takes the message of each that cannot be read.
    """
    stored, digest = read_evaluations(run.folder, problems), digest_of_parameters(run)
    own = [one for one in stored if one.values["parameters_sha256"] == digest]
    best = max(own, key=lambda one: (one.data["part"] == run.held_out, one.data["num_data"]), default=None)
    return {
        "evaluation": best,
        "more_evaluations": tuple(one for one in own if one is not best),
        "stale_evaluations": tuple(one for one in stored if one not in own),
    }


def _find_decoded(attempt: Attempts, pair: ModelGuidePair, found: LatentFindings, data: Dataset, device: str) -> None:
    """The only latent's plane, decoded; or its dimensions one at a time, and lines between data."""
    results, latents, prior = attempt.results, found.latents, found.prior
    if latents is None or prior is None:
        return
    site = next(iter(results["observed"]), None)
    base = average(latents)

    def decoded(points: Tensor, row: Tensor) -> Tensor:
        """Means of p(x | z) at points [rows, columns, Z], beside the covariates of one datum each: likewise."""
        like = data.batch(row.expand(points.shape[:2]).flatten())
        z = points.reshape(-1, *found.shape)
        x = decode(pair, z, like=Dataset(like), site=site, device=device)
        x = x if site is None else cut(x, within(pair, like, site))
        return x.reshape(*points.shape[:2], *x.shape[1:])

    if latents.shape[1] == 2:
        limits = _range(prior, latents)
        attempt("manifold", lambda: decoded(plane(*_quantiles(prior)), base))
        attempt("fine", lambda: decoded(plane(*(torch.linspace(*ends, FINE) for ends in limits)), base))
        results["fine_range"] = limits
    elif latents.shape[1] > 2 and found.active is not None:
        points, results["traversed"] = traversals(latents, prior, found.active)
        attempt("traversals", lambda: decoded(points, base))
        lines, ends = interpolations(latents, data.labels)
        results["interpolated"] = ends
        attempt("interpolations", lambda: decoded(lines, ends[:, :1]))
    given = {name: data.members[name] for name in covariates_of(pair) if name in data.members}
    if data.labels is not None and tells_labels(given, data.labels):
        firsts = first_of_each(data.labels)
        results["recast"] = firsts[:ROWS]
        points = latents[firsts[:ROWS], None].expand(-1, len(firsts), -1)
        attempt("by_class", lambda: decoded(points, firsts[None]))


def _quantiles(prior: Tensor) -> tuple[Tensor, Tensor]:
    """Values of two dimensions at which the prior's draws fall into parts of one size."""
    levels = (torch.arange(GRID, dtype=prior.dtype) + 0.5) / GRID
    across, up = (torch.quantile(prior[:, axis], levels) for axis in (0, 1))
    return across, up


def _neighbours(samples: Tensor | None, run: Run) -> Tensor | None:
    """Which of some training data is the nearest to each sample."""
    train = run.part("train")
    rows = random_rows(len(train), NUM_NEIGHBOURS)
    main = train.main_of(train.take(rows).binarize(0).tensor())
    return None if samples is None or samples.shape[1:] != main.shape[1:] else rows[nearest(samples, main)[0]]


def _range(prior: Tensor, latents: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square around the prior and the embedded data."""
    low, high = torch.quantile(prior, 0.002, 0), torch.quantile(prior, 0.998, 0)
    low = torch.minimum(low, torch.quantile(latents, 0.005, 0))
    high = torch.maximum(high, torch.quantile(latents, 0.995, 0))
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
