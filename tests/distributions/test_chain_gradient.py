"""The cost of the gradient of a chain's draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ppvae.distributions import DiagonalNormal, MarkovNormal
from ppvae.networks import Combiner


class Written(TorchDispatchMode):
    """Counts the numbers that operations put out."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.total += found.numel() if isinstance(found, Tensor) else 0
        return found


def test_the_gradient_of_a_draw_writes_as_much_a_step_whatever_their_number() -> None:
    """A slice of the features a step would have gradients as large as all of them: T tensors of T steps."""
    written = []
    for steps in (10, 20, 40):
        chain = MarkovNormal(DiagonalNormal(Combiner(1, 50), 1), steps, trunk=nn.Identity())
        x = torch.randn(8, steps, 50, requires_grad=True)
        with Written() as counted:
            torch.autograd.grad(chain(x).rsample().sum(), x)
        written.append(counted.total)
    assert 0 < written[2] - written[1] < 2.2 * (written[1] - written[0])
