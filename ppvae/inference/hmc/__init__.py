"""Hamiltonian Monte Carlo in pure torch, all chains of all data at once."""

from .chains import ChainOutcome
from .draws import PosteriorDraws
from .global_posterior import GlobalDraws, sample_global_posterior
from .options import HMC, ChEES
from .sample import sample_posterior

__all__ = [
    "HMC",
    "ChEES",
    "GlobalDraws",
    "ChainOutcome",
    "PosteriorDraws",
    "sample_global_posterior",
    "sample_posterior",
]
