"""Hamiltonian Monte Carlo in pure torch, one lane for every chain and datum."""

from .chains import LaneOutcome
from .draws import PosteriorDraws
from .global_posterior import GlobalDraws, sample_global_posterior
from .options import HMC, ChEES
from .sample import sample_posterior

__all__ = [
    "HMC",
    "ChEES",
    "GlobalDraws",
    "LaneOutcome",
    "PosteriorDraws",
    "sample_global_posterior",
    "sample_posterior",
]
