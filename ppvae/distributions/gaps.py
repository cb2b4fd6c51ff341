r"""Labels with gaps: a discrete site that is observed for some data of a minibatch and not for the others.

In the model, :func:`observe_with_gaps` states $y_b \sim p(y)$ for every datum. Where a label is given it is observed;
where none is, it is summed out, or drawn by a guide that says :func:`draw_gaps`. One minibatch holds both kinds, with
the bounds of Kingma, Rezende, Mohamed & Welling (2014, arXiv 1406.5298), equations 6 and 7.

A gap is declared by a negative label, -1 for instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import OneHotCategorical

from ..core.errors import DataError, try_one_of
from ..core.wrappers import unwrap


def observe_with_gaps(name: str, fn: Any, labels: Tensor) -> Tensor:
    """Sample statement of a model for labels with gaps: the label where it is given, elsewhere a value to sum over.

    Makes the sites ``name_observed`` and ``name_unobserved``, as ``pyro.sample(..., obs_mask=...)`` does; the second is
    summed out exactly unless the guide draws it (``obs_mask`` would forget how it is marked).

    Args:
        name: of the label.
        fn: its distribution, Categorical, Bernoulli or OneHotCategorical (whose labels are whole numbers here, as those
            of a Categorical).
        labels: [B], whole numbers; negative where there is none.

    Raises:
        DataError: labels that are not of one axis, or a distribution that is not of classes.
    """
    present, values = _split(fn, labels)
    observed = pyro.sample(f"{name}_observed", fn.mask(present), obs=values)
    return _choose(fn, present, observed, _drawn(name, fn, present))


def draw_gaps(name: str, fn: Any, labels: Tensor) -> Tensor:
    """Sample statement of a guide beside :func:`observe_with_gaps`: a draw where the label is missing.

    Estimators that can take all values of the draw, each with its probability, instead of one.

    Args:
        name: as in the model; the site is ``name_unobserved``.
        fn: $q(y \\mid x)$.
        labels: as in the model.

    Returns:
        the label where it is given, the draw elsewhere.

    Raises:
        DataError: labels that are not of one axis.

    >>> import pyro.distributions as dist
    >>> draw_gaps("y", dist.OneHotCategorical(torch.tensor([[0.5, 0.5], [0.0, 1.0]])), torch.tensor([0, -1])).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    present, values = _split(fn, labels)
    return _choose(fn, present, values, _drawn(name, fn, present))


def _drawn(name: str, fn: Any, present: Tensor) -> Tensor:
    return pyro.sample(f"{name}_unobserved", fn.mask(~present), infer={"enumerate": "parallel"})


def _choose(fn: Any, present: Tensor, given: Tensor, drawn: Tensor) -> Tensor:
    return torch.where(present.reshape(*present.shape, *(1,) * len(fn.event_shape)), given, drawn)


def require_classes(fn: Any) -> None:
    """Labels are of one class for each datum: a row of 0 and one 1, or a number.

    Raises:
        DataError: a distribution of something else, such as several coins.
    """
    kind = unwrap(fn)
    if fn.event_shape and not isinstance(kind, OneHotCategorical):
        raise DataError(
            f"labels: expected a distribution of one class for each datum, found a {type(kind).__name__} of event "
            f"shape {tuple(fn.event_shape)}" + try_one_of("OneHotCategorical", "Categorical or Bernoulli of no event")
        )


def _split(fn: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where labels are given, and labels as values of the distribution, some value in the gaps."""
    if labels.dim() != 1:
        raise DataError(
            f"labels: expected one for each datum, [B], found {list(labels.shape)}" + try_one_of("labels.reshape(-1)")
        )
    require_classes(fn)
    return labels >= 0, class_values(labels, fn.event_shape, fn.mean.dtype if fn.event_shape else None)


def class_values(labels: Tensor, event_shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Labels [B] as values of a distribution of classes, [B, *event_shape]: rows of 0 and 1, or the numbers.

    Args:
        labels: whole numbers; in a gap, a negative one, some value stands. What is no label is no value of the
            distribution, by which it is found.
        event_shape: of the distribution: its number of classes, or nothing.
        dtype: of the rows.
    """
    values = labels.clamp_min(0)
    if not event_shape:
        return values
    return (values.unsqueeze(-1) == torch.arange(event_shape[-1], device=values.device)).to(
        dtype or torch.get_default_dtype()
    )
