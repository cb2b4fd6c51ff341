"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Head, given, independent
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
    "given",
    "independent",
]
