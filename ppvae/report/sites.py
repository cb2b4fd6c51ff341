"""What a report tells of every latent site and of every observed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import OneHotCategorical, constraints

from .decoded import reliability
from .described import observed_of
from ..core import ModelGuidePair, PairError, PpvaeError, Structure, simulate
from ..core.lengths import present as steps_within
from ..core.modes import in_evaluation_mode
from ..core.wrappers import with_axes
from ..data import Dataset, random_rows
from ..inference import AggregatePosterior, PosteriorChecks
from ..inference.criticism import aggregate_posterior, posterior_checks
from ..inference.criticism.site_report import SiteReport
from ..inference.execution.over_data import OverData
from ..inference.execution.placement import dtype_of, like_pair
from ..inference.prediction import embed, generate, reconstruct
from ..inference.prediction.observed_values import observed_values

NUM_CHECK_DATA = 300
"""Held-out data for predictive checks."""
NUM_SAMPLES = 96
NUM_SITES = 4
"""Observed sites with figures of their own, at most."""
NUM_OF_CHAIN = 2
"""Those of a longer chain of sites, each of which takes the time of all."""
_DRAWS = 100  # of the guide, where its mean is no value of a latent


@dataclass(frozen=True, eq=False)
class LatentFindings:
    """What there is to say of one latent site.

    Attributes:
        site: its name.
        label: the same where there are several, else empty: what tells its figures from others'.
        shape: its event shape; Z is the number of its entries.
        latents: means of q(z | x) of the data shown, [N, Z]; None where it has none.
        train_latents: the same of training data.
        prior: its draws from the prior, [S, Z].
        kl: KL of every dimension, averaged over data, [Z]; None where it is no sum over dimensions.
        active: variance over data of every dimension's posterior mean, [Z]; None of positive values, of which no
            variance is small in itself.
        aggregate: its values for all data against the prior.
    """

    site: str
    label: str = ""
    shape: tuple[int, ...] = ()
    latents: Tensor | None = None
    train_latents: Tensor | None = None
    prior: Tensor | None = None
    kl: Tensor | None = None
    active: Tensor | None = None
    aggregate: AggregatePosterior | None = None


@dataclass(frozen=True, eq=False)
class ObservedFindings:
    """What there is to say of one observed site.

    Attributes:
        site: its name.
        label: the same where there are several, else empty.
        x: its data, [N, *event], 0 in the gaps.
        present: which entries are there, [N, *event]; None where all are.
        reconstructed: their reconstructions, [N, *event], 0 beyond the length of a sequence.
        averaged: whether these are averages over draws of the guide, and not at its mean.
        samples: means of p(x | z) for z from the prior, or draws of x.
        drawn: whether they are draws.
        lengths: whether they are sequences of the data's lengths.
        reliability: of binary values, see :func:`~.decoded.reliability`; None for others.
        checks: the data against data sets that the model generates.
        latent_checks: the same against data generated from each datum's own latents.
    """

    site: str
    label: str
    x: Tensor
    present: Tensor | None = None
    reconstructed: Tensor | None = None
    averaged: bool = False
    samples: Tensor | None = None
    drawn: bool = False
    lengths: bool = False
    reliability: Tensor | None = None
    checks: PosteriorChecks | None = None
    latent_checks: PosteriorChecks | None = None


class Attempts:
    """Computed quantities by name, and a note for each that a pair cannot give.

    Args:
        notes: the list that takes them.
        label: of the site that they are of, where a note has to say so.
    """

    def __init__(self, notes: list[str], label: str = "") -> None:
        self.results: dict[str, Any] = {}
        self.notes, self.of = notes, f" of {label}" if label else ""

    def __call__(
        self,
        name: str,
        make: Callable[[], Any],
        refusals: tuple[type[Exception], ...] = (PpvaeError, NotImplementedError),
    ) -> None:
        try:
            self.results[name] = make()
        except refusals as error:
            self.notes.append(f"{name}{self.of}: {(str(error) or type(error).__name__).splitlines()[0]}")


# --- latent sites ---------------------------------------------------------------------------------


def latent_findings(
    pair: ModelGuidePair,
    data: Dataset,
    train: Dataset | None,
    shape: Structure,
    told: SiteReport | None,
    notes: list[str],
    options: Mapping[str, Any],
) -> dict[str, LatentFindings]:
    """Every latent site that has a place in a plane, by name.

    Args:
        pair: the pair.
        data: the data shown.
        train: training data; None where the data shown are these.
        shape: the pair's structure.
        told: the contribution of each site; None where it is not known.
        notes: the list that takes what could not be computed.
        options: seed and device.
    """
    priors: dict[str, Tensor] = {}
    found: dict[str, LatentFindings] = {}
    for info in shape.local_latents:
        # The numbers of categories are names: they have neither a mean nor a distance.
        if info.is_a(torch.distributions.Categorical):
            notes.append(f"latents: site {info.name!r} is a category, which has no place in a plane")
            continue
        if info.is_a(OneHotCategorical):
            continue  # its probabilities are shown with the discrete latents
        site, label = info.name, info.name if len(shape.local_latents) > 1 else ""
        attempt, at = Attempts(notes, label), {"site": site, **options}
        attempt("latents", lambda at=at: rows(embed(pair, data, **at)))  # type: ignore[misc]
        attempt("aggregate", lambda at=at: aggregate_posterior(pair, data, **at), (Exception,))  # type: ignore[misc]
        results = attempt.results
        if "latents" in results:
            if train is not None:
                attempt("train_latents", lambda at=at: rows(embed(pair, train, **at)))  # type: ignore[misc]
            if not priors:
                attempt("prior", lambda: priors.update(_priors(pair, data, shape, options["seed"])))
            results["prior"] = priors.get(site)
            measured = len(data) > 1 and not _is_positive(info.support)
            results["active"] = results["latents"].var(0) if measured else None
            kl = () if told is None else told.site(site).kl_per_dimension
            results["kl"] = torch.tensor(kl, dtype=torch.float64) if kl else None
        found[site] = LatentFindings(site, label, info.shape, **results)
    return found


def _is_positive(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, constraints.greater_than | constraints.greater_than_eq)


@in_evaluation_mode
def _priors(pair: ModelGuidePair, data: Dataset, shape: Structure, seed: int) -> dict[str, Tensor]:
    """Draws of the latent sites from the prior, [S, Z] each."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        index = torch.arange(20_000, device=data.device) % len(data)
        device = next(pair.parameters()).device
        x = like_pair(data.to(device).batch(index.to(device)), dtype_of(pair))
        drawn = simulate(pair, x).latents
        return {info.name: rows(drawn[info.name]).cpu() for info in shape.local_latents}


