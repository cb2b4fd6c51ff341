"""Compose a latent model of your own: two layers of latents, checked, trained, and evaluated on held-out digits.

python examples/compose_a_model.py
"""

import pyro
import torch

from ppvae.core import ModelGuidePair, check_pair
from ppvae.data import load
from ppvae.distributions import Bernoulli, DiagonalNormal, StandardNormal
from ppvae.inference import EarlyStopping, elbo, evidence, fit, log_evidence
from ppvae.networks import MLP


class TwoLayers(ModelGuidePair):
    """p(top) p(z | top) p(x | z), with the guide q(z | x) q(top | z)."""

    def __init__(self) -> None:
        super().__init__()
        self.top_prior = StandardNormal(2)
        self.z_prior = DiagonalNormal(MLP(2, [32]), 8)
        self.likelihood = Bernoulli(MLP(8, [64]), 64)
        self.z_posterior = DiagonalNormal(MLP(64, [64]), 8)
        self.top_posterior = DiagonalNormal(MLP(8, [32]), 2)

    def model(self, x: torch.Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            top = pyro.sample("top", self.top_prior())
            z = pyro.sample("z", self.z_prior(top))
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: torch.Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", self.z_posterior(x))
            pyro.sample("top", self.top_posterior(z))


if __name__ == "__main__":
    torch.manual_seed(0)
    digits = load("digits", binarize="static")
    pair = TwoLayers()
    shape = check_pair(pair, digits.x[:10])
    print("latent sites:", ", ".join(f"{site.name} {list(site.event_shape)}" for site in shape.local_latents))
    # The guide draws z before top, so no KL is in closed form here: estimator A, which samples everything.
    print(fit(pair, digits, elbo=elbo.TraceELBO(), num_epochs=60, learning_rate=3e-3, early_stopping=EarlyStopping(5)))
    for samples in (1, 10, 1000):
        print(log_evidence(pair, digits.test, method=evidence.ImportanceSampling(samples)))
