"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, independent, require_context
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal
from .normal_chain import NormalChain
from .normals import DiagonalNormal, FullCovarianceNormal, StandardNormal
from .reparameterization import FAMILIES, FixedPrior, Reparameterized
from .sequences import EachStep, GatedTransition, LinearTransition, MarkovNormal, StepwiseNormal

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "EachStep",
    "FixedPrior",
    "FullCovarianceNormal",
    "GatedTransition",
    "Given",
    "Head",
    "LinearTransition",
    "MarkovNormal",
    "Normal",
    "NormalChain",
    "Reparameterized",
    "StandardNormal",
    "StepwiseNormal",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
