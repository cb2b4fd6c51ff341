"""The statements: which p(x, z, theta), which q."""

from .bayesian import BayesianPair, bayesianise
from .conditional_vae import conditional_vae
from .convolutional_vae import convolutional_vae
from .count_vae import count_vae
from .deep_exponential_family import deep_exponential_family
from .deep_markov_model import deep_markov_model
from .factor_analysis import FactorAnalysis
from .gamma_poisson import GammaPoisson
from .graph import Arrow, Graph, Node
from .hidden_markov_model import HiddenMarkovModel
from .hierarchical_vae import hierarchical_vae
from .latent_model import LatentModel
from .linear_gaussian import LinearGaussian
from .linear_gaussian_state_space import LinearGaussianStateSpace
from .missing_data_vae import missing_data_vae
from .mixture_of_factor_analysers import MixtureOfFactorAnalysers
from .mixture_vae import mixture_vae
from .multimodal_vae import multimodal_vae
from .presets import bernoulli_vae, gaussian_vae
from .presets_by_value import (
    discretised_logistic_vae,
    multinomial_vae,
    negative_binomial_vae,
    poisson_vae,
    student_t_vae,
)
from .semi_supervised_vae import semi_supervised_vae
from .sigmoid_belief_network import sigmoid_belief_network
from .topic_model import topic_model
from .vae import VAE
from .variables import Covariate, Exposure, Features, Label, Latent, Lengths, Mask, Observed

__all__ = [
    "VAE",
    "Arrow",
    "BayesianPair",
    "Covariate",
    "Exposure",
    "FactorAnalysis",
    "Features",
    "GammaPoisson",
    "Graph",
    "HiddenMarkovModel",
    "Label",
    "Latent",
    "LatentModel",
    "Lengths",
    "LinearGaussian",
    "LinearGaussianStateSpace",
    "Mask",
    "MixtureOfFactorAnalysers",
    "Node",
    "Observed",
    "bayesianise",
    "bernoulli_vae",
    "conditional_vae",
    "convolutional_vae",
    "count_vae",
    "deep_exponential_family",
    "deep_markov_model",
    "discretised_logistic_vae",
    "gaussian_vae",
    "hierarchical_vae",
    "missing_data_vae",
    "mixture_vae",
    "multimodal_vae",
    "multinomial_vae",
    "negative_binomial_vae",
    "poisson_vae",
    "semi_supervised_vae",
    "sigmoid_belief_network",
    "student_t_vae",
    "topic_model",
]
