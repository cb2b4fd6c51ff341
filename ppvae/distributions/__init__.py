"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Head
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal
from .normals import DiagonalNormal, FullCovarianceNormal, StandardNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "FullCovarianceNormal",
    "Head",
    "Normal",
    "StandardNormal",
]
