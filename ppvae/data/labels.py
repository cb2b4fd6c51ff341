"""Labels of which some are kept, for models that learn from few; and whether data tell theirs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.errors import DataError, try_one_of


def keep_labels(labels: Tensor, count: int, seed: int = 0) -> Tensor:
    """Labels of which so many are kept, the same number of each class; the others are -1, gaps.

    Args:
        labels: [N], whole numbers from 0.
        count: how many are kept, a multiple of the number of classes.
        seed: of the choice.

    Raises:
        DataError: the classes cannot share ``count``, or one has too few labels.

    >>> keep_labels(torch.tensor([0, 1, 1, 0, 1]), 2)
    tensor([ 0, -1, -1, -1,  1])
    """
    kinds = labels.unique()
    each, rest = divmod(count, len(kinds))
    if count < 0 or rest:
        near = max(1, round(count / len(kinds))) * len(kinds)
        raise DataError(
            f"num_labels: {len(kinds)} classes cannot have the same number each of {count} labels"
            + try_one_of(f"num_labels={near}")
        )
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    kept = torch.full_like(labels, -1)
    for kind in kinds.tolist():
        rows = order[labels[order] == kind]
        if len(rows) < each:
            raise DataError(
                f"num_labels: class {kind} has {len(rows)} labels, fewer than the {each} that are asked for"
                + try_one_of(f"num_labels={int(torch.bincount(labels).min()) * len(kinds)}")
            )
        kept[rows[:each]] = kind
    return kept


def tells_labels(members: Mapping[str, Tensor], labels: Tensor) -> bool:
    """Whether a member of the data is their labels: the numbers, some of them gaps, or rows of 0 and 1.

    >>> tells_labels({"x": torch.zeros(2, 4), "label": torch.tensor([-1, 1])}, torch.tensor([0, 1]))
    True
    """
    if labels.dim() != 1:
        return False
    for member in members.values():
        known = member >= 0
        if member.dim() == 1 and bool(known.any()) and torch.equal(member[known], labels[known].to(member)):
            return True
        legal = member.dim() == 2 and 0 <= int(labels.min()) <= int(labels.max()) < member.shape[1]
        if legal and torch.equal(member, torch.eye(member.shape[1]).to(member)[labels.long()]):
            return True
    return False
