"""Trunks: networks whose output a conditional distribution reads."""

from .convolutional import ConvDecoder, ConvEncoder
from .initialization import Initializer, glorot, he, paper
from .joined import Branches, JoinedMLP
from .log_counts import LogCounts
from .mlp import MLP
from .positive import LogPositiveLinear
from .recurrent import Combiner, Recurrent
from .signs import Signs

__all__ = [
    "MLP",
    "Branches",
    "Combiner",
    "ConvDecoder",
    "ConvEncoder",
    "Initializer",
    "JoinedMLP",
    "LogCounts",
    "LogPositiveLinear",
    "Recurrent",
    "Signs",
    "glorot",
    "he",
    "paper",
]
