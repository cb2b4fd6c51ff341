"""The statements: which p(x, z, theta), which q."""

from .bayesian import BayesianPair, bayesianise
from .factor_analysis import FactorAnalysis
from .hidden_markov_model import HiddenMarkovModel
from .latent_model import LatentModel
from .linear_gaussian import LinearGaussian
from .mixture_of_factor_analysers import MixtureOfFactorAnalysers
from .presets import bernoulli_vae, gaussian_vae
from .vae import VAE
from .variables import Covariate, Exposure, Features, Label, Latent, Lengths, Mask, Observed

__all__ = [
    "VAE",
    "BayesianPair",
    "Covariate",
    "Exposure",
    "FactorAnalysis",
    "Features",
    "HiddenMarkovModel",
    "Label",
    "Latent",
    "LatentModel",
    "Lengths",
    "LinearGaussian",
    "Mask",
    "MixtureOfFactorAnalysers",
    "Observed",
    "bayesianise",
    "bernoulli_vae",
    "gaussian_vae",
]
