"""The data of a report: all that its figures and tables need of the trained pair, computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from .decoded import interpolations, nearest, reliability, traversals
from ..core import ModelGuidePair, PpvaeError, simulate, site_terms, structure
from ..core.modes import in_evaluation_mode
from ..data import Dataset, chunks
from ..inference import (
    AggregatePosterior,
    DiscretePosterior,
    PosteriorChecks,
    PosteriorDraws,
    PredictiveMoments,
    discrete_posterior,
    predictive_moments,
    sample_posterior,
    signal_to_noise,
)
from ..inference.criticism import aggregate_posterior, posterior_checks
from ..inference.execution.placement import dtype_of, like_pair
from ..inference.prediction import decode, embed, generate, reconstruct
from ..runs import Run
from ..runs.evaluation.evaluation import Evaluation, digest_of_parameters, read_evaluations

ACTIVE = 0.01
"""A latent dimension is active if the variance over data of its posterior mean is above this (Burda et al. 2015)."""
GRID = 16
FINE = 33
NUM_ROWS = 2000
NUM_NEIGHBOURS = 10_000
"""Training data among which neighbours of samples are looked for."""
NUM_CHECK_DATA = 300
"""Held-out data for predictive checks."""


@dataclass(frozen=True, eq=False)
class ReportData:
    """The data of a report.

    Attributes:
        run: the run.
        part: the part of the data in the figures: "test" where there is one.
        data: its first rows.
        x: the same, as the model sees them, [N, *event].
        reconstructed: their reconstructions, [N, *event].
        samples: means of p(x | z) for z from the prior.
        latents: means of q(z | x) of held-out data, [N, Z]; None where there is no latent site of that kind.
        train_latents: the same of training data.
        prior: draws of the latents from the prior, [S, Z].
        kl: KL of every latent dimension, averaged over data, [Z]; None where it is no sum over dimensions.
        active: variance over data of every dimension's posterior mean, [Z].
        manifold: decoded means at the quantiles of the prior, [GRID, GRID, *event], first axis downwards; None unless
            there are two latent dimensions.
        fine: the same on an even grid over ``fine_range``, [FINE, FINE, *event].
        fine_range: lowest and highest value of each latent dimension on that grid.
        traversals: decoded means where one dimension at a time runs through the prior, [rows, steps, *event].
        traversed: the dimension of each row.
        interpolations: decoded means between two data, [rows, steps, *event].
        interpolated: which two data of the part, [rows, 2].
        neighbours: rows of training data, each the nearest to one of ``samples``.
        reliability: of binary values, see :func:`~.decoded.reliability`; None for others.
        evaluation: the evaluation of these parameters on most of the data shown; None where there is none.
        more_evaluations: those of these parameters on other data.
        stale_evaluations: those of other parameters, such as an earlier epoch's.
        chains: HMC draws from p(z | x) of the first few data; None without ``chains_for``.
        signal_to_noise: |mean| / sd of every weight that has a posterior, by site; empty where none has.
        moments: mean and variance of new data under that posterior, for the first data; None where none has.
        checks: the data against data sets that the model generates.
        latent_checks: the same against data generated from each datum's own latents.
        discrete: the probabilities of the discrete latents that are summed out or marked; None where there are none.
        aggregate: the latents of all data against the prior; None unless there is exactly one latent site.
        notes: the quantities that could not be computed, and why.
        seed: of all draws.
        device: where it was computed.
        chains_for: the number of data that chains were run for.
    """

    run: Run
    part: str
    data: Dataset
    x: Tensor
    reconstructed: Tensor | None = None
    samples: Tensor | None = None
    latents: Tensor | None = None
    train_latents: Tensor | None = None
    prior: Tensor | None = None
    kl: Tensor | None = None
    active: Tensor | None = None
    manifold: Tensor | None = None
    fine: Tensor | None = None
    fine_range: tuple[tuple[float, float], tuple[float, float]] | None = None
    traversals: Tensor | None = None
    traversed: Sequence[int] = ()
    interpolations: Tensor | None = None
    interpolated: Tensor | None = None
    neighbours: Tensor | None = None
    reliability: Tensor | None = None
    evaluation: Evaluation | None = None
    more_evaluations: tuple[Evaluation, ...] = ()
    stale_evaluations: tuple[Evaluation, ...] = ()
    chains: PosteriorDraws | None = None
    signal_to_noise: Mapping[str, Tensor] = field(default_factory=dict)
    moments: PredictiveMoments | None = None
    checks: PosteriorChecks | None = None
    latent_checks: PosteriorChecks | None = None
    discrete: DiscretePosterior | None = None
    aggregate: AggregatePosterior | None = None
    notes: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    chains_for: int = 0

    @property
    def kind(self) -> str:
        """The kind of the data shown: "held-out" or "training"."""
        return kind_of(self.part)

    @property
    def labels(self) -> Tensor | None:
        """Labels of the data shown."""
        return self.data.labels


def kind_of(part: str) -> str:
    """The kind of the data of a part: "training" or "held-out"."""
    return "training" if part == "train" else "held-out"


class _Attempts:
    """Computed quantities by name, and a note for each that a pair cannot give."""

    def __init__(self) -> None:
        self.results: dict[str, Any] = {}
        self.notes: list[str] = []

    def __call__(
        self,
        name: str,
        make: Callable[[], Any],
        refusals: tuple[type[Exception], ...] = (PpvaeError, NotImplementedError),
    ) -> None:
        try:
            self.results[name] = make()
        except refusals as error:
            self.notes.append(f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}")


def find(run: Run, *, seed: int = 0, device: str = "auto", chains_for: int = 0) -> ReportData:
    """Compute all that a report shows of a run; with HMC chains for ``chains_for`` data."""
    pair, part, attempt = run.pair, run.held_out, _Attempts()
    data = run.part(part)
    data = data.take(min(NUM_ROWS, len(data))).binarize(seed)
    whole = data.tensor()
    main = data.main_of(whole)
    options: dict[str, Any] = {"seed": seed, "device": device}
    attempt("reconstructed", lambda: reconstruct(pair, data, **options))
    attempt("samples", lambda: generate(pair, 96, like=data, **options))
    attempt("neighbours", lambda: _neighbours(attempt.results.get("samples"), run))
    if data.batch_space == "binary":
        attempt("reliability", lambda: reliability(reconstruct(pair, data, num_samples=1, **options), main))
    if chains_for > 0:
        few = data.take(min(chains_for, len(data)))
        draws: dict[str, Any] = {"num_samples": 250, "num_warmup": 200, "global_sites": "mean", "progress": False}
        attempt("chains", lambda: sample_posterior(pair, few, **draws, **options))
    shape = structure(pair, like_pair(data.batch(torch.arange(1)), dtype_of(pair)))
    if shape.global_latents:
        attempt("signal_to_noise", lambda: signal_to_noise(pair, data))
        attempt("moments", lambda: predictive_moments(pair, data.take(min(20, len(data))), **options))
    if shape.enumerated or shape.guide_enumerated:
        attempt("discrete", lambda: discrete_posterior(pair, data, **options))
    _find_checks(attempt, pair, data, options)
    # The numbers of categories are names: they have neither a mean nor a distance.
    nominal = [info.name for info in shape.local_latents if info.is_a(Categorical)]
    if nominal:
        attempt.notes.append(f"latents: site {nominal[0]!r} is a category, which has no place in a plane")
    elif shape.local_latents:
        _find_latents(attempt, run, data, options)
    attempt.results |= evaluations_of(run, attempt.notes)
    return ReportData(
        run, part, data, main, **attempt.results, notes=tuple(attempt.notes), **options, chains_for=chains_for
    )


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


def _find_checks(attempt: _Attempts, pair: ModelGuidePair, data: Dataset, options: dict[str, Any]) -> None:
    """Predictive checks: they draw from any likelihood and guide, whose errors must not cost the rest of the page."""
    few = data.take(min(NUM_CHECK_DATA, len(data)))
    attempt("checks", lambda: posterior_checks(pair, few, **options), (Exception,))
    latent: dict[str, Any] = {"source": "posterior", "statistics": {}, "num_replicates": 100}
    attempt("latent_checks", lambda: posterior_checks(pair, few, **latent, **options), (Exception,))


def _find_latents(attempt: _Attempts, run: Run, data: Dataset, options: dict[str, Any]) -> None:
    """The latents of the data, beside the prior, and the manifold of two dimensions."""
    pair, seed, device, results = run.pair, options["seed"], options["device"], attempt.results
    attempt("latents", lambda: _rows(embed(pair, data, **options)))
    attempt("aggregate", lambda: aggregate_posterior(pair, data, **options), (Exception,))
    if "latents" not in results:
        return
    if run.held_out != "train":
        train = run.part("train")
        train = train.take(min(NUM_ROWS, len(train)))
        attempt("train_latents", lambda: _rows(embed(pair, train, **options)))
    attempt("prior", lambda: _prior(pair, data, seed))
    results["active"] = results["latents"].var(0) if len(data) > 1 else None
    attempt("kl", lambda: _kl(pair, data, seed))
    if results["latents"].shape[1] == 2 and "prior" in results:
        attempt("manifold", lambda: _manifold(pair, results["prior"], data, device))
        limits = _range(results)
        attempt("fine", lambda: _fine(pair, limits, data, device))
        results["fine_range"] = limits
    elif results["latents"].shape[1] > 2 and "prior" in results and results["active"] is not None:
        points, results["traversed"] = traversals(results["latents"], results["prior"], results["active"])
        attempt("traversals", lambda: _decode_rows(pair, points, data, device))
        lines, results["interpolated"] = interpolations(results["latents"], data.labels)
        attempt("interpolations", lambda: _decode_rows(pair, lines, data, device))


def _rows(values: Tensor) -> Tensor:
    """One row for each datum, [N, D], also where a latent is one number without an axis of its own."""
    return values.reshape(len(values), -1)


@in_evaluation_mode
def _prior(pair: ModelGuidePair, data: Dataset, seed: int) -> Tensor:
    """Draws of the one local latent site from the prior, [S, Z]."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = torch.arange(20_000, device=data.device) % len(data)
        device = next(pair.parameters()).device
        x = like_pair(data.to(device).batch(rows.to(device)), dtype_of(pair))
        (site,) = structure(pair, x).local_latents
        return _rows(simulate(pair, x).latents[site.name]).cpu()


