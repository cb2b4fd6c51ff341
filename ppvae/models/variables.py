"""What a variable of a latent-variable model may be: latent, label, observed, covariate, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from ..core.errors import PpvaeError
from ..distributions.conditional import ConditionalDistribution, Given

Part: TypeAlias = ConditionalDistribution | Given
"""A distribution without parents, or one with: ``DiagonalNormal(MLP(2, [8]), 3).given("z")``."""


@dataclass(frozen=True)
class Latent:
    r"""A latent of every datum: its prior p(z | parents) and its posterior q(z | parents).

    Args:
        prior: its parents are variables of the model.
        posterior: its parents are data and other latents. None for a discrete latent that is summed out exactly: see
            :mod:`ppvae.core.enumeration`. Where both stand, an estimator that can takes all values of a discrete one.
    """

    prior: Part
    posterior: Part | None = None


@dataclass(frozen=True)
class Label:
    """A class that is known for some data: observed where its number is given, latent where it is negative.

    A member of the batch, [B], whole numbers: 0, ..., K - 1, or -1 for a gap. Its value, for what depends on it, is
    that of the prior's distribution: a row of 0 and 1 for a OneHotCategorical.

    Args:
        prior: a OneHotCategorical, Categorical or Bernoulli.
        posterior: of the same values, for the gaps; None to sum them out.
    """

    prior: Part
    posterior: Part | None = None


@dataclass(frozen=True)
class Observed:
    """Data: a member of the batch, [B, *event], and their likelihood p(x | parents).

    Args:
        likelihood: of x given its parents.
        mask: the name of a :class:`Mask`: entries where it is 0 are gaps, whatever stands there, NaN included. They
            have no density, and what depends on x in the guide sees 0 there.
        lengths: the name of :class:`Lengths`: steps, on the first axis of the event, at and beyond a datum's length
            are gaps.
    """

    likelihood: Part
    mask: str | None = None
    lengths: str | None = None


@dataclass(frozen=True)
class Features:
    """What a network makes of its parents, computed once for all that depend on it: a shared trunk.

    ``h=Features(MLP(784, [300])).given("x")``

    Args:
        network: takes the values of the parents, in their order.
        parents: their names.
    """

    network: nn.Module
    parents: tuple[str, ...] = ()

    def given(self, *parents: str) -> Features:
        """These features of these variables."""
        return replace(self, parents=parents)


@dataclass(frozen=True)
class Covariate:
    """Data that no distribution describes: a member of the batch, [B, *event_shape], and part of what is given.

    Args:
        event_shape: of one datum, or its number of entries.
    """

    event_shape: int | Sequence[int]

    def __post_init__(self) -> None:
        if math.prod(self.shape) < 1:
            raise PpvaeError(f"Covariate: expected at least one entry, found {self.shape}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one datum."""
        return (self.event_shape,) if isinstance(self.event_shape, int) else tuple(self.event_shape)


@dataclass(frozen=True)
class Exposure(Covariate):
    """What a rate is multiplied by, such as a document's length or a library's size: a positive number, [B].

    Args:
        event_shape: of one datum.
        total_of: the name of an observed variable whose entries it is the sum of, as data: then no member of the batch.
    """

    event_shape: int | Sequence[int] = ()
    total_of: str | None = None


@dataclass(frozen=True)
class Mask:
    """Which entries of an observed variable are there: 1 or True; a member of the batch of that variable's shape.

    Args:
        per_datum: the variable is there or missing as a whole; a member of shape [B].
    """

    per_datum: bool = False


@dataclass(frozen=True)
class Lengths:
    """How many steps each datum has: a member of the batch, [B], whole numbers."""


Variable: TypeAlias = Latent | Label | Observed | Features | Covariate | Exposure | Mask | Lengths
"""What a variable may be."""


class Edge(NamedTuple):
    """A module and the parents whose values it takes.

    Attributes:
        module: a conditional distribution, or the network of features.
        parents: their names.
    """

    module: Any
    parents: tuple[str, ...]


def edges_of(variable: Variable) -> dict[str, Edge]:
    """The modules of a variable by role: "prior" or "likelihood", "posterior", "network"; none where it is data."""
    if isinstance(variable, Features):
        return {"network": Edge(variable.network, variable.parents)}
    parts: dict[str, Part | None] = {}
    if isinstance(variable, Observed):
        parts = {"likelihood": variable.likelihood}
    elif isinstance(variable, Latent | Label):
        parts = {"prior": variable.prior, "posterior": variable.posterior}
    return {
        role: Edge(part.distribution, part.parents) if isinstance(part, Given) else Edge(part, ())
        for role, part in parts.items()
        if part is not None
    }


def event_shape_of(variable: Variable) -> tuple[int, ...] | None:
    """Of one datum, as its prior or likelihood says, or a covariate itself; None where nothing does."""
    for role, edge in edges_of(variable).items():
        if role != "network":
            return tuple(edge.module.event_shape)
    return variable.shape if isinstance(variable, Covariate) else None


def gaps_of(variable: Variable) -> dict[str, type[Mask] | type[Lengths]]:
    """What says where an observed variable has gaps: name to kind."""
    if not isinstance(variable, Observed):
        return {}
    named: dict[str | None, type[Mask] | type[Lengths]] = {variable.mask: Mask, variable.lengths: Lengths}
    return {name: kind for name, kind in named.items() if name is not None}
