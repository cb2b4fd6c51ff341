"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, declare_positive, independent, require_context
from .counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal, OneHotCategorical
from .normals import DiagonalNormal, FullCovarianceNormal, LinearNormal, StandardNormal
from .real_values import DiscretisedLogistic, StudentT
from .reparameterization import FAMILIES, FixedPrior, Reparameterized

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretisedLogistic",
    "FAMILIES",
    "FixedPrior",
    "FullCovarianceNormal",
    "Given",
    "Head",
    "LinearNormal",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "OneHotCategorical",
    "Poisson",
    "Reparameterized",
    "StandardNormal",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "declare_positive",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
