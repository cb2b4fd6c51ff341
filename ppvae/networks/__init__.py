"""Trunks: networks whose output a conditional distribution reads."""

from .convolutional import ConvDecoder, ConvEncoder
from .initialization import Initializer, glorot, paper
from .joined import JoinedMLP
from .log_counts import LogCounts
from .mlp import MLP

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "Initializer", "JoinedMLP", "LogCounts", "glorot", "paper"]
