"""Hamiltonian Monte Carlo in pure torch, one lane for every chain and datum."""

from .chains import Outcome
from .draws import PosteriorDraws
from .options import HMC, ChEES
from .sample import sample_posterior

__all__ = ["HMC", "ChEES", "Outcome", "PosteriorDraws", "sample_posterior"]
