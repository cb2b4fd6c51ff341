r"""The waist: densities of a model/guide pair, per datum, in nats, unscaled by the minibatch.

Axis order everywhere: sample axes (chain, draw, particle) first, then
the datum, then the event; a site inside plates to the left of ``"data"`` keeps them as leading event axes.

With $\log w = \log p(x, z) - \log q(z \mid x)$, SGVB estimator A is ``mean(log w)``, the importance-weighted bound is
``logmeanexp(log w)`` and the HMC target is $z \mapsto \log p(x, z)$: every estimator hangs from these functions. All of
them are traceable: no ``.item()``, no branch on a tensor's value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from .axes import sample_shape, to_canonical, to_pyro
from .compile import NeedsEagerRun, is_bound, preserve
from .errors import PairError, try_one_of
from .fingerprint import differences, fingerprint
from .pair import DATA_PLATE, Data, ModelGuidePair, members_of, rows_of
from .parameters import local_parameters
from .plates import data_plate_of
from .rewriting import find_places
from .site import SiteInfo
from .structure import Structure
from .support import base_of, bounds_of, support_of
from .terms import Draw, LogTerms, Sites, Sums, join_sums, sum_log_probs
from .tracing import Latents, length_of, run_model, run_program, width_of
from .wrappers import entries_present

T = TypeVar("T")


def structure(pair: ModelGuidePair, x: Data, num_data: int | None = None) -> Structure:
    """The static structure of a pair, found by one eager run of guide and model and then remembered.

    It is found anew where anything that the programs read has changed (:mod:`ppvae.core.fingerprint`), which is checked
    outside of bound functions: every verb begins there. A function that is captured on a batch of another shape is
    run eagerly once to find it (:class:`~ppvae.core.compile.NeedsEagerRun`). Where the support of a latent has bounds
    that are tensors, they are looked up anew at every eager call.

    Args:
        pair: the pair.
        x: a batch, [B, *event]; what is found is remembered for batches of this shape.
        num_data: N, which the data plates then state.

    Raises:
        PairError: a program fails when it is run.
    """
    recording = get_proxy_mode() is not None
    free = not recording and not is_bound()
    if free and pair._structures and (pair._fingerprint is None or differences(pair._fingerprint, fingerprint(pair))):
        pair._structures.clear()
        pair._audits.clear()
    key = (_signature(x), num_data)
    shape = pair._structures.get(key)
    if shape is None and recording:
        raise NeedsEagerRun
    # Bounds of a support may follow a parameter: they are looked up again, but not while a graph is recorded.
    if shape is None or (shape.has_bounds and not recording):
        # A batch norm in training mode moves its running statistics at every run.
        with torch.random.fork_rng(), preserve(pair.buffers()):
            shape = _find_structure(pair, x, num_data)
            if shape.has_bounds:  # do they move with the latents?
                shape = replace(shape, moving=shape.moving_latents(_find_structure(pair, x, num_data)))
        pair._structures[key] = shape
        if free:  # a bound function keeps the last fingerprint
            pair._fingerprint = fingerprint(pair)
    assert isinstance(shape, Structure)
    return shape


def _find_structure(pair: ModelGuidePair, x: Data, num_data: int | None) -> Structure:
    with torch.no_grad(), local_parameters(pair, adopt=True):
        guide_sites = run_program(pair, "guide", x, num_data)
        told = {name: site for name, site in guide_sites.items() if name not in pair.summed_out}
        values = {name: site["value"] for name, site in told.items() if not site["is_observed"]}
        model_sites = run_program(pair, "model", x, num_data, substitute=values)
        if pair.one_datum:
            shape = Structure.from_sites(model_sites, guide_sites, one_datum=True, summed=pair.summed_out)
            return _with_places(shape, x, model_sites)
        named, batch = pair.find_data_plate(x), length_of(pair, x)

        def rolled() -> Sites:
            assert batch is not None
            return run_program(pair, "model", rows_of(x, torch.arange(batch).roll(1)), num_data)

        # A batch of another length might not tell the plate that was found from others.
        plate = data_plate_of(model_sites, guide_sites, (named, pair._found_plate), batch, rolled)
        if named is None and plate != DATA_PLATE and batch is not None:
            pair._found_plate = plate
    shape = Structure.from_sites(model_sites, guide_sites, plate=plate, summed=pair.summed_out)
    return _with_places(shape, x, model_sites)


def _with_places(shape: Structure, x: Data, sites: Sites) -> Structure:
    return replace(shape, places=find_places(x, {info.name: sites[info.name]["value"] for info in shape.observed}))


def draw(pair: ModelGuidePair, x: Data, num_particles: int, num_data: int | None = None) -> Draw:
    r"""Draw $z \sim q(z \mid x)$ and evaluate $\log q$.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        num_particles: K, draws per datum.
        num_data: N, handed to the programs; the result is not scaled by it.
    """
    shape = structure(pair, x)
    latent_infos = [info for info in shape.guide if info.kind in ("latent", "auxiliary")]

    def visit(group: slice) -> tuple[dict[str, Tensor], dict[str, Tensor], Sums]:
        particles = width_of(group)
        sites = run_program(pair, "guide", x, num_data, particles=particles, nesting=shape.nesting)
        values = {i.name: to_canonical(sites[i.name]["value"], i, shape.nesting, particles) for i in latent_infos}
        present = {i.name: present_of(sites[i.name], i, shape, particles) for i in shape.guide_latents if i.masked}
        if shape.guide_summed:  # log q of what was drawn, whatever discrete values it was drawn with
            drawn = {info.name: sites[info.name]["value"] for info in latent_infos}
            sites = run_program(pair, "guide", x, num_data, particles, shape.nesting, drawn, enumerate=True)
        return values, present, sum_log_probs(sites, shape, particles)

    values, present, sums = zip(*over_groups(pair, num_particles, visit), strict=True)
    latents, total = join_groups(values), join_sums(sums)
    auxiliary = {info.name: latents.pop(info.name) for info in shape.guide if info.kind == "auxiliary"}
    return Draw(latents, total.local, total.global_, total.tilt, auxiliary, join_groups(present))


def log_joint(
    pair: ModelGuidePair,
    x: Data,
    latents: Latents,
    num_data: int | None = None,
    *,
    num_draws: int | None = None,
    stand_in: int | None = None,
) -> LogTerms:
    r"""Evaluate $\log p(x, z, w)$ at given latents, for any number of sample axes on the left.

    Discrete sites that are marked ``infer={"enumerate": "parallel"}`` and that the guide does not draw are summed out:
    $\log \sum_y p(x, y, z, w)$ (:mod:`ppvae.core.enumeration`).

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: a value for every latent site of the model, local [*S, B, *event], global [*S, *event].
        num_data: N, handed to the model; the result is not scaled by it.
        num_draws: the one sample axis of a model without latents (all are summed out); None for no axis.
        stand_in: see :class:`~ppvae.core.enumeration.SummedOut`; for checks.

    Raises:
        PairError: a latent site of the model has no value here (it would be drawn from the prior), or a value names
            no latent site; or a sum over discrete sites that is too large.
    """
    shape = structure(pair, x)
    sample_axes, total, flat = _flatten(latents, shape, num_draws)

    def visit(group: slice) -> tuple[dict[str, Tensor], Sums]:
        particles = width_of(group)
        values = {i.name: to_pyro(flat[i.name][group], i, shape.nesting) for i in shape.model_latents}
        sites = run_model(pair, x, shape, values, particles, num_data)
        present = {info.name: present_of(sites[info.name], info, shape, particles) for info in shape.masked_latents}
        return present, sum_log_probs(sites, shape, particles, values, stand_in)

    present, sums = zip(*over_groups(pair, total, visit), strict=True)

    def unflatten(term: Tensor) -> Tensor:
        return term.reshape((*sample_axes, *term.shape[1:]))

    local, global_, observed, tilt = join_sums(sums)
    return LogTerms(
        unflatten(local),
        unflatten(global_),
        unflatten(observed),
        None if tilt is None else unflatten(tilt),
        {name: unflatten(value) for name, value in join_groups(present).items()},
    )


def log_guide(
    pair: ModelGuidePair,
    x: Data,
    latents: Latents,
    num_data: int | None = None,
    *,
    auxiliary: Latents | None = None,
    num_draws: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Evaluate $\log q(z, w \mid x)$ at given latents: local [*S, B] and global [*S].

    At detached latents its gradient is the score $\nabla_\phi \log q_\phi(z \mid x)$ alone.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        latents: a value for every latent site, local [*S, B, *event], global [*S, *event].
        num_data: N, handed to the guide; the result is not scaled by it.
        auxiliary: values of the guide's auxiliary sites, [*S, B, *event] or [*S, *event]; a Delta site is then computed
            from them, whatever its value among the latents.
        num_draws: as for :func:`log_joint`.

    Raises:
        PairError: as :func:`log_joint`; or the guide has an auxiliary site, whose value the latents do not tell.
    """
    shape = structure(pair, x)
    auxiliaries: dict[str, Tensor] = {}
    for info in shape.guide:
        if info.kind == "auxiliary" and info.name in (auxiliary or {}):
            auxiliaries[info.name] = (auxiliary or {})[info.name]
        elif info.kind == "auxiliary":
            raise PairError(
                f"guide site {info.name!r} is auxiliary: log q at given latents is not known without its value"
                + try_one_of("TraceELBO, which needs no log q at given latents", "a guide without auxiliary sites")
            )
    sample_axes, total, flat = _flatten(latents, shape, num_draws)

    def visit(group: slice) -> Sums:
        particles = width_of(group)
        values = {
            info.name: to_pyro(flat[info.name][group], info, shape.nesting)
            for info in shape.guide_latents
            if not (auxiliaries and info.is_a(pyro.distributions.Delta))
        }
        for info in shape.guide:
            if info.name in auxiliaries:
                value = auxiliaries[info.name].reshape(total, *auxiliaries[info.name].shape[len(sample_axes) :])
                values[info.name] = to_pyro(value[group], info, shape.nesting)
        enumerate = bool(shape.guide_summed)
        sites = run_program(pair, "guide", x, num_data, particles, shape.nesting, values, enumerate=enumerate)
        return sum_log_probs(sites, shape, particles)

    sums = over_groups(pair, total, visit)
    log_q = join_sums(sums)
    return log_q.local.reshape(*sample_axes, log_q.local.shape[-1]), log_q.global_.reshape(sample_axes)


