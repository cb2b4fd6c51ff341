"""Simulation from a pair's model, and its predictions of data at given latents."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Categorical

from .axes import sample_shape, to_canonical, to_pyro
from .density import _flatten, observing_run, over_groups, present_of, structure
from .enumeration import SummedOut
from .errors import PairError, PpvaeError, did_you_mean, place_of, try_one_of
from .pair import Data, ModelGuidePair
from .parameters import local_parameters
from .reach import require_exact_draws
from .rewriting import not_in_batch, rewritten
from .site import SiteInfo
from .structure import Structure
from .summed import summed_of
from .support import bounds_of
from .terms import Simulation, sum_log_probs
from .tracing import Latents, run_model, run_program, width_of

_DIRECTIONS = (
    dist.VonMises,
    dist.VonMises3D,
    dist.ProjectedNormal,
    dist.SineBivariateVonMises,
    dist.SineSkewed,
)


class Noise(Protocol):
    """What :class:`NoisyValue` and :func:`partly_seen` need of a channel $p(y \\mid x)$."""

    def marginal(self, fn: Any) -> Any:
        """The distribution of y given the one of x, ``fn`` without its wrappers."""

    def posterior(self, fn: Any, value: Tensor, seen: Tensor) -> Any:
        """The distribution of x given its prior ``fn`` and, where it is seen, its noisy value."""


class NoisyValue(NamedTuple):
    """An observed site that is known through noise.

    Attributes:
        noise: what it went through.
        value: what came out, y [B, *event].
        seen: where anything came out, bool [B, *event].
    """

    noise: Noise
    value: Tensor
    seen: Tensor


NoisyValues = Mapping[str, NoisyValue]


def simulate(pair: ModelGuidePair, x: Data, num_data: int | None = None) -> Simulation:
    r"""Draw latents and data from the model, $z \sim p(z),\ x \sim p(x \mid z)$.

    Args:
        pair: the pair; a global site that it holds at a value stays there.
        x: a batch, for the number of data, their shapes and any covariates; its observed values are not used.
        num_data: N, handed to the model.
    """
    shape = structure(pair, x)
    with local_parameters(pair):
        sites = run_program(pair, "model", x, num_data, free=_free_sites(shape, ()))
    value = {
        i.name: to_canonical(sites[i.name]["value"], i, shape.nesting, 1)[0]
        for i in shape.model
        if 0 not in i.event_shape  # pyro.factor has a density and no value
    }
    return Simulation(
        {info.name: value[info.name] for info in shape.model_latents},
        {info.name: value[info.name] for info in shape.observed if info.name in value},
    )


def simulate_batch(pair: ModelGuidePair, x: Data, num_data: int | None = None) -> tuple[Simulation, Data]:
    """As :func:`simulate`, and the batch with these data in the place of those that the model observed.

    Covariates stay, as does whatever else the model does not observe.

    Raises:
        PairError: an observed site has a value that the model computes from the batch.
    """
    made, shape = simulate(pair, x, num_data), structure(pair, x, num_data)
    local = {info.name for info in shape.observed if info.scope == "local"}
    return made, rewritten(x, shape, {name: value for name, value in made.observed.items() if name in local})


def require_simulable(pair: ModelGuidePair, few: Data, *, batches: bool = False) -> None:
    """Check that draws of the model follow its density, and reach every site that depends on them.

    Args:
        pair: the pair, its global sites at fixed values.
        few: some data.
        batches: whether data are drawn to be observed, by :func:`simulate_batch`.

    Raises:
        PairError: the model has a ``pyro.factor``, reads observed values from x instead of from the sites, or computes
            from x what it observes, where that matters.
    """
    shape = structure(pair, few)
    for info in shape.observed:
        _require_no_factor(info)
    for info in shape.model:
        require_exact_draws(info)
    places = {place.site for place in shape.places}
    with torch.no_grad():
        found = observed_and_present(pair, few, shape)
        others = {n: (v <= 0.5).to(v.dtype) for n, (v, _) in found.items() if batches or n in places}
        other = rewritten(few, shape, others)
        before, after = (_simulation(pair, x) for x in (few, other))
        seen = observed_and_present(pair, other, shape)
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise PairError(
                f"site {name!r} depends on observed values that the model reads from x: a value that is simulated "
                "never reaches it"
                + try_one_of(
                    "use what pyro.sample returns: y = pyro.sample('y', ..., obs=x['y'])",
                    "reconstruct, which is about the data themselves",
                )
            )
    for name, value in others.items():
        observed, present = seen[name]
        if batches and not torch.equal(value[present], observed[present]):
            raise not_in_batch(name)


def _require_no_factor(info: SiteInfo) -> None:
    if 0 in info.event_shape:
        raise PairError(
            f"site {info.name!r} is a pyro.factor: expected a model that can be drawn from, found a density that "
            "no draw knows of"
            + try_one_of(
                "a pyro.sample with a distribution instead",
                "log_evidence, evaluate_bound, sample_posterior, embed, which need densities alone",
            )
        )


def _simulation(pair: ModelGuidePair, x: Data) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return simulate(pair, x).observed


def observed_and_present(pair: ModelGuidePair, x: Data, shape: Structure) -> dict[str, tuple[Tensor, Tensor]]:
    """What the model observes of each local site but factors, and which entries are not masked out, [B, *event]."""
    with local_parameters(pair):
        sites = observing_run(pair, x, shape)
    local = [info for info in shape.observed if info.scope == "local" and 0 not in info.event_shape]
    return {
        i.name: (to_canonical(sites[i.name]["value"], i, shape.nesting, 1)[0], present_of(sites[i.name], i, shape)[0])
        for i in local
    }


def predict(
    pair: ModelGuidePair,
    x: Data,
    latents: Latents,
    *,
    kind: Literal["mean", "variance", "sample"] = "mean",
    given: Latents | None = None,
    sites: Collection[str] | None = None,
    discrete: Literal["data", "given"] | None = None,
    num_draws: int | None = None,
    noise: NoisyValues | None = None,
) -> dict[str, Tensor]:
    r"""Mean or variance of, or a draw from, $p(x \mid z)$ at given latents: observed site name to [*S, B, *event].

    Where one observed site depends on another, its mean and variance are given the value of that other: the one in
    ``x``, the one in ``given``, or else the one drawn with it. Draws are joint over the sites that are not given.

    Discrete sites y that are summed out are drawn from their posterior, or averaged over exactly: with the data of
    ``x``, from $p(y \mid x, z)$, as for what is predicted of these data anew; or else from $p(y \mid z, x_g)$.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: a value for every latent site of the model, local [*S, B, *event], global [*S, *event].
        kind: "mean", "variance" (of every element) or "sample".
        given: None where each observed site keeps its value in x (predictions of real data, site by site); else
            observed site to value [B, *event]: every other observed site is drawn, and of ``x`` only covariates are
            used.
        sites: the observed sites to predict; None for all.
        discrete: whether the posterior of the sites that are summed out is given the "data" in ``x`` or what is
            "given" alone; None for the data where ``given`` is None.
        num_draws: as for :func:`~ppvae.core.log_joint`.
        noise: observed sites that are known through noise: of these, $p(x \mid z, y)$ takes the place of
            $p(x \mid z)$.

    Raises:
        PairError: a mean or variance that the site's distribution does not have; a value for what is no observed site;
            a ``pyro.factor`` for every datum, which may be a part of $p(x \mid z)$.
    """
    shape = structure(pair, x)
    for info in shape.observed:
        if info.scope == "local":
            _require_no_factor(info)
    sample_axes, particles, flat = _flatten(latents, shape, num_draws)
    observed = _observed(shape, given or {})
    free = frozenset() if given is None else _free_sites(shape, given)
    targets = [i for i in shape.observed if 0 not in i.event_shape and (sites is None or i.name in sites)]
    by_data = discrete == "data" or (discrete is None and given is None)
    # What the discrete sites are given: all that is observed, or what is given and the latents.
    evidence = {i.name for i in shape.model} if by_data else {*(given or {}), *flat}

    def visit(group: slice) -> dict[str, Tensor]:
        width = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        values |= _site_values(given or {}, observed, shape, width)
        summed = None
        if shape.enumerated:
            run = run_model(pair, x, shape, values, width, free=() if by_data else free)
            summed = summed_of(run, shape, width)
            if kind == "sample":
                values |= summed.values(summed.sample(evidence))
        sites = run_model(pair, x, shape, values, width, free=free, enumerate=kind != "sample")
        outcome = {}
        for info in targets:
            site = sites[info.name]
            if info.name in (noise or {}):
                site = {**site, "fn": _given_noisy(site["fn"], (noise or {})[info.name], info, shape, width)}
            if summed is not None and kind != "sample":
                value = _averaged(summed, site, kind, info, evidence)
            elif kind != "sample":
                value = _moment(site["fn"], kind, info)
            else:
                drawn = given is not None and info.name not in (noise or {})
                value = site["value"] if drawn else site["fn"].sample()
            outcome[info.name] = to_canonical(value, info, shape.nesting, width)
        return outcome

    groups = over_groups(pair, particles, visit)
    return {
        info.name: torch.cat([g[info.name] for g in groups]).reshape((*sample_axes, *groups[0][info.name].shape[1:]))
        for info in targets
    }


def simulate_given(
    pair: ModelGuidePair,
    x: Data,
    num_particles: int,
    given: Latents,
    site: str,
    *,
    kind: Literal["mean", "sample", "location"] = "mean",
) -> tuple[Tensor, Tensor]:
    r"""Draw latents and data with some observed sites held at given values, and the log likelihood of these values.

    Everything is drawn given what stands before it; with $\log w_k = \sum_{g} \log p(x_g \mid \text{what was drawn})$
    over the given sites, averages weighted by $w_k$ tend to averages under $p(z, x \mid x_g)$ (likelihood weighting,
    Fung & Chang 1989). Latents of each datum can be given likewise, those that are summed out too.

    Args:
        pair: the pair.
        x: a batch, for the number of data, their shapes and any covariates.
        num_particles: K.
        given: observed site, or local latent, to value [B, *event].
        site: the observed site to predict.
        kind: "sample", a draw; "mean", its mean given the sites drawn before it, where no given site stands after it
            and a draw elsewhere: what averages to its mean; "location", that mean in any case.

    Returns:
        the site's mean or draw, [K, B, *event], and log w, [K, B], nats.
    """
    shape = structure(pair, x)
    known = _observed(shape, given, latents=True)
    # A factor is a density without a value: it belongs to the weight.
    weight_sites = {*given, *(name for name, info in known.items() if 0 in info.event_shape)}
    free = _free_sites(shape, weight_sites)
    # Where a weight may depend on what was drawn at the site, a mean in its place would not be the mean of anything.
    order = list(known)
    draw_first = any(order.index(name) > order.index(site) for name in weight_sites)

    def visit(group: slice) -> tuple[Tensor, Tensor]:
        width = width_of(group)
        site_values = _site_values(given, known, shape, width)
        sites = run_model(pair, x, shape, site_values, width, free=free, enumerate=False)
        terms = {name: term for name, term in sites.items() if name in weight_sites}
        drawn = kind == "sample" or (kind == "mean" and draw_first)
        value = sites[site]["value"] if drawn else _moment(sites[site]["fn"], "mean", known[site])
        return to_canonical(value, known[site], shape.nesting, width), sum_log_probs(terms, shape, width)[0]

    values, weights = zip(*over_groups(pair, num_particles, visit), strict=True)
    return torch.cat(values), torch.cat(weights)


def given_present(pair: ModelGuidePair, x: Data, given: Latents) -> dict[str, Tensor]:
    """Which given values the model does not mask out, site to [B]: the others have no effect on :func:`simulate_given`.

    Args:
        pair: the pair.
        x: a batch, [B, *event].
        given: observed site, or local latent, to value [B, *event].

    Raises:
        PairError: a value that the site does not have, whatever is drawn before it, or at which the model fails.
    """
    shape = structure(pair, x)
    known = _observed(shape, given, latents=True)
    values, free = _site_values(given, known, shape, 1), _free_sites(shape, given)
    try:
        sites = run_model(pair, x, shape, values, 1, free=free, enumerate=False)
    except PpvaeError:
        raise
    except ValueError as error:  # of a distribution that checks its parameters
        raise PairError(
            f"given: the model fails at these values of {', '.join(map(repr, given))}: {str(error).splitlines()[0]}"
            + place_of(error)
            + try_one_of("values that the model has", "a model that has a distribution for them")
        ) from error
    for name in given:
        support = getattr(sites[name]["fn"], "support", None)
        grey = known[name].allows_grey
        if support is None or grey or bounds_of(support):  # bounds that are tensors may follow what was drawn
            continue
        if not bool(support.check(sites[name]["value"]).all()):
            raise PairError(
                f"given: site {name!r}: expected values of a {known[name].family_name} ({support}), found others, of "
                "which there is no conditional distribution" + try_one_of("values in that support")
            )
    found = {name: present_of(sites[name], known[name], shape)[0] for name in given}
    return {name: present.flatten(1).any(1) if present.dim() > 1 else present for name, present in found.items()}


def _observed(shape: Structure, given: Latents, *, latents: bool = False) -> dict[str, SiteInfo]:
    """The observed sites, with the local latents or without, in the model's order: what is given is among them."""
    known = {i.name: i for i in shape.model if i.kind == "observed" or (latents and i.scope == "local")}
    for name, value in given.items():
        if name not in known:
            what = "observed site or local latent" if latents else "observed site"
            raise PairError(f"given: no {what} {name!r}: {did_you_mean(name, known)}")
        if sample_shape(value, known[name], shape.batch):
            raise PairError(f"given: site {name!r}: expected one value for each datum, found {list(value.shape)}")
    return known


