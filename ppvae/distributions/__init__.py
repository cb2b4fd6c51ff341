"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, independent, require_context
from .experts import ProductOfExperts
from .flows import Flow, FlowPosterior, FlowPrior
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal
from .mixtures import DiagonalNormalMixture, MixtureOfNormals
from .normals import DiagonalNormal, FullCovarianceNormal, LowRankNormal, StandardNormal
from .relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from .reparameterization import FAMILIES, FixedPrior, Reparameterized
from .vamp import VampPrior

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiagonalNormalMixture",
    "FixedPrior",
    "Flow",
    "FlowPosterior",
    "FlowPrior",
    "FullCovarianceNormal",
    "Given",
    "Head",
    "LowRankNormal",
    "MixtureOfNormals",
    "Normal",
    "ProductOfExperts",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "Reparameterized",
    "StandardNormal",
    "VampPrior",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
