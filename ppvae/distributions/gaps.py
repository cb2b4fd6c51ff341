r"""Labels with gaps: a discrete site that is observed for some data of a minibatch and not for the others.

In the model, :func:`observe_with_gaps` states $y_b \sim p(y)$ for every datum. Where a label is given it is observed;
where none is, it is summed out, or drawn by a guide that says :func:`draw_gaps`. One minibatch holds both kinds, with
the bounds of Kingma, Rezende, Mohamed & Welling (2014, arXiv 1406.5298), equations 6 and 7.

A gap is declared by its value: NaN in floating-point labels, a negative number in whole ones.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from torch import Tensor

from ..core.errors import DataError, try_one_of


def observe_with_gaps(name: str, fn: Any, labels: Tensor) -> Tensor:
    """Sample statement of a model for labels with gaps: the label where it is given, elsewhere a value to sum over.

    Makes the sites ``name_observed`` and ``name_unobserved``, as ``pyro.sample(..., obs_mask=...)`` does; the second is
    summed out exactly unless the guide draws it (``obs_mask`` would forget how it is marked).

    Args:
        name: of the label.
        fn: its distribution, Categorical, Bernoulli or OneHotCategorical (whose labels are whole numbers here, as those
            of a Categorical).
        labels: [B]; NaN or negative where there is none.

    Raises:
        DataError: labels that are not of one axis, or not whole numbers.

    >>> import pyro.distributions as dist
    >>> from pyro import poutine
    >>> model = lambda: observe_with_gaps("y", dist.Categorical(torch.ones(3) / 3).expand([2]), torch.tensor([2, -1]))
    >>> poutine.trace(model).get_trace().nodes["y_observed"]["value"].tolist()
    [2, 0]
    """
    present, values = _split(fn, labels)
    observed = pyro.sample(f"{name}_observed", fn.mask(present), obs=values)
    drawn = pyro.sample(
        f"{name}_unobserved", fn.mask(~present), infer={"enumerate": "parallel"}
    )  # which obs_mask forgets
    return _choose(fn, present, observed, drawn)


def draw_gaps(name: str, fn: Any, labels: Tensor) -> Tensor:
    """Sample statement of a guide beside :func:`observe_with_gaps`: a draw where the label is missing.

    Estimators that can take all values of the draw, each with its probability, instead of one.

    Args:
        name: as in the model; the site is ``name_unobserved``.
        fn: $q(y \\mid x)$.
        labels: as in the model.

    Returns:
        the label where it is given, the draw elsewhere.
    """
    present, values = _split(fn, labels)
    drawn = pyro.sample(f"{name}_unobserved", fn.mask(~present), infer={"enumerate": "parallel"})
    return _choose(fn, present, values, drawn)


def _choose(fn: Any, present: Tensor, given: Tensor, drawn: Tensor) -> Tensor:
    return torch.where(present.reshape(*present.shape, *(1,) * len(fn.event_shape)), given, drawn)


def _split(fn: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Where labels are given, and labels as values of the distribution, some value in the gaps."""
    if labels.dim() != 1:
        raise DataError(
            f"labels: expected one for each datum, [B], found {list(labels.shape)}" + try_one_of("labels.reshape(-1)")
        )
    present = ~labels.isnan() & (labels >= 0) if labels.is_floating_point() else labels >= 0
    values = torch.where(present, labels, torch.zeros_like(labels))
    if fn.event_shape:
        one_hot = torch.eye(fn.event_shape[-1], dtype=fn.mean.dtype, device=values.device)
        return present, one_hot[values.long()]  # torch's one_hot looks at values, and cannot be captured
    return present, values
