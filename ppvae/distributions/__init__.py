"""Conditional distributions: modules whose forward returns a distribution."""

from .conditional import ConditionalDistribution, Given, Head, declare_positive, independent, require_context
from .counts import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from .experts import ProductOfExperts
from .flows import Flow, FlowPosterior, FlowPrior
from .gammas import Gamma
from .gaps import draw_gaps, observe_with_gaps
from .likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Normal, OneHotCategorical
from .mixtures import DiagonalNormalMixture, MixtureOfNormals
from .normal_chain import NormalChain
from .normals import DiagonalNormal, FullCovarianceNormal, LinearNormal, LowRankNormal, StandardNormal
from .real_values import DiscretisedLogistic, StudentT
from .relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from .reparameterization import FAMILIES, FixedPrior, Reparameterized
from .sequences import EachStep, GatedTransition, LinearTransition, MarkovNormal, StepwiseNormal
from .vamp import ExemplarPrior, VampPrior

__all__ = [
    "FAMILIES",
    "Bernoulli",
    "Categorical",
    "ConditionalDistribution",
    "ContinuousBernoulli",
    "DiagonalNormal",
    "DiagonalNormalMixture",
    "DiscretisedLogistic",
    "EachStep",
    "ExemplarPrior",
    "FixedPrior",
    "Flow",
    "FlowPosterior",
    "FlowPrior",
    "FullCovarianceNormal",
    "Gamma",
    "GatedTransition",
    "Given",
    "Head",
    "LinearNormal",
    "LinearTransition",
    "LowRankNormal",
    "MarkovNormal",
    "MixtureOfNormals",
    "Multinomial",
    "NegativeBinomial",
    "Normal",
    "NormalChain",
    "OneHotCategorical",
    "Poisson",
    "ProductOfExperts",
    "RelaxedBernoulli",
    "RelaxedOneHotCategorical",
    "Reparameterized",
    "StandardNormal",
    "StepwiseNormal",
    "StudentT",
    "VampPrior",
    "ZeroInflatedNegativeBinomial",
    "declare_positive",
    "draw_gaps",
    "independent",
    "observe_with_gaps",
    "require_context",
]
