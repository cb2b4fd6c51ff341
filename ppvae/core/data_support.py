"""Data against the supports of their likelihoods: all of them, before work begins."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from .density import Observation, observed_support
from .errors import PairError, try_one_of
from .pair import Data, ModelGuidePair, members_of
from .structure import Structure
from .support import bounds_of


class ConstantSupports:
    """The supports of observed sites that are the same for all data, to check further batches against.

    :func:`check_pair` looks at one batch; this runs no program where a site observes a member of the batch as it is, or
    the rows of 0 and 1 of a member of labels, and is quick enough for all data.

    Args:
        pair: the pair.
        x: a batch that :func:`check_pair` accepted.
        observed: its :func:`~ppvae.core.density.observed_support`, where it is known already.
    """

    def __init__(self, pair: ModelGuidePair, x: Data, observed: Mapping[str, Observation] | None = None) -> None:
        members = members_of(x)
        self._pair, self._others = pair, False
        self._supports: list[tuple[str, str, Constraint]] = []
        for name, (_, support, value, present) in (observed or observed_support(pair, x)).items():
            if support is constraints.real:
                continue
            found = [
                (name, key, of)
                for key, member in members.items()
                if (of := _support_of_member(member, support, value, present is not None)) is not None
            ]
            self._supports += found
            self._others |= not found

    def __bool__(self) -> bool:
        return bool(self._supports) or self._others

    def check(self, x: Data, first_row: int = 0) -> None:
        """Check a batch against them.

        Args:
            x: the batch.
            first_row: number of its first datum, for the message.

        Raises:
            PairError: a value outside the support of its likelihood; names the site, the datum and the value.
        """
        self.check_members(x, first_row)
        where = f"; among data {first_row} and on" if first_row else ""
        for name, (inside, support, value, _) in observed_support(self._pair, x).items() if self._others else ():
            if not bool(inside.all()):
                raise support_error(name, inside, support, value, where)

    def check_members(self, x: Data, first_row: int = 0) -> None:
        """As :meth:`check`, of what is observed as it stands in the batch."""
        for name, key, support in self._supports:
            value = members_of(x)[key]
            inside = support.check(value)
            if not bool(inside.all()):
                row = first_row + int((~inside).reshape(len(inside), -1).any(1).nonzero()[0])
                raise support_error(name, inside, support, value, f"; the first is in datum {row}")


class _Labels(Constraint):
    """Whole numbers 0, 1, ..., K - 1, and others below zero where there may be gaps."""

    is_discrete = True

    def __init__(self, num_classes: int, gaps: bool) -> None:
        self.num_classes, self.gaps = num_classes, gaps
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return (value == value.round()) & (value < self.num_classes) & ((value >= 0) | self.gaps)

    def __str__(self) -> str:
        return f"labels 0, 1, ..., {self.num_classes - 1}" + (", and -1 where there is none" if self.gaps else "")


def _support_of_member(member: Tensor, support: Constraint, value: Tensor, gaps: bool) -> Constraint | None:
    """What a member of a batch has to be, where a site of this support observes it; None where it does not."""
    if support is constraints.one_hot and member.dim() == 1:
        size = value.shape[-1]
        rows = member.clamp_min(0)[:, None] == torch.arange(size, device=member.device)
        same = rows.numel() == value.numel() and torch.equal(rows.to(value.dtype).reshape(value.shape), value)
        return _Labels(size, gaps) if same else None
    if support not in _CONSTANT or member.numel() != value.numel():
        return None
    return support if torch.equal(member.to(value.dtype).reshape(value.shape), value) else None


_CONSTANT = (
    constraints.boolean,
    constraints.unit_interval,
    constraints.nonnegative_integer,
    constraints.positive_integer,
    constraints.positive,
    constraints.nonnegative,
)


_BINARY = (
    'binarised data: load(..., binarize="static")',
    "a likelihood for these values: ContinuousBernoulli or Normal for grey values",
    "Bernoulli(..., allow_grey=True) for the paper's cross-entropy on grey values",
)
_COUNTS = (
    "whole numbers from 0 on: x.round()",
    "counts as int32 or floats: uint8 values are read as bytes, and divided by 255",
    "a likelihood for these values: Normal, or LogNormal above zero",
)
_LABELS = ("labels.unique(return_inverse=True)[1], numbers from 0 on", "a model of as many classes as there are")
_REMEDIES: dict[Constraint, tuple[str, ...]] = {
    constraints.boolean: _BINARY,
    constraints.unit_interval: ("values scaled to [0, 1]: x / x.max()", *_BINARY[:2]),
    constraints.nonnegative_integer: _COUNTS,
    constraints.positive_integer: _COUNTS,
    constraints.positive: ("values above zero", "a likelihood over all real numbers, such as Normal"),
    constraints.nonnegative: ("values from zero on", "a likelihood over all real numbers, such as Normal"),
    constraints.one_hot: ("rows of one 1 and zeros: torch.eye(K)[labels]", "labels 0, 1, ..., K - 1"),
}


def support_error(name: str, inside: Tensor, support: Constraint, value: Tensor, where: str = "") -> PairError:
    """Data that their likelihood does not have."""
    outside = value[~inside] if inside.shape == value.shape else value
    remedies = _REMEDIES.get(support, ("a likelihood for these values", "data of another scale or coding"))
    return PairError(
        f"site {name!r}: expected data in the support of its likelihood ({_in_words(support)}), found "
        f"{int((~inside).sum())} values outside it, for instance {float(outside.flatten()[0]):g}{where}"
        + try_one_of(*(_LABELS if isinstance(support, _Labels) else remedies))
    )


def _in_words(support: Constraint) -> str:
    if any(bound.numel() > 1 for bound in bounds_of(support)):
        return f"{type(support).__name__.strip('_')}, with bounds for every datum"
    return str(support)


def check_data(pair: ModelGuidePair, x: Data, shape: Structure) -> None:
    """Data that a likelihood does not have, or that leave the interval of its mean.

    Raises:
        PairError: there are such; names the site and a value.
    """
    observed = observed_support(pair, x)
    ConstantSupports(pair, x, observed).check_members(x)
    for name, (inside, support, value, _) in observed.items():
        if not bool(inside.all()):
            raise support_error(name, inside, support, value)
        for module in () if pair.noisy else pair.modules():
            span = getattr(module, "mean_range", None)
            if span is None or getattr(module, "event_shape", None) != shape.site(name).event_shape:
                continue
            if bool((value < span[0]).any()) or bool((value > span[1]).any()):
                raise PairError(
                    f"site {name!r}: the likelihood's mean lies in {span}, which values from {float(value.min()):g} to "
                    f"{float(value.max()):g} leave" + try_one_of('mean="identity"', "data scaled to the unit interval")
                )
