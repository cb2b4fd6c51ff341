"""The statements: which p(x, z, theta), which q."""

from .bayesian import BayesianPair, bayesianise
from .factor_analysis import FactorAnalysis
from .hidden_markov_model import HiddenMarkovModel
from .linear_gaussian_state_space import LinearGaussianStateSpace
from .mixture_of_factor_analysers import MixtureOfFactorAnalysers
from .presets import bernoulli_vae, gaussian_vae
from .vae import VAE

__all__ = [
    "VAE",
    "BayesianPair",
    "FactorAnalysis",
    "HiddenMarkovModel",
    "LinearGaussianStateSpace",
    "MixtureOfFactorAnalysers",
    "bayesianise",
    "bernoulli_vae",
    "gaussian_vae",
]
