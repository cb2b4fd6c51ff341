"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, independent, require_context
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal, OneHotCategorical
from .normals import DiagonalNormal, FullCovarianceNormal, LinearNormal, StandardNormal
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
    "Given",
    "Head",
    "LinearNormal",
    "Normal",
    "OneHotCategorical",
    "Reparameterized",
    "StandardNormal",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
