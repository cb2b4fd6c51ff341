"""Where a guide's draws lie: a value that the prior does not have is refused, by name, before work begins.

Pyro finds such a draw by validation, which is off in recorded functions; and some log densities, an exponential's among
them, are finite outside their support, so that what comes out there would look like log p.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .axes import to_canonical, to_pyro
from .density import draw, over_groups, present_of, structure
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair, batch_size, rows_of
from .site import SiteInfo
from .structure import Structure
from .support import base_of, has_bounds, range_of, support_of
from .tracing import run_model, width_of
from .wrappers import with_axes

_FEW = 8  # data
_DRAWS = (200, 4)  # for each of them: all at once, and one by one

_STRAIGHT_THROUGH = (dist.RelaxedBernoulliStraightThrough, dist.RelaxedOneHotCategoricalStraightThrough)


def check_reach(pair: ModelGuidePair, x: Data, shape: Structure) -> None:
    """Every latent is drawn from the values that its prior has, as far as its supports or a few hundred draws tell.

    Args:
        pair: the pair, of which it is known whether it broadcasts over particles.
        x: a batch, [B, *event].
        shape: of the pair at this batch.

    Raises:
        PairError: a draw outside the support of its prior; a density on one side and probabilities of single values on
            the other; values that are rounded after their density is taken.
    """
    guide = {info.name: info for info in shape.guide_latents}
    open_: list[SiteInfo] = []
    for info in shape.model_latents:
        other = guide[info.name]
        for side in (info, other):
            if side.is_a(*_STRAIGHT_THROUGH):
                raise PairError(
                    f"latent site {info.name!r}: a {side.family_name} has the density of what it was before it was "
                    "rounded, which its value does not tell"
                    + try_one_of(
                        "the relaxed distribution in both programs, without rounding",
                        "Bernoulli or OneHotCategorical in both, with elbo.VIMCO or ReweightedWakeSleep",
                    )
                )
        require_exact_draws(other)
        if info.support is None or other.support is None:
            continue
        point = other.is_a(dist.Delta)  # it says nothing of where it lies
        if not point and info.is_discrete != other.is_discrete:
            kinds = ("discrete", "continuous") if info.is_discrete else ("continuous", "discrete")
            raise PairError(
                f"latent site {info.name!r} is {kinds[0]} in the model ({info.family_name}) and {kinds[1]} in the "
                f"guide ({other.family_name}): p(x, z) / q(z | x) of a probability and a density is no weight"
                + try_one_of(f"a {info.family_name} in the guide too", "the relaxed distribution in both programs")
            )
        if info.name in shape.moving or not _within(constraints.real if point else other.support, info.support):
            open_.append(info)
    if open_:
        with torch.no_grad(), torch.random.fork_rng():
            _check_draws(pair, x, open_, guide)


def require_exact_draws(info: SiteInfo) -> None:
    """What weighs or shows draws takes them for draws from their density.

    Raises:
        PairError: a site with a sampler of PyTorch's that follows another distribution.
    """
    if info.is_a(dist.LKJCholesky) and info.event_shape[-1] > 2:
        raise PairError(
            f"site {info.name!r}: PyTorch draws an LKJCholesky of three dimensions or more from another distribution "
            "than its density: what weighs or shows such draws would be wrong"
            + try_one_of(
                "a guide of another family over the same support: TransformedDistribution(Normal(...), "
                "dist.transforms.CorrCholeskyTransform())",
                "sample_posterior, AIS and bridges from such a guide, which need its density alone",
            )
        )


def _check_draws(pair: ModelGuidePair, x: Data, latents: list[SiteInfo], guide: dict[str, SiteInfo]) -> None:
    rows = torch.linspace(0, batch_size(x) - 1, min(_FEW, batch_size(x))).round().long()  # data may be sorted
    few: Data = rows_of(x, rows)
    try:
        shape = structure(pair, few)
    except Exception:  # parameters for every datum
        few, shape = x, structure(pair, x)
    num_draws = _DRAWS[0] if pair.vectorizes else _DRAWS[1]
    draws = draw(pair, few, num_draws).latents

    def visit(group: slice) -> dict[str, Tensor]:
        values = {i.name: to_pyro(draws[i.name][group], i, shape.nesting) for i in shape.model_latents}
        width = width_of(group)
        sites = run_model(pair, few, shape, values, width)
        found = {}
        for name in (info.name for info in latents):
            site, info = sites[name], shape.site(name)
            value, support = site["value"], support_of(site["fn"])
            assert support is not None  # it had one before
            inside = with_axes(base_of(support).check(value), value.dim()).expand(value.shape)
            found[name] = to_canonical(inside, info, shape.nesting, width) | ~present_of(site, info, shape, width)
        return found

    for inside in over_groups(pair, num_draws, visit):
        for info in latents:
            if not bool(inside[info.name].all()):
                value = draws[info.name].flatten()[(~inside[info.name]).flatten().nonzero()[0]]
                share = float((~inside[info.name]).double().mean())
                raise PairError(
                    f"latent site {info.name!r}: the guide ({guide[info.name].family_name}) draws values outside the "
                    f"support of the prior ({info.family_name}, {info.support}), for instance {float(value):.4g} "
                    f"(about {share:.1%} of them): log p(x, z) is no density there"
                    + try_one_of(
                        "a guide over that support: LogNormal or Gamma above zero, Beta on the unit interval, "
                        "Dirichlet on the simplex",
                        "dist.TransformedDistribution(Normal(...), biject_to(prior.support))",
                        "a Normal in both programs, transformed inside the model",
                    )
                )


def _within(inner: Constraint, outer: Constraint) -> bool:
    """Whether every value of one support is known to be of another, up to single points."""
    inner, outer = base_of(inner), base_of(outer)
    if outer is constraints.real or (issubclass(type(inner), type(outer)) and not has_bounds(outer)):
        return True
    low, high = range_of(inner)
    least, most = range_of(outer)
    if not has_bounds(outer) or not (has_bounds(inner) or inner is constraints.real):
        return False
    return bool((torch.as_tensor(low) >= torch.as_tensor(least)).all()) and bool(
        (torch.as_tensor(high) <= torch.as_tensor(most)).all()
    )