class Observation(NamedTuple):
    """The data of an observed site.

    Attributes:
        inside: which of them lie in its support; all that are masked out do.
        support: without the axes that make several entries one event.
        value: the data, with Pyro's axes.
        present: which entries are not masked out, of the value's shape; None where none are.
    """

    inside: Tensor
    support: Constraint
    value: Tensor
    present: Tensor | None


def observed_support(pair: ModelGuidePair, x: Data) -> dict[str, Observation]:
    """The data of each observed site whose distribution says its support.

    A Bernoulli without validation (``allow_grey``) is checked against [0, 1]. A site of which the value or the support
    depends on a latent is left out: what is outside for one draw has no density there (:func:`log_density`), and may be
    inside for another.
    """
    shape = structure(pair, x)
    supports = {}
    in_data = {member.untyped_storage().data_ptr() for member in members_of(x).values()}
    with torch.no_grad(), local_parameters(pair):
        sites = observing_run(pair, x, shape)
        again: Sites | None = None
        for info in shape.observed:
            fn, value = sites[info.name]["fn"], sites[info.name]["value"]
            batch = () if info.data_axis is None else info.batch_shape
            first = next((axis for axis, length in enumerate(batch) if length > 1 or axis == info.data_axis), 0)
            tail = (*batch[first:], *info.event_shape)
            if tuple(value.shape[value.dim() - len(tail) :]) != tail:
                raise PairError(
                    f"observed site {info.name!r}: expected values of shape [{', '.join(map(str, tail))}], found "
                    f"{list(value.shape)}, which would be broadcast"
                    + try_one_of("a batch [B, *event]: x[None] if it is one datum", "obs of the likelihood's shape")
                )
            support = constraints.unit_interval if info.allows_grey else support_of(fn)
            if support is not None:
                if value.untyped_storage().data_ptr() not in in_data or bounds_of(support):
                    again = observing_run(pair, x, shape, other=True) if again is None else again
                    if _moved(sites[info.name], again[info.name]):
                        continue
                base = base_of(support)
                inside, present = base.check(value), entries_present(sites[info.name])
                if present is not None:
                    present = present.expand(value.shape)
                    # One answer for several entries that are an event, such as a row of counts: all of them are gaps.
                    some = present if inside.dim() == value.dim() else present.flatten(inside.dim()).any(-1)
                    inside = inside | ~some
                supports[info.name] = Observation(inside, base, value, present)
    return supports


