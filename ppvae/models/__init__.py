"""The statements: which p(x, z, theta), which q."""

from .bayesian import BayesianPair, bayesianise
from .factor_analysis import FactorAnalysis
from .presets import bernoulli_vae, gaussian_vae
from .vae import VAE

__all__ = ["VAE", "BayesianPair", "FactorAnalysis", "bayesianise", "bernoulli_vae", "gaussian_vae"]
