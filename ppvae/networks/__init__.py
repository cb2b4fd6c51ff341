"""Trunks: networks whose output a conditional distribution reads."""

from .convolutional import ConvDecoder, ConvEncoder
from .initialization import Initializer, glorot, paper
from .joined import JoinedMLP
from .log_counts import LogCounts
from .mlp import MLP
from .recurrent import Combiner, Recurrent
from .signs import Signs

__all__ = [
    "MLP",
    "Combiner",
    "ConvDecoder",
    "ConvEncoder",
    "Initializer",
    "JoinedMLP",
    "LogCounts",
    "Recurrent",
    "Signs",
    "glorot",
    "paper",
]
