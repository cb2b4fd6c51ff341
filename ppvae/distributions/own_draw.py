"""The density of what a distribution has just drawn, where drawing tells it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class OwnDraw(NamedTuple):
    """The last draw of a distribution, and what is known of it.

    Attributes:
        value: the draw.
        log_density: its log density in nats, from drawing it.
        differentiable: whether these carry the gradients by the distribution's parameters.
    """

    value: Tensor
    log_density: Tensor
    differentiable: bool


def own_draw(value: Tensor, log_density: Tensor) -> OwnDraw:
    """A draw that was made just now."""
    return OwnDraw(value, log_density, torch.is_grad_enabled())


def kept_density(last: OwnDraw | None, value: Tensor) -> Tensor | None:
    """The log density of this value if it is the last draw; None where it has to be computed.

    A copy, a detached one among them, is another value: at it the gradient by the parameters is the score.
    """
    if last is None or value is not last.value or (torch.is_grad_enabled() and not last.differentiable):
        return None
    return last.log_density
