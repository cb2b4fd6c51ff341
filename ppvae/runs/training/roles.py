"""From data to the members of a batch that a described model asks for: labels with gaps, masks, lengths, ..."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DataError, try_one_of
from ...data import Dataset, keep_labels
from ...models import Exposure, Label, LatentModel, Lengths, Mask, Observed
from ...models.description import Description
from ...models.variables import Variable, event_shape_of, gaps_of

_SAID = {"seen": "gaps", "lengths": "sequences of several lengths"}
"""Members by the suite's convention that change what the others mean."""


def in_roles(data: Dataset, pair: Any, *, num_labels: int | None = None, seed: int = 0) -> Dataset:
    """The data with a member for every variable of a described model that is data.

    Rows without a name are the first observed variable. What the data do not hold by its name is found so:

    - a :class:`~ppvae.models.Label` is the labels, of which training knows ``num_labels``, the same number for each
      class; those of held-out data are gaps, which is what they are for;
    - a :class:`~ppvae.models.Covariate` or a further observed variable of K entries is the labels as rows of 0 and 1;
    - a :class:`~ppvae.models.Mask` says that all is there, :class:`~ppvae.models.Lengths` that all steps are.

    Args:
        data: with its held-out parts.
        pair: any; one that is not described gets the data as they are.
        num_labels: how many labels training knows; None for all.
        seed: of the choice.

    Raises:
        DataError: a variable is in none of these ways in the data, or the data have gaps or lengths that the model
            would read as values.
    """
    description = pair.description if isinstance(pair, LatentModel) else None
    labelled = description is not None and bool(description.named(Label))
    if num_labels is not None and not labelled:
        raise DataError(
            "data.num_labels: the model has no label with gaps"
            + try_one_of("--model semi-supervised-vae", "no num_labels")
        )
    if description is None or isinstance(data.x, tuple):
        return data
    for name in set(_SAID) & set(data.members) - set(description.data):
        raise DataError(
            f"{data.name}: has {_SAID[name]} (member {name!r}), which the model would take for values"
            + try_one_of("--model missing-data-vae" if name == "seen" else "--model deep-markov-model", "--model list")
        )
    if num_labels is not None and set(description.named(Label)) <= set(data.members):
        raise DataError(
            f"data.num_labels: {data.name} itself says which labels are known" + try_one_of("no num_labels")
        )
    if isinstance(data.x, Tensor) and len(description.data) == 1:
        return data

    def part(one: Dataset, known: int | None) -> Dataset:
        members = one.members if isinstance(one.x, Mapping) else {description.named(Observed)[0]: one.members[one.main]}
        marks = set(description.named(Mask, Lengths))  # which have the shapes of the others
        for name in sorted(description.data, key=marks.__contains__):
            if name not in members:
                members[name] = _found(name, description, one, members, known, seed)
        return replace(one, x=members)

    held_out = [None if one is None else part(one, 0) for one in (data.validation, data.test)]
    return replace(part(data, num_labels), validation=held_out[0], test=held_out[1])


def labels_known(data: Dataset, pair: Any) -> Tensor:
    """For every datum a number that says which of its labels are known, [N].

    Raises:
        DataError: the model has no label with gaps.
    """
    names = pair.description.named(Label) if isinstance(pair, LatentModel) else []
    if not names:
        raise DataError(
            "training.labels_apart: the model has no label with gaps"
            + try_one_of("--model semi-supervised-vae", "no labels_apart")
        )
    return torch.stack([(data.members[name] >= 0) * 2**i for i, name in enumerate(names)]).sum(0)


def _found(
    name: str, description: Description, data: Dataset, members: dict[str, Tensor], known: int | None, seed: int
) -> Tensor:
    """A member that the data do not hold by its name."""
    variable: Variable = description.variables[name]
    if isinstance(variable, Label):
        labels = _labels(name, "a label", data)
        return labels if known is None else keep_labels(labels, known, seed)
    if isinstance(variable, Mask | Lengths):
        observed = description.named(Observed)
        x = members[next((n for n in observed if name in gaps_of(description.variables[n])), observed[0])]
        if isinstance(variable, Lengths):
            return torch.full((len(x),), x.shape[1])
        return torch.ones(x.shape[:1] if variable.per_datum else x.shape, dtype=torch.bool)
    shape = event_shape_of(variable) or ()
    if isinstance(variable, Exposure) or len(shape) != 1:
        raise DataError(
            f"{data.name}: has no member {name!r} ({type(variable).__name__}), found {', '.join(map(repr, members))}"
            + try_one_of(f"an .npz file with an array {name!r}")
        )
    labels = _labels(name, f"{shape[0]} classes, one for each datum", data)
    if int(labels.max()) >= shape[0]:
        raise DataError(f"{data.name}: {name!r} has {shape[0]} entries, but labels go up to {int(labels.max())}.")
    return torch.eye(shape[0])[labels]


def _labels(name: str, what: str, data: Dataset) -> Tensor:
    if data.labels is None or data.labels.dim() != 1:
        raise DataError(
            f"{data.name}: has no labels, and {name!r} of the model is {what}"
            + try_one_of(
                "--data digits", "--data mnist", f"an .npz file with an array {name!r}", "a column called label"
            )
        )
    return data.labels.long()