def rows(values: Tensor) -> Tensor:
    """One row for each datum, [N, D], also where a latent is one number without an axis of its own."""
    return values.reshape(len(values), -1)


# --- observed sites -------------------------------------------------------------------------------


def observed_findings(
    pair: ModelGuidePair, data: Dataset, shape: Structure, notes: list[str], options: Mapping[str, Any]
) -> dict[str, ObservedFindings]:
    """Every observed site that is a member of the data, the main one first; or the only one; a few of many.

    Args:
        pair: the pair.
        data: the data shown.
        shape: the pair's structure.
        notes: the list that takes what could not be computed.
        options: seed and device.
    """
    names = [info.name for info in shape.observed if info.scope == "local" and 0 not in info.event_shape]
    chosen: Sequence[str] = names if len(names) == 1 else [n for n in names if n in data.members] or names
    chosen = _some(sorted(chosen, key=lambda name: name != data.main), notes)
    few = data.take(random_rows(len(data), NUM_CHECK_DATA))
    discrete = any(info.is_discrete for info in shape.local_latents)
    found = {}
    for name in chosen:
        label = name if len(chosen) > 1 else ""
        attempt, at = Attempts(notes, label), {"site": name, **options}
        _find_values(attempt, pair, data, name, single=len(names) == 1, discrete=discrete, at=at)
        # They draw from any likelihood and guide, whose errors must not cost the rest of the page.
        attempt("checks", lambda at=at: posterior_checks(pair, few, **at), (Exception,))  # type: ignore[misc]
        again = {"source": "posterior", "statistics": {}, "num_replicates": 100, **at}
        attempt("latent_checks", lambda again=again: posterior_checks(pair, few, **again), (Exception,))  # type: ignore[misc]
        found[name] = ObservedFindings(name, label, **attempt.results)
    return found


def _some(names: list[str], notes: list[str]) -> list[str]:
    """All names; of a long chain, whose figures a person would not look through, its start and its end."""
    if len(names) <= NUM_SITES:
        return names
    places = {round(i * (len(names) - 1) / (NUM_OF_CHAIN - 1)) for i in range(NUM_OF_CHAIN)}
    chosen = [name for place, name in enumerate(names) if place in places]
    notes.append(
        f"{len(names)} observed sites: figures and checks of {', '.join(chosen)}; posterior_checks(..., site=...) and "
        "generate(..., site=...) serve the others"
    )
    return chosen


def _find_values(
    attempt: Attempts,
    pair: ModelGuidePair,
    data: Dataset,
    name: str,
    *,
    single: bool,
    discrete: bool,
    at: Mapping[str, Any],
) -> None:
    """Data of a site, their reconstructions, new ones, and how reliable binary ones' probabilities are."""
    results = attempt.results
    whole = data.tensor()
    x = results["x"] = data.main_of(whole) if single else data.members.get(name, data.main_of(whole))

    def look() -> None:
        found = observed_values(OverData(pair, data, seed=at["seed"], device=at["device"], compile="eager"), name)
        results["x"] = x if single and found.present is None else found.values
        if found.present is not None and not bool(found.present.all()):
            results["present"] = found.present
            results["x"] = found.values.where(found.present, 0.0)

    attempt("data", look)
    results.pop("data", None)
    x, present = results["x"], results.get("present")
    steps = within(pair, whole, name)
    results["lengths"] = steps is not None
    results["averaged"], num_samples = discrete, _DRAWS if discrete else None
    attempt("reconstructed", lambda: cut(reconstruct(pair, data, num_samples=num_samples, **at), steps))

    def new() -> Tensor:
        try:
            return generate(pair, NUM_SAMPLES, like=data, **at)
        except PairError:  # no mean, or one that depends on another observed site
            results["drawn"] = True
            return generate(pair, NUM_SAMPLES, like=data, kind="sample", **at)

    attempt("samples", lambda: cut(new(), steps))
    seen = x if present is None else x[present]
    if data.batch_space == "binary" if name == data.main or single else bool(((seen == 0) | (seen == 1)).all()):
        attempt("reliability", lambda: reliability(reconstruct(pair, data, num_samples=1, **at), x, present=present))


def within(pair: ModelGuidePair, whole: Any, name: str) -> Tensor | None:
    """Which steps of an observed sequence are no padding, [N, T]; None where it has no lengths."""
    variable = observed_of(pair, name)
    if variable is None or variable.lengths is None:
        return None
    return steps_within(whole[variable.lengths], whole[name].shape[1])


def cut(x: Tensor, steps: Tensor | None) -> Tensor:
    """Sequences [M, T, *] that are 0 beyond the length of their row, repeated cyclically."""
    if steps is None:
        return x
    return x.where(with_axes(steps[torch.arange(len(x)) % len(steps)], x.dim()), 0.0)
