"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Head, independent, require_context
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal
from .normals import DiagonalNormal, FullCovarianceNormal, StandardNormal
from .reparameterization import FAMILIES, FixedPrior, Reparameterized

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "FixedPrior",
    "FullCovarianceNormal",
    "Head",
    "Normal",
    "Reparameterized",
    "StandardNormal",
    "independent",
    "require_context",
]
