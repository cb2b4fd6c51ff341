"""How the weights of a network start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import nn

Initializer: TypeAlias = Callable[[nn.Module], None]
"""Sets the weights of one layer in place."""

AFFINE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def initialize(module: nn.Module, init: Initializer | None) -> None:
    """Apply an initializer to every affine layer of a module; None keeps PyTorch's own."""
    if init is not None:
        with torch.no_grad():
            for layer in module.modules():
                if isinstance(layer, AFFINE):
                    init(layer)


def paper(scale: float = 0.1) -> Initializer:
    """Weights and biases from N(0, scale^2): the paper's N(0, 0.01) by default (arXiv 1312.6114, section 5)."""

    def init(layer: nn.Module) -> None:
        for parameter in layer.parameters(recurse=False):
            nn.init.normal_(parameter, std=scale)

    return init


def he() -> Initializer:
    """He et al. 2015 normal weights of variance 2 / inputs, zero biases (as Tomczak & Welling 2018)."""

    def init(layer: nn.Module) -> None:
        for parameter in layer.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.zeros_(parameter)

    return init


def glorot() -> Initializer:
    """Glorot & Bengio 2010 uniform weights, zero biases (as Burda et al. 2015)."""

    def init(layer: nn.Module) -> None:
        for parameter in layer.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    return init
