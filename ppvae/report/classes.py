"""Data of each class as the model makes them: p(x | class), wherever the class stands in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical, OneHotCategorical

from .decoded import first_of_each
from .described import covariates_of, description_of
from ..core import ModelGuidePair, Structure
from ..data import Dataset, tells_labels
from ..distributions.gaps import class_values
from ..inference import ConditionalPrediction, DiscretePosterior, generate, predict_given
from ..models import Label
from ..models.variables import event_shape_of

COLUMNS = 12
MOST = 20
"""Classes that a person would look through."""
_DRAWS = 1000  # of likelihood weighting, for each class
_CHUNK = 5


@dataclass(frozen=True, eq=False)
class ClassFindings:
    """New data of each class.

    Attributes:
        name: of the variable or site that is the class.
        kind: "given" (a covariate), "known" (a label, or an observed class) or "found" (a latent, whose classes have no
            names).
        names: of the classes.
        samples: means of p(x | z, class) for z from p(z | class), [classes, COLUMNS, *event].
        effective_sample_size: of the weights, the smallest; None where the draws are independent.
        left_out: classes whose draws cannot be trusted.
    """

    name: str
    kind: str
    names: tuple[str, ...]
    samples: Tensor
    effective_sample_size: float | None = None
    left_out: tuple[str, ...] = ()


def class_findings(
    pair: ModelGuidePair,
    data: Dataset,
    site: str,
    shape: Structure,
    discrete: DiscretePosterior | None,
    options: Mapping[str, Any],
) -> ClassFindings | None:
    """New data of the observed site for each class; None where the model has no class.

    A class is, the first of these that there is: a covariate that is the labels; a label with gaps; a further observed
    site that is a category; the only discrete latent with one value for each datum.
    """
    given = {name: data.members[name] for name in covariates_of(pair) if name in data.members}
    labels = data.labels
    if labels is not None and tells_labels(given, labels) and len(labels.unique()) <= MOST:
        firsts = first_of_each(labels)
        like = Dataset(data.batch(firsts.repeat_interleave(COLUMNS)))
        made = generate(pair, COLUMNS * len(firsts), like=like, site=site, **options)
        names = tuple(f"{kind:g}" for kind in labels.unique().tolist())
        return ClassFindings(" and ".join(given), "given", names, made.unflatten(0, (len(firsts), COLUMNS)))
    found = _label(pair, data, site, options) or _observed(pair, data, site, shape, options)
    if found is not None or discrete is None:
        return found
    values = [(name, v) for name, v in discrete.support.items() if discrete.probabilities[name].dim() == 2]
    if len(discrete.support) != 1 or not values or len(values[0][1]) > MOST:
        return None
    name, support = values[0]
    return _findings(name, "found", len(support), _predict(pair, {name: support}, data, site, options))


def _label(pair: ModelGuidePair, data: Dataset, site: str, options: Mapping[str, Any]) -> ClassFindings | None:
    """A label with gaps, known for rows like which the data are to be."""
    description = description_of(pair)
    names = [] if description is None else description.named(Label)
    if description is None or len(names) != 1 or names[0] not in data.members:
        return None
    event = event_shape_of(description.variables[names[0]]) or ()
    number = event[-1] if event else int(data.members[names[0]].max()) + 1
    if not 2 <= number <= MOST:
        return None
    kinds = torch.arange(number)
    batch = data.batch(torch.zeros(number, dtype=torch.int64))
    assert isinstance(batch, dict)
    like = Dataset({**batch, names[0]: kinds.to(batch[names[0]])})
    values = {f"{names[0]}_observed": class_values(kinds, event, torch.get_default_dtype())}
    return _findings(names[0], "known", number, _predict(pair, values, like, site, options))


def _observed(
    pair: ModelGuidePair, data: Dataset, site: str, shape: Structure, options: Mapping[str, Any]
) -> ClassFindings | None:
    """Another observed site that is a category."""
    for info in shape.observed:
        member = data.members.get(info.name)
        if info.name == site or member is None or not info.is_a(OneHotCategorical, Categorical):
            continue
        number = info.shape[0] if len(info.shape) == 1 else int(member.max()) + 1
        if len(info.shape) <= 1 and 2 <= number <= MOST:
            here = _with(pair, data, info.name)
            if not len(here):
                return None  # a category that no datum has
            like = Dataset(data.batch(here[:1].expand(number)))
            values = class_values(torch.arange(number), info.shape, torch.get_default_dtype())
            return _findings(info.name, "known", number, _predict(pair, {info.name: values}, like, site, options))
    return None


def _with(pair: ModelGuidePair, data: Dataset, name: str) -> Tensor:
    """The rows, among the first thousand, that have an observed variable."""
    rows = torch.arange(min(len(data), 1000))
    there = pair.gaps(data.batch(rows)).get(name)
    return rows if there is None else there.flatten(1).all(1).nonzero().flatten()


def _predict(
    pair: ModelGuidePair, given: Mapping[str, Tensor], like: Dataset, site: str, options: Mapping[str, Any]
) -> ConditionalPrediction:
    draws: dict[str, Any] = {"num_samples": _DRAWS, "num_draws": COLUMNS, "chunk_size": _CHUNK, "kind": "mean"}
    return predict_given(pair, given, like=like, site=site, **draws, **options)


def _findings(name: str, kind: str, number: int, found: ConditionalPrediction) -> ClassFindings | None:
    names, trusted = [str(i) for i in range(number)], found.trusted
    if not bool(trusted.any()):
        return None
    size = float(found.effective_sample_size[trusted].min())
    return ClassFindings(
        name,
        kind,
        tuple(n for n, good in zip(names, trusted.tolist(), strict=True) if good),
        found.samples.movedim(0, 1)[trusted],
        None if size > 0.999 * _DRAWS else size,
        tuple(n for n, good in zip(names, trusted.tolist(), strict=True) if not good),
    )
