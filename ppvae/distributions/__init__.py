"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, declare_positive, independent, require_context
from .counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal, OneHotCategorical
from .normal_chain import NormalChain
from .normals import DiagonalNormal, FullCovarianceNormal, LinearNormal, StandardNormal
from .real_values import DiscretisedLogistic, StudentT
from .reparameterization import FAMILIES, FixedPrior, Reparameterized
from .sequences import EachStep, GatedTransition, LinearTransition, MarkovNormal, StepwiseNormal

__all__ = [
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiscretisedLogistic",
    "FAMILIES",
    "EachStep",
    "FixedPrior",
    "FullCovarianceNormal",
    "GatedTransition",
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
    "LinearTransition",
    "MarkovNormal",
    "NormalChain",
    "StepwiseNormal",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
