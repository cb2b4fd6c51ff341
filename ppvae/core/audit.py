"""Do a pair's programs state densities? Refuses, by name, the idioms of Pyro with which they do not."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from .compile import bind, state_of
from .density import draw, log_guide, log_joint, structure
from .errors import ONE_DATUM, PairError, place_of, try_one_of
from .factorization import require_factorization
from .independent_runs import require_fresh_draws, require_separate_programs
from .masked_data import masked_data_error, reads_masked, require_gaps_beside_values
from .pair import Data, ModelGuidePair, batch_size, rows_of
from .parameters import local_parameters
from .site import SiteInfo
from .structure import Structure
from .summed import terms_at_draw
from .terms import Draw

_log = logging.getLogger("ppvae.check")
_FEW = 8  # data that the programs are run on again


def audit(pair: ModelGuidePair, x: Data, shape: Structure) -> None:
    """Refuse, by name, programs whose traces add up to something else than log p(x, z) and log q(z | x).

    First the sites are checked, and what depends on masked entries; then, once for each structure of a few data, both
    programs are run again on these: with one particle and with several, datum by datum and together.

    Args:
        pair: the pair.
        x: a batch, [B, *event].
        shape: of the pair at this batch.

    Raises:
        PairError: names the site, what was found and what to do.
    """
    check_plates(shape)
    check_priors(shape)
    check_guide(shape)
    sites = _sites(shape)
    if shape.enumerated and sites not in pair._audits:  # first of all: it sees what does not fit into memory
        with torch.no_grad(), torch.random.fork_rng(), _one_by_one(pair):
            _check_sum(pair, *_few_draws(pair, x))
    if any(info.masked for info in (*shape.model_latents, *shape.enumerated, *shape.guide_latents)):
        # On all data, at every call: the masks depend on the data.
        with torch.no_grad(), torch.random.fork_rng(), _one_by_one(pair):
            _check_masks(pair, x, draw(pair, x, 2))
    if any(info.masked for info in shape.observed):
        with torch.no_grad(), torch.random.fork_rng(), _one_by_one(pair):
            require_gaps_beside_values(pair, x)
            for name, moved in reads_masked(pair, x).items():
                if bool(moved.any()):
                    raise masked_data_error(name, int(moved.nonzero()[0]))
    if sites in pair._audits or not (shape.model_latents or shape.enumerated):
        return
    _warn_scales(pair, shape)
    with torch.no_grad(), torch.random.fork_rng():
        with _one_by_one(pair):
            few, draws = _few_draws(pair, x)
            of_few = _sites(structure(pair, few))
            if of_few in pair._audits:  # those of a batch of another size, which would be run alike
                pair._audits.add(sites)
                return
            apart = _densities(pair, few, draws)
            _check_noise(pair, few, draws, apart)
            if not shape.one_datum and not (few is not x and _check_rows(pair, few, draws)):
                _check_others(pair, few, draws)
            state = _perturbed(pair)
            bind(pair, require_separate_programs)(state, few, draws)
            bind(pair, require_factorization)(state, few, draws.latents, structure(pair, few))
        if pair.vectorizes:
            _check_particles(pair, few, draws, apart)
        if pair.vectorizes:
            with local_parameters(pair):
                require_fresh_draws(pair, few, structure(pair, few))
    pair._audits |= {sites, of_few}


def _sites(shape: Structure) -> tuple[SiteInfo, ...]:
    """What tells one structure from another; supports may hold tensors."""
    return tuple(replace(info, support=None) for info in (*shape.model, *shape.guide))


def check_plates(shape: Structure) -> None:
    """No plate other than that over data is subsampled."""
    for info in (*shape.model, *shape.guide):
        if info.subsampled_plates:
            raise PairError(
                f"site {info.name!r}: the plate {info.subsampled_plates[0]!r} shows a part of its entries only, so "
                "that log p(x, z) would be an estimate, whose exponential is no density: expected all of them"
                + try_one_of(
                    f"pyro.plate({info.subsampled_plates[0]!r}, size) without subsample_size",
                    "make it the plate over data, whose minibatches `fit` draws by itself",
                )
            )


def check_priors(shape: Structure) -> None:
    """Every latent has a prior that integrates to one."""
    for info in shape.model_latents:
        if info.is_a(dist.ImproperUniform):
            raise PairError(
                f"latent site {info.name!r} has an improper prior (ImproperUniform): log p(x, z) is known up to an "
                "infinite constant, so that there is no evidence and no bound of it"
                + try_one_of("a proper prior, such as a wide Normal", "a pyro.param, for a point estimate")
            )
        if info.is_a(dist.VonMises, dist.VonMises3D, dist.SineBivariateVonMises):
            raise PairError(
                f"latent site {info.name!r} lies on a circle ({info.family_name}), which PyTorch takes for a line: its "
                "density repeats there, so that the chains wander and the integral over the line is infinite"
                + try_one_of("a Normal in the plane, and its direction", "a Normal angle, where it is concentrated")
            )


def check_guide(shape: Structure) -> None:
    """The guide is a density over the latents: no factor, no observed site, no point mass on a continuous latent."""
    names = {info.name for info in shape.model}
    for info in shape.guide:
        if info.kind == "observed" and info.name not in names:
            what = "is a factor (pyro.factor)" if 0 in info.event_shape else "is observed"
            raise PairError(
                f"guide site {info.name!r} {what}: log q(z | x) would not be the log density of what the guide draws"
                + try_one_of("put the factor into the model", "a sample statement without obs in the guide")
            )
    points = [
        latent
        for info in shape.guide_latents
        if info.is_a(dist.Delta)
        for latent in shape.model_latents
        if latent.name == info.name and not latent.is_discrete
    ]
    auxiliaries = [info for info in shape.guide if info.kind == "auxiliary" and not info.is_a(dist.Delta)]
    auxiliary_size = sum(math.prod(info.batch_shape) * math.prod(info.event_shape) for info in auxiliaries)
    if sum(_dimensions(info) for info in points) > auxiliary_size:
        raise PairError(
            f"guide site {points[0].name!r} is a point (Delta) and no auxiliary site of the guide stands behind it: it "
            "has no density, so that there is neither a bound nor an importance weight"
            + try_one_of(
                "a guide with a spread: AutoNormal, or a Normal whose scale is learned",
                "for a posterior mode alone: stock pyro.infer.SVI with this guide",
                "for the mode of weights under a prior: fit(weight_prior=...)",
            )
        )


def _dimensions(info: SiteInfo) -> int:
    """Unconstrained numbers of a latent, over its plates."""
    if info.support is None:
        return math.prod(info.batch_shape) * math.prod(info.event_shape)
    return math.prod(biject_to(info.support).inverse_shape(torch.Size((*info.batch_shape, *info.event_shape))))


def _warn_scales(pair: ModelGuidePair, shape: Structure) -> None:
    if shape.scaled:
        _log.warning(
            "%s weights %s by poutine.scale, which is no part of a density: evidence, sampling, checks and reported "
            "bounds are without it; `fit` ascends the objective with it",
            type(pair).__name__,
            ", ".join(sorted({f"site {info.name!r}" for info in shape.scaled})),
        )


def _few_draws(pair: ModelGuidePair, x: Data) -> tuple[Data, Draw]:
    """A few data with two draws; all data where there are parameters for each."""
    few: Data = rows_of(x, torch.arange(min(_FEW, batch_size(x))))
    draws = _draws(pair, few)
    return (x, draw(pair, x, 2)) if draws is None else (few, draws)


def _draws(pair: ModelGuidePair, few: Data) -> Draw | None:
    """Two draws for a few data; None where the programs cannot be run on so few."""
    try:
        shape = structure(pair, few)
    except Exception:
        return None
    size = batch_size(few)
    local = [info for info in (*shape.model, *shape.guide) if info.scope == "local"]
    if shape.batch != size or any(info.num_data not in (None, size) for info in local):
        return None
    return draw(pair, few, 2)


def _check_noise(pair: ModelGuidePair, few: Data, draws: Draw, before: dict[str, Tensor]) -> None:
    """Two evaluations of a density at the same values agree."""
    for name, value in _densities(pair, few, draws).items():
        if not _close(value, before[name]):
            raise PairError(
                f"{name} at the same values is {float(before[name][0, 0]):.6g} and then {float(value[0, 0]):.6g}: the "
                "programs draw noise that is in no sample statement, change a value in place, or count their calls"
                + try_one_of(
                    "pyro.sample for what is random",
                    "z * 2 for z.mul_(2)",
                    "no state that a run of the program changes",
                )
            )


def _check_rows(pair: ModelGuidePair, few: Data, draws: Draw) -> bool:
    """A datum by itself has the densities that it has among others, in any place; False where none can be run so."""
    if batch_size(few) == 1:
        return True
    state, densities = _perturbed(pair), bind(pair, _densities)
    together = densities(state, few, draws)
    shape = structure(pair, few)
    local = {info.name for info in (*shape.model_latents, *shape.guide) if info.scope == "local"}
    last = batch_size(few) - 1
    for row in (0, last):
        x = rows_of(few, torch.tensor([row]))
        if _draws(pair, x) is None:
            return False
        _check_shared(shape, structure(pair, x), batch_size(few))

        def of_row(values: Mapping[str, Tensor], row: int = row) -> dict[str, Tensor]:
            return {name: value[:, row : row + 1] if name in local else value for name, value in values.items()}

        row_draws = draws._replace(latents=of_row(draws.latents), auxiliary=of_row(draws.auxiliary))
        for name, own in densities(state, x, row_draws).items():
            if not _close(own[:, 0], together[name][:, row]):
                raise PairError(
                    f"{name} of a datum is {float(own[0, 0]):.6g} by itself and {float(together[name][0, row]):.6g} "
                    f"in row {row} of {last + 1}: its terms must depend neither on the other data nor on its place"
                    + try_one_of(
                        ".to_event(...) over all axes of an event that no plate has",
                        "no mean, sum or normalisation over axis 0 in the programs",
                        "a network of x instead of a parameter for every datum",
                    )
                )
    return True


def _check_others(pair: ModelGuidePair, x: Data, draws: Draw) -> None:
    """Where no datum can be run by itself: another value and other latents of one leave the terms of the others."""
    shape = structure(pair, x)
    before = log_joint(pair, x, draws.latents, num_draws=2).local[0]
    for row in {0, shape.batch - 1} if shape.batch > 1 else ():
        rows = torch.arange(shape.batch)
        rows[row] = shape.batch - 1 - row
        latents = {info.name: draws.latents[info.name].clone() for info in shape.model_latents}
        for info in shape.local_latents:
            latents[info.name][0, row] = latents[info.name][1, row]
        after = log_joint(pair, rows_of(x, rows), latents, num_draws=2).local[0]
        others = rows != -1
        others[row] = False
        if not _close(after[others], before[others]):
            moved = int((~torch.isclose(after, before, rtol=1e-3, atol=1e-3) & others).nonzero()[0])
            raise PairError(
                f"log p(x, z) of datum {moved} is {float(before[moved]):.6g}, and {float(after[moved]):.6g} once datum "
                f"{row} and its latents are other ones: its terms must not depend on the other data"
                + try_one_of(
                    "no cumsum, mean, sum or normalisation over the axis of the data in the model",
                    ONE_DATUM,
                )
            )


def _check_shared(shape: Structure, of_one: Structure, size: int) -> None:
    """What stands outside the plate over data is shared by all of them, whatever their number."""
    for info in shape.global_latents:
        alone = of_one.site(info.name).shape
        if alone != info.shape:
            raise PairError(
                f"latent site {info.name!r} stands outside the plate over data, {shape.data_plate!r}, and has values "
                f"of shape {list(info.shape)} for {size} data and {list(alone)} for one: expected the same, or it "
                f"inside that plate, found plates {list(info.plates)}"
                + try_one_of(
                    'one plate for all: data = pyro.plate("data", len(x)), then "with data: ..." around each site',
                    ONE_DATUM,
                )
            )


def _perturbed(pair: ModelGuidePair) -> dict[str, Tensor]:
    """The state with other parameters: those of a start are often equal, or zero."""
    return {**state_of(pair), **{name: _perturb(value.detach()) for name, value in pair.named_parameters()}}


def _perturb(value: Tensor) -> Tensor:
    noise = torch.randn_like(value)
    return torch.where(value == 0, 0.05 * noise, value * (1 + 0.05 * noise))


def _check_sum(pair: ModelGuidePair, few: Data, draws: Draw) -> None:
    """At drawn values of the sites that are summed out, the model run as it stands agrees with the terms of the sum.

    Then it reads an enumerated site, whose axis of values stands far left and whose plates have one entry, as it reads
    a drawn one.
    """
    shape = structure(pair, few)
    try:
        inside, alone = terms_at_draw(pair, few, {name: value[0] for name, value in draws.latents.items()})
    except PairError:
        raise
    except Exception as error:
        raise PairError(
            f"{_names(shape)}: the model fails where it has an axis for its values, to the left of all plates: "
            f"{type(error).__name__}: {error}" + place_of(error) + try_one_of(*_READ_VALUES)
        ) from error
    if not _close(inside, alone):
        raise PairError(
            f"{_names(shape)}: with one value for each datum the model's log p is {float(alone[0, 0]):.6g}, and "
            f"{float(inside[0, 0]):.6g} as a term of the sum over all values: the program reads values in another way "
            "when they have an axis on the left" + try_one_of(*_READ_VALUES)
        )


_READ_VALUES = (
    "Vindex(table)[y] for table[y] (pyro.ops.indexing), and .unsqueeze(-1) for the axes of an event",
    "no sum, mean, reshape or branch over the axes of plates",
)


def _names(shape: Structure) -> str:
    return ", ".join(f"latent site {info.name!r}" for info in shape.enumerated)


def _check_masks(pair: ModelGuidePair, few: Data, draws: Draw) -> None:
    """Both programs mask the same entries, and nothing depends on them: it would be integrated over a flat density."""
    terms = log_joint(pair, few, draws.latents)
    for name in terms.present.keys() | draws.present.keys():
        sides = [side.get(name) for side in (terms.present, draws.present)]
        if sides[0] is None or sides[1] is None or not torch.equal(sides[0], sides[1]):
            raise PairError(
                f"latent site {name!r} is masked out in other entries in the model than in the guide: "
                "p(x, z) / q(z | x) would weigh entries that one side alone has"
                + try_one_of("the same poutine.mask around the site in both programs")
            )
    for name, present in terms.present.items():
        value = draws.latents[name]
        latents = {**draws.latents, name: torch.where(present, value, value.flip(0))}
        if not _close(terms.local, log_joint(pair, few, latents).local):
            raise _depends_on_masked(name, "leave the prior unmasked and mask the observations alone")
    for info in structure(pair, few).enumerated:
        if info.masked:
            ends = [log_joint(pair, few, draws.latents, stand_in=value).local for value in (0, info.num_values - 1)]
            if not _close(*ends):
                raise _depends_on_masked(info.name, "obs=..., obs_mask=... at the site, where some values are observed")


def _depends_on_masked(name: str, remedy: str) -> PairError:
    return PairError(
        f"latent site {name!r} is masked out in part, and the rest of the model depends on what is masked: "
        "log p(x, z) is no density there" + try_one_of("mask the sites that depend on it too", remedy)
    )


def _check_particles(pair: ModelGuidePair, few: Data, draws: Draw, apart: dict[str, Tensor]) -> None:
    """Two particles at once have the densities of one at a time, in both programs; else particles run one by one."""
    reason = ""
    try:
        draw(pair, few, 2)
        together = _densities(pair, few, draws)
        wrong = [name for name, value in apart.items() if not _close(together[name], value)]
        if wrong:
            reason = f"{wrong[0]} changes under one more plate on the left"
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
    if reason:
        pair.vectorizes = False
        _log.warning(
            "%s does not broadcast over particles, so these run one by one, more slowly (%s)",
            type(pair).__name__,
            reason,
        )


@contextlib.contextmanager
def _one_by_one(pair: ModelGuidePair) -> Iterator[None]:
    """Inside, particles run one by one."""
    before, pair.vectorizes = pair.vectorizes, False
    try:
        yield
    finally:
        pair.vectorizes = before


def _densities(pair: ModelGuidePair, x: Data, draws: Draw) -> dict[str, Tensor]:
    """Both programs at given values, [K, B]."""
    num_draws = len(draws.log_q)
    joint = log_joint(pair, x, draws.latents, num_draws=num_draws)
    local, global_ = log_guide(pair, x, draws.latents, auxiliary=draws.auxiliary, num_draws=num_draws)
    return {"log p(x, z)": joint.local + joint.global_[:, None], "log q(z | x)": local + global_[:, None]}


def _close(a: Tensor, b: Tensor) -> bool:
    # A datum of zero density is the same -inf both ways.
    return a.shape == b.shape and bool(torch.isclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True).all())
