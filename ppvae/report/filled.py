"""Gaps of the data, filled; and values that are known, hidden and filled likewise, so that it shows how well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .described import observed_of
from ..core import ModelGuidePair, Structure
from ..data import Dataset, random_rows
from ..inference import Restoration, inpaint

ROWS = 8
NUM_DATA = 100
HIDDEN = 0.2
"""The probability with which a known value is hidden, for the trial."""


@dataclass(frozen=True, eq=False)
class FilledFindings:
    """Data with gaps and what the model says of these, given what is there.

    Attributes:
        rows: which of the data shown have gaps, the first few, [n].
        x: their values, [n, *event].
        present: which of these are there.
        restoration: the posterior predictive of the gaps, of these rows; None where no datum has a gap.
        truth: known values that were hidden for a trial, [m].
        mean: what the model says of them, [m].
        standard_deviation: how sure it is, [m].
        column: the entry that each is, [m], int64.
        datum: whose it is, [m], int64.
    """

    rows: Tensor
    x: Tensor
    present: Tensor
    restoration: Restoration | None
    truth: Tensor
    mean: Tensor
    standard_deviation: Tensor
    column: Tensor
    datum: Tensor

    @property
    def within_two(self) -> tuple[float, float]:
        """The share of hidden values within two standard deviations of their mean, and its standard error over data."""
        hit = ((self.truth - self.mean).abs() <= 2 * self.standard_deviation).double()
        _, of = self.datum.unique(return_inverse=True)
        sums = torch.zeros(int(of.max()) + 1, 2, dtype=torch.float64)
        sums.index_add_(0, of, torch.stack((hit, torch.ones_like(hit)), 1))
        share = float(hit.mean())
        return share, float((sums[:, 0] - share * sums[:, 1]).square().sum().sqrt()) / len(hit)


def filled_findings(
    pair: ModelGuidePair,
    data: Dataset,
    site: str,
    present: Tensor | None,
    shape: Structure,
    options: Mapping[str, Any],
) -> FilledFindings | None:
    """The gaps of an observed variable, filled; None where its model declares none, or none of single entries.

    Args:
        pair: the pair.
        data: the data shown, with the member that says which entries are there.
        site: the observed variable.
        present: which entries of it are there, [N, *event]; None where all are.
        shape: the pair's structure.
        options: seed and device.
    """
    variable = observed_of(pair, site)
    mask = None if variable is None else variable.mask
    if mask is None or mask not in data.members or data.members[mask].dim() < 2 or not isinstance(data.x, Mapping):
        return None
    x = data.members[site].float()
    here = torch.ones_like(x, dtype=torch.bool) if present is None else present
    weights: dict[str, Any] = {"global_sites": "mean"} if shape.global_latents else {}
    rows = (~here).flatten(1).any(1).nonzero().flatten()[:ROWS]
    again = None if not len(rows) else inpaint(pair, data.take(rows), site=site, **weights, **options)
    few = random_rows(len(data), NUM_DATA)
    generator = torch.Generator().manual_seed(options["seed"])
    hidden = here[few] & (torch.rand(x[few].shape, generator=generator) < HIDDEN)
    hidden &= (here[few] & ~hidden).flatten(1).any(1).reshape(-1, *(1,) * (x.dim() - 1))  # something is left to see
    trial = data.take(few)
    members = trial.members
    members[mask] = (here[few] & ~hidden).to(members[mask].dtype)
    members[site] = members[site].masked_fill(hidden, 0)
    found = inpaint(pair, replace(trial, x=members), site=site, num_draws=0, **weights, **options)
    place = hidden.flatten(1).nonzero()
    return FilledFindings(
        rows,
        x[rows],
        here[rows],
        again,
        x[few][hidden],
        found.mean[hidden],
        found.standard_deviation[hidden],
        place[:, 1],
        place[:, 0],
    )
