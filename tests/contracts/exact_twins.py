"""What the tests of models with summed-out discrete latents share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from ppvae.core import ModelGuidePair


def log_density(pair: ModelGuidePair, x: Any, values: Mapping[str, Tensor]) -> Tensor:
    """log p of the model program with every latent at a value, [B], by Pyro's own trace."""
    with torch.no_grad():
        trace = poutine.trace(poutine.condition(pair.model, data=dict(values))).get_trace(x)
    trace.compute_log_prob()
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and site["name"] != "data"]
    assert all(site["is_observed"] for site in sites)
    total: Tensor = sum(site["log_prob"] for site in sites)  # type: ignore[assignment]
    return total


def scramble(pair: ModelGuidePair, scale: float = 0.7) -> None:
    """Parameters without any symmetry."""
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def gradients(value: Tensor, pair: ModelGuidePair) -> list[Tensor]:
    """Of the sum over data, by every parameter."""
    return list(torch.autograd.grad(value.sum(), list(pair.parameters())))


def enumerated_draws(pair: ModelGuidePair, x: Any, num_draws: int) -> Tensor:
    """Draws of Pyro's stock enumerated bound of the batch, [num_draws]."""
    bound = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)
    return torch.tensor([-bound.loss(pair.model, pair.guide, x) for _ in range(num_draws)])
