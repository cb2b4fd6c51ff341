"""Which parameters belong to the model and which to the guide, found by differentiation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from .density import draw, log_joint
from .pair import Data, ModelGuidePair

Role = Literal["model", "guide"]


def parameter_roles(pair: ModelGuidePair, x: Data) -> dict[str, frozenset[Role]]:
    """The role of every parameter: "model" if log p(x, z) at fixed z depends on it, "guide" if q does; maybe both.

    Args:
        pair: the pair.
        x: a batch, [B, *event].

    Returns:
        parameter name to roles; the empty set for a parameter that neither program uses.
    """
    parameters = {name: parameter for name, parameter in pair.named_parameters() if parameter.requires_grad}
    with torch.enable_grad(), torch.random.fork_rng():
        sample = draw(pair, x, 1)
        guide_terms = [sample.log_q, sample.global_log_q]
        guide_terms += [value for value in sample.latents.values() if value.is_floating_point()]
        latents = {name: value.detach() for name, value in sample.latents.items()}
        joint = log_joint(pair, x, latents)
    of_guide = _depends(guide_terms, parameters.values())
    of_model = _depends([joint.local, joint.global_], parameters.values())
    return {
        name: frozenset(role for role, flag in zip(("model", "guide"), flags, strict=True) if flag)  # type: ignore[misc]
        for name, *flags in zip(parameters, of_model, of_guide, strict=True)
    }


def _depends(terms: list[Tensor], parameters: Iterable[Tensor]) -> list[bool]:
    parameters = list(parameters)
    total = sum(term.sum() for term in terms if term.requires_grad)
    if not isinstance(total, Tensor) or not parameters:
        return [False] * len(parameters)
    return [gradient is not None for gradient in torch.autograd.grad(total, parameters, allow_unused=True)]
