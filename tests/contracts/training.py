"""What the tests of training share: a small pair, data for it, and a quiet run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppvae.core import ModelGuidePair
from ppvae.distributions import Bernoulli, RelaxedBernoulli
from ppvae.inference import fit
from ppvae.models import VAE, bernoulli_vae
from ppvae.networks import MLP


def binary(n: int = 200, d: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator)
    w = torch.randn(2, d, generator=generator)
    return (torch.rand(n, d, generator=generator) < torch.sigmoid(2 * z @ w)).float()


def small() -> ModelGuidePair:
    torch.manual_seed(0)
    return bernoulli_vae(9, latent_dim=2, hidden=(8,))


def relaxed() -> VAE:
    """With buffers that schedules set, the temperatures."""
    torch.manual_seed(0)
    return VAE(
        prior=RelaxedBernoulli(None, 3),
        likelihood=Bernoulli(MLP(3, [8]), (9,)),
        posterior=RelaxedBernoulli(MLP(9, [8]), 3),
    )


def quiet(pair: ModelGuidePair, data: Any, **options: Any) -> Any:
    """Eager, unless another mode is asked for: to record a step takes longer than these few."""
    given: dict[str, Any] = {"batch_size": 50, "num_epochs": 3, "progress": False, "on_interrupt": "return"}
    return fit(pair, data, **{**given, "compile": "eager", **options})
