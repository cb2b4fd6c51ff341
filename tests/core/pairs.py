"""Pairs that stretch the waist: a hierarchy, a Gamma latent, a global weight, nested plates, a mapping, discrete."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn
from torch.distributions import constraints

from ppvae.core import ModelGuidePair


class Hierarchy(ModelGuidePair):
    """Two layers of latents."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(2, 3)
        self.out = nn.Linear(3, 4)
        self.up1 = nn.Linear(4, 3)
        self.up2 = nn.Linear(3, 2)
        self.log_scale = nn.Parameter(torch.tensor([-0.3, 0.2, 0.1]))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            top = pyro.sample("top", dist.Normal(torch.zeros_like(x[..., :2]), 1.0).to_event(1))
            z = pyro.sample("z", dist.Normal(self.down(top), 0.7).to_event(1))
            pyro.sample("x", dist.Normal(self.out(z.tanh()), 0.4).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(self.up1(x), self.log_scale.exp()).to_event(1))
            pyro.sample("top", dist.Normal(self.up2(z), 0.9).to_event(1))


class GammaLatent(ModelGuidePair):
    """A positive latent, and a constrained parameter of Pyro's own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = PyroParam(torch.tensor([1.5, 0.7]), constraint=constraints.positive)
        self.encoder = nn.Linear(3, 4)
        self.decoder = nn.Linear(2, 3)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        rate = self.rate
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Gamma(torch.full_like(rate, 2.0), rate).to_event(1))
            pyro.sample("x", dist.Poisson(self.decoder(z).exp()).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            concentration, rate = self.encoder(x / 4).exp().chunk(2, -1)
            pyro.sample("z", dist.Gamma(concentration, rate).to_event(1))


class GlobalWeight(ModelGuidePair):
    """A global weight vector beside a local latent."""

    def __init__(self) -> None:
        super().__init__()
        self.weight_loc = nn.Parameter(torch.tensor([0.5, -0.2, 0.1]))
        self.weight_log_scale = nn.Parameter(torch.full((3,), -1.0))
        self.encoder = nn.Linear(3, 2)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros_like(x[0]), 1.0).to_event(1))
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z * w, 0.5).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pyro.sample("w", dist.Normal(self.weight_loc, self.weight_log_scale.exp()).to_event(1))
        with self.data_plate(x, num_data):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Nested(ModelGuidePair):
    """A plate of three measurements to the left of the data, each with its own latent."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.8))
        self.slope = nn.Parameter(torch.tensor([0.3, -0.6, 0.2]))

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(self.gain * z, 0.5), obs=x.mT)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with pyro.plate("measurement", 3, dim=-2), self.data_plate(x, num_data):
            pyro.sample("z", dist.Normal(self.slope[:, None] * x.mT, 0.6))


class Discrete(ModelGuidePair):
    """A mixture: one categorical latent for every datum."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.2, -0.1, 0.4]))
        self.means = nn.Parameter(torch.tensor([[-1.0, 0.0], [0.5, 1.0], [2.0, -1.0]]))
        self.encoder = nn.Linear(2, 3)

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            k = pyro.sample("k", dist.Categorical(logits=self.logits))
            pyro.sample("x", dist.Normal(self.means[k], 0.8).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("k", dist.Categorical(logits=self.encoder(x)))


class Regression(ModelGuidePair):
    """A mapping as data: covariates, targets and a mask; the latent is a random intercept."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.7, -0.4]))
        self.loc = nn.Linear(1, 1)

    def model(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            a = pyro.sample("a", dist.Normal(x["y"].new_zeros(()), 1.0))
            mean = a + x["covariates"] @ self.slope
            pyro.sample("y", dist.Normal(mean, 0.3).mask(x["seen"]), obs=x["y"])

    def guide(self, x: dict[str, Tensor], num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            pyro.sample("a", dist.Normal(self.loc(x["y"][:, None])[:, 0], 0.5))


class PyroExampleVAE(nn.Module):
    """The program of Pyro's own VAE tutorial, as a user would have it: a plain module with model and guide."""

    def __init__(self, z_dim: int = 3, hidden: int = 8, pixels: int = 12) -> None:
        super().__init__()
        self.z_dim, self.pixels = z_dim, pixels
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Softplus())
        self.encoder_loc, self.encoder_scale = nn.Linear(hidden, z_dim), nn.Linear(hidden, z_dim)
        self.decoder = nn.Sequential(nn.Linear(z_dim, hidden), nn.Softplus(), nn.Linear(hidden, pixels), nn.Sigmoid())

    def model(self, x: Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = x.new_zeros(x.shape[0], self.z_dim), x.new_ones(x.shape[0], self.z_dim)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(self.decoder(z)).to_event(1), obs=x.reshape(-1, self.pixels))

    def guide(self, x: Tensor) -> None:
        pyro.module("encoder", self.encoder)
        pyro.module("encoder_loc", self.encoder_loc)
        pyro.module("encoder_scale", self.encoder_scale)
        with pyro.plate("data", x.shape[0]):
            hidden = self.encoder(x.reshape(-1, self.pixels))
            pyro.sample("latent", dist.Normal(self.encoder_loc(hidden), self.encoder_scale(hidden).exp()).to_event(1))