def _moved(site: Mapping[str, Any], again: Mapping[str, Any]) -> bool:
    """Whether the value or the bounds of an observed site are others in another run."""
    if not torch.equal(site["value"].nan_to_num(), again["value"].nan_to_num()):
        return True
    bounds = [bounds_of(support_of(each["fn"])) for each in (site, again)]
    return len(bounds[0]) != len(bounds[1]) or not all(map(torch.equal, *bounds))


def observing_run(pair: ModelGuidePair, x: Data, shape: Structure, *, other: bool = False) -> Sites:
    """The sites of one run of the model at latents that the guide draws; random numbers are left as they were.

    With ``other``, at other draws than without.
    """
    with torch.random.fork_rng():
        if other:
            torch.manual_seed(torch.initial_seed() + 1)
        guide_sites = run_program(pair, "guide", x, None)
        values = {info.name: guide_sites[info.name]["value"] for info in shape.guide_latents}
        return run_program(pair, "model", x, None, substitute=values)


# --- below: running a program and reading its trace -------------------------------------------------------------


def _flatten(
    latents: Latents, shape: Structure, num_draws: int | None = None
) -> tuple[torch.Size, int, dict[str, Tensor]]:
    """The sample axes of the latents, their product, and the latents with these axes flattened into particles."""
    shape.require_latents(latents)
    axes = {i.name: sample_shape(latents[i.name], i, shape.batch) for i in shape.model_latents}
    distinct = set(axes.values())
    if len(distinct) > 1:
        raise PairError(f"latents disagree in their sample axes: { {n: list(a) for n, a in axes.items()} }")
    sample_axes = next(iter(distinct), torch.Size() if num_draws is None else torch.Size((num_draws,)))
    particles = sample_axes.numel()
    flat = {name: latents[name].reshape(particles, *latents[name].shape[len(sample_axes) :]) for name in axes}
    return sample_axes, particles, flat


def join_groups(groups: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Values of groups of particles, one group after another."""
    if len(groups) == 1:
        return groups[0]
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def present_of(site: dict[str, Any], info: SiteInfo, shape: Structure, particles: int = 1) -> Tensor:
    """Which entries of a site's value are not masked out, [L, B, *event]."""
    present = entries_present(site)
    everywhere = torch.ones_like(site["value"], dtype=torch.bool)
    return to_canonical(everywhere if present is None else everywhere & present, info, shape.nesting, particles)


def over_groups(pair: ModelGuidePair, num_particles: int, visit: Callable[[slice], T]) -> list[T]:
    """``visit`` applied to each group of particles that the programs run with at once: all, or one by one."""
    size = num_particles if pair.vectorizes else 1
    results = []
    for start in range(0, num_particles, size):
        with local_parameters(pair):
            results.append(visit(slice(start, start + size)))
    return results


def _signature(x: Any) -> Any:
    if isinstance(x, Tensor):
        return (tuple(x.shape), x.dtype)
    if isinstance(x, Mapping):
        return tuple((key, _signature(value)) for key, value in x.items())
    if isinstance(x, tuple | list):
        return tuple(_signature(value) for value in x)
    return x if isinstance(x, int | float | str | bool | None) else type(x)
