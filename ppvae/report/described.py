"""What the description of a pair says of its data: which are classes, gaps, sequences; None where there is none."""

from __future__ import annotations

from ..core import ModelGuidePair
from ..models import BayesianPair, Covariate, LatentModel, Observed
from ..models.description import Description


def described(pair: ModelGuidePair) -> LatentModel | None:
    """The described model, also of a pair that has a posterior over its weights."""
    plain = pair.pair if isinstance(pair, BayesianPair) else pair
    return plain if isinstance(plain, LatentModel) else None


def description_of(pair: ModelGuidePair) -> Description | None:
    """The description of a pair."""
    model = described(pair)
    return None if model is None else model.description


def covariates_of(pair: ModelGuidePair) -> list[str]:
    """The data of a described pair that no distribution describes."""
    description = description_of(pair)
    return [] if description is None else description.named(Covariate)


def observed_of(pair: ModelGuidePair, name: str) -> Observed | None:
    """An observed variable of a described pair."""
    description = description_of(pair)
    variable = None if description is None else description.variables.get(name)
    return variable if isinstance(variable, Observed) else None


def evidence_of(pair: ModelGuidePair) -> str:
    """The evidence of a datum as a formula: log p(x), or log p(x | label) where the model is one of covariates."""
    description = description_of(pair)
    names = ["x"] if description is None else description.named(Observed)
    given = covariates_of(pair)
    return f"log p({', '.join(names)}{' | ' if given else ''}{', '.join(given)})"
