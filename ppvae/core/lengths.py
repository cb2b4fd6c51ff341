"""Which steps of a padded sequence are data."""

from __future__ import annotations

import torch
from torch import Tensor


def present(lengths: Tensor, num_steps: int) -> Tensor:
    """Which time steps are no padding, bool [*S, T], at lengths [*S]: those before the length."""
    return torch.arange(num_steps, device=lengths.device) < lengths[..., None]