def _site_values(given: Latents, observed: dict[str, SiteInfo], shape: Structure, width: int) -> dict[str, Tensor]:
    return {
        name: to_pyro(value.expand(width, *value.shape), observed[name], shape.nesting) for name, value in given.items()
    }


def _free_sites(shape: Structure, given: Collection[str]) -> frozenset[str]:
    """The observed sites that are data (a global one is a latent that the pair holds at a value) and not given."""
    return frozenset(i.name for i in shape.observed if i.scope == "local" and i.name not in given)


def _given_noisy(fn: Any, through: NoisyValue, info: SiteInfo, shape: Structure, width: int) -> Any:
    values = (to_pyro(v.expand(width, *v.shape), info, shape.nesting) for v in (through.value, through.seen))
    return through.noise.posterior(fn, *values)


def _averaged(summed: SummedOut, site: Any, kind: str, info: SiteInfo, evidence: Collection[str]) -> Tensor:
    """The mean or variance of a site over what is summed out: exact, by the law of total variance."""
    axes = len(info.event_shape)

    def average(value: Tensor) -> Tensor:
        return summed.average(site, value, axes, evidence)

    mean = _moment(site["fn"], "mean", info)
    if kind == "mean":
        return average(mean)
    within = average(_moment(site["fn"], kind, info))
    overall = average(mean)
    return within + average((mean - overall).square())


def _moment(fn: Any, kind: str, info: SiteInfo) -> Tensor:
    try:
        if info.is_a(Categorical, *_DIRECTIONS):  # PyTorch's says NaN; angles and directions have no mean to average
            raise NotImplementedError
        value: Tensor = getattr(fn, kind)
    except (NotImplementedError, AttributeError) as error:
        raise PairError(
            f"site {info.name!r}: expected a distribution that knows its {kind}, found {info.family_name}"
            + (", whose classes are names and no numbers" if info.is_a(Categorical) else "")
            + (", whose values are directions" if info.is_a(*_DIRECTIONS) else "")
            + try_one_of(
                'kind="sample", where the verb has a kind: generate, decode',
                "OneHotCategorical, whose mean is the classes' probabilities: Categorical(..., one_hot=True) of "
                "ppvae.distributions"
                if info.is_a(Categorical)
                else "a likelihood with a closed form, such as Normal, Beta or LogNormal",
            )
        ) from error
    return value