@in_evaluation_mode
def _kl(pair: ModelGuidePair, data: Dataset, seed: int) -> Tensor | None:
    """KL per latent dimension, averaged over data, [Z]."""
    device = next(pair.parameters()).device
    here = data.to(device)
    total: Tensor | None = None
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for index, valid in chunks(len(data), 500, device):
            x = like_pair(here.batch(index), dtype_of(pair))
            terms = [term for term in site_terms(pair, x).values() if term.scope == "local" and term.kl is not None]
            if len(terms) != 1 or terms[0].kl_per_dimension is None:
                return None
            part = terms[0].kl_per_dimension[0, :valid].reshape(valid, -1).double().sum(0).cpu()
            total = part if total is None else total + part
    return None if total is None else total / len(data)


def _manifold(pair: ModelGuidePair, prior: Tensor, data: Dataset, device: str) -> Tensor:
    levels = (torch.arange(GRID, dtype=prior.dtype) + 0.5) / GRID
    across, up = (torch.quantile(prior[:, axis], levels) for axis in (0, 1))
    return _decode_grid(pair, across, up.flip(0), data, device)


def _fine(pair: ModelGuidePair, reach: Any, data: Dataset, device: str) -> Tensor:
    across, up = (torch.linspace(low, high, FINE) for low, high in reach)
    return _decode_grid(pair, across, up.flip(0), data, device)


