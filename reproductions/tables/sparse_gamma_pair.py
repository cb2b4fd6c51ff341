"""The pair of the table of Olivetti faces: gamma latents and gamma weights, written as any pair of one's own."""

from __future__ import annotations

import pyro
import torch
from pyro.distributions import Gamma, Poisson
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppvae.core import ModelGuidePair


class SparseGamma(ModelGuidePair):
    """Ranganath, Tang, Charlin & Blei 2015 (arXiv 1411.2581), with a posterior over latents and weights.

    Args:
        num_data: rows of the data, each with parameters of its own in the guide.
        num_pixels: columns.
        widths: of the layers, the top one first.
    """

    def __init__(self, num_data: int, num_pixels: int, widths: dict[str, int]) -> None:
        super().__init__()
        self.widths, below = widths, [*widths.values(), num_pixels][1:]
        of_weights = {f"w_{name}": (width, to) for (name, width), to in zip(widths.items(), below, strict=True)}
        shapes = of_weights | {f"z_{name}": (num_data, width) for name, width in widths.items()}
        self.shapes = nn.ParameterDict({name: 1.5 + 0.1 * torch.randn(shape) for name, shape in shapes.items()})
        self.means = nn.ParameterDict({name: 0.5 + 0.1 * torch.randn(shape) for name, shape in shapes.items()})

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        """Weights, then layer by layer the mean of the next."""
        pyro.module("sparse_gamma", self)
        weights = {}
        for name in self.widths:
            scale = torch.ones_like(self.shapes[f"w_{name}"])
            weights[name] = pyro.sample(f"w_{name}", Gamma(0.1 * scale, 0.3 * scale).to_event(2))
        with pyro.plate("data", num_data or len(x), subsample=x):
            mean = x.new_ones(len(x), self.widths["top"])
            for name in self.widths:
                z = pyro.sample(f"z_{name}", Gamma(torch.full_like(mean, 0.1), 0.1 / mean).to_event(1))
                mean = (z.unsqueeze(-2) @ weights[name]).squeeze(-2)  # also where there are particles
            pyro.sample("x", Poisson(mean).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        """A gamma for everything."""
        pyro.module("sparse_gamma", self)
        for name in self.widths:
            self._draw(f"w_{name}", 2)
        with pyro.plate("data", num_data or len(x), subsample=x):
            for name in self.widths:
                self._draw(f"z_{name}", 1)

    def _draw(self, name: str, event_dims: int) -> None:
        shape = softplus(self.shapes[name])
        pyro.sample(name, Gamma(shape, shape / softplus(self.means[name])).to_event(event_dims))
