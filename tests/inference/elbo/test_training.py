"""Models trained by the estimators: Bernoulli latents on the digits; tighter bounds on held-out digits."""

from __future__ import annotations

import pytest
import torch
from contracts.elbo_oracles import BernoulliPrior
from torch import Tensor

from ppvae.data import load
from ppvae.distributions import Bernoulli
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import VAE, bernoulli_vae
from ppvae.networks import MLP

LEAVE_ONE_OUT = elbo.ScoreFunctionELBO(num_particles=5, baseline="leave-one-out")


def binary_vae() -> VAE:
    torch.manual_seed(0)
    return VAE(BernoulliPrior(16), Bernoulli(MLP(16, [100]), 64), Bernoulli(MLP(64, [100]), 16))


def independent_pixels(train: Tensor, test: Tensor) -> float:
    """Log-likelihood of held-out data when every pixel is a coin of its own: what latents have to beat."""
    p = (train.mean(0) * len(train) + 1) / (len(train) + 2)
    return float((test * p.log() + (1 - test) * (1 - p).log()).sum(-1).mean())


@pytest.mark.parametrize("estimator", [elbo.VIMCO(5), LEAVE_ONE_OUT, elbo.ReweightedWakeSleep(5)], ids=repr)
def test_bernoulli_latents_on_the_digits(estimator: elbo.ELBO) -> None:
    data = load("digits", binarize="static")
    pair = binary_vae()
    fit(pair, data, elbo=estimator, num_epochs=15, learning_rate=5e-3, compile="graph", progress=False)
    found = log_evidence(pair, data.test, method=evidence.ImportanceSampling(500), progress=False)
    alone = independent_pixels(data.x, data.test.x)
    assert found.mean - alone > 2 + 4 * found.mean_standard_error


@pytest.mark.slow
def test_tighter_bounds_on_held_out_digits() -> None:
    """IWAE-5 and IWAE-50 beat the ELBO in L_5000 by more than two standard errors of the paired difference."""
    data, test = load("digits", binarize="dynamic"), load("digits", binarize="static").test
    found = {}
    for name, estimator in (
        ("elbo", elbo.TraceELBO()),
        ("iwae-5", elbo.ImportanceWeightedELBO(5)),
        ("iwae-50", elbo.ImportanceWeightedELBO(50)),
    ):
        torch.manual_seed(0)
        pair = bernoulli_vae(64, latent_dim=8, hidden=(100,))
        fit(pair, data, elbo=estimator, num_epochs=150, learning_rate=2e-3, progress=False)
        found[name] = log_evidence(pair, test, method=evidence.ImportanceSampling(5000), progress=False).log_evidence
    for name in ("iwae-5", "iwae-50"):
        gain = found[name] - found["elbo"]
        assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5