def _decode_grid(pair: ModelGuidePair, across: Tensor, down: Tensor, data: Dataset, device: str) -> Tensor:
    z = torch.stack((across.repeat(len(down)), down.repeat_interleave(len(across))), 1)
    return _decode_rows(pair, z.reshape(len(down), len(across), 2), data, device)


def _decode_rows(pair: ModelGuidePair, z: Tensor, data: Dataset, device: str) -> Tensor:
    """Means of p(x | z) at points [rows, columns, Z]: [rows, columns, *event]."""
    x = decode(pair, z.reshape(-1, *structure_event(pair, data)), like=data, device=device)
    return x.reshape(*z.shape[:2], *x.shape[1:])


def _neighbours(samples: Tensor | None, run: Run) -> Tensor | None:
    """Which of the first training data is the nearest to each sample."""
    train = run.part("train")
    values = train.take(min(NUM_NEIGHBOURS, len(train))).binarize(0).tensor()
    main = train.main_of(values)
    return None if samples is None or samples.shape[1:] != main.shape[1:] else nearest(samples, main)[0]


@in_evaluation_mode
def structure_event(pair: ModelGuidePair, data: Dataset) -> tuple[int, ...]:
    """The event shape of the one local latent site."""
    device = next(pair.parameters()).device
    x = like_pair(data.to(device).batch(torch.arange(min(2, len(data)), device=device)), dtype_of(pair))
    (site,) = structure(pair, x).local_latents
    return site.shape


def _range(results: Mapping[str, Any]) -> tuple[tuple[float, float], tuple[float, float]]:
    """A square around the prior and the embedded data."""
    low, high = torch.quantile(results["prior"], 0.002, 0), torch.quantile(results["prior"], 0.998, 0)
    latents = results["latents"]
    low = torch.minimum(low, torch.quantile(latents, 0.005, 0))
    high = torch.maximum(high, torch.quantile(latents, 0.995, 0))
    return (float(low[0]), float(high[0])), (float(low[1]), float(high[1]))
