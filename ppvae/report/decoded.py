"""Points of a latent space of any dimension, decoded; samples beside their nearest training data."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS, DIMENSIONS, PAIRS = 11, 8, 6
ROWS = 8  # data that are shown in every class
_REACH = (0.01, 0.99)  # quantiles of the prior between which a dimension is run through


def plane(across: Tensor, up: Tensor) -> Tensor:
    """Points of a latent plane at these values of its dimensions, [rows, columns, 2], the second one upwards."""
    second, first = torch.meshgrid(up.flip(0), across, indexing="ij")
    return torch.stack((first, second), -1)


def traversals(latents: Tensor, prior: Tensor, active: Tensor) -> tuple[Tensor, list[int]]:
    """Points where one dimension after the other runs through the prior, the others at those of one datum.

    Args:
        latents: posterior means of data, [N, Z]; the datum is the one nearest to their mean.
        prior: draws from the prior, [S, Z].
        active: variance over data of each dimension's posterior mean, [Z].

    Returns:
        the points, [rows, STEPS, Z], and the dimension of every row, most active first.
    """
    dimensions = active.argsort(descending=True)[:DIMENSIONS].tolist()
    base = latents[average(latents)]
    points = base.expand(len(dimensions), STEPS, -1).clone()
    for row, dimension in enumerate(dimensions):
        low, high = torch.quantile(prior[:, dimension], torch.tensor(_REACH, dtype=prior.dtype)).tolist()
        points[row, :, dimension] = torch.linspace(low, high, STEPS, dtype=points.dtype)
    return points, dimensions


def average(latents: Tensor) -> Tensor:
    """The datum whose latents are the nearest to the mean of all: its place."""
    return (latents - latents.mean(0)).square().sum(1).argmin()


def interpolations(latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Points on straight lines between the posterior means of two data, [rows, STEPS, Z]; and which data, [rows, 2].

    Data of two labels where there are labels, else neighbours in the file.
    """
    rows = torch.arange(min(2 * PAIRS, len(latents) // 2 * 2))
    if labels is not None and labels.dim() == 1 and len(labels.unique()) > 1:
        kinds = [(labels == kind).nonzero()[:, 0] for kind in labels.unique().tolist()]
        order = [kind[place] for place in range(2 * PAIRS) for kind in kinds if place < len(kind)]
        rows = torch.stack(order)[: len(rows)]
    ends = rows.reshape(-1, 2)
    weight = torch.linspace(0, 1, STEPS, dtype=latents.dtype)[:, None]
    first, second = (latents[ends[:, side]].unsqueeze(1) for side in (0, 1))
    return (1 - weight) * first + weight * second, ends


def first_of_each(labels: Tensor) -> Tensor:
    """The first datum of each label, in their order: places, [K]."""
    return torch.stack([(labels == kind).nonzero()[0, 0] for kind in labels.unique().tolist()])


def nearest(samples: Tensor, data: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Of each sample the nearest of the data in Euclidean distance: rows and distances, [S].

    Args:
        samples: [S, *event].
        data: [N, *event].
        seen: which entries of each sample count, [S, *event]; None for all.
    """
    if seen is None:
        distance = torch.cdist(samples.flatten(1).float(), data.flatten(1).float())
    else:
        y, x, weight = (value.flatten(1).double() for value in (samples, data, seen))
        y = y.where(weight > 0, 0.0)
        square = y.square().sum(1, keepdim=True) - 2 * y @ x.mT + weight @ x.square().mT
        distance = square.clamp(min=0).sqrt()
    found = distance.min(1)
    return found.indices, found.values


def reliability(predicted: Tensor, x: Tensor, bins: int = 10, present: Tensor | None = None) -> Tensor:
    r"""Predicted probabilities of binary values against how often these are one, in bins of probability.

    Where z is a draw from the true posterior, x ~ p(x | z) and the frequencies equal the probabilities.

    Args:
        predicted: p(x_d = 1 | z), [N, *event].
        x: zeros and ones, [N, *event].
        bins: of equal width.
        present: which values are there, [N, *event]; None for all.

    Returns:
        a row for every bin that is not empty: the mean probability, the frequency, its standard error (over data,
        whose values depend on each other), and the share of all values, [rows, 4].
    """
    p, x = predicted.flatten(1).double(), x.flatten(1).double()
    place = (p * bins).long().clamp(max=bins - 1)
    there = torch.ones_like(x) if present is None else present.flatten(1).double()
    rows = []
    for number in range(bins):
        inside = (place == number).double() * there
        count = float(inside.sum())
        if count:
            mean, frequency = float((p * inside).sum()) / count, float((x * inside).sum()) / count
            error = float((((x - frequency) * inside).sum(1)).square().sum().sqrt()) / count
            rows.append((mean, frequency, error, count / float(there.sum())))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
