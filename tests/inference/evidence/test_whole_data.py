"""The evidence of a whole data set against conjugate closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.bayesian_pairs import conjugate, linear
from torch.distributions import MultivariateNormal

from ppvae.core import PpvaeError
from ppvae.distributions.weight_priors import NormalPrior
from ppvae.inference import log_evidence_of_data_set, sample_global_posterior
from ppvae.models import FactorAnalysis, bayesianise

OPTIONS: dict[str, Any] = {"num_warmup": 100, "num_chains": 2, "progress": False}


@pytest.mark.parametrize("scale", [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_bayesian_regression(scale: float) -> None:
    pair, x = linear(out=1)
    bayes = bayesianise(pair, modules=["layer"], prior=NormalPrior(scale))
    exact = conjugate(bayes, x, scale)[2]
    draws = sample_global_posterior(bayes, x, num_samples=300, seed=1, **OPTIONS)
    found = log_evidence_of_data_set(bayes, draws)
    assert len(found) == 1 and found.bound == "consistent" and bool(found.estimated.all())
    assert float(found.standard_error) < 0.05
    assert abs(float(found.log_evidence) - float(exact)) < 4 * float(found.standard_error)
    # Power: the other prior's evidence is far off.
    assert abs(float(exact - conjugate(bayes, x, 1.3 - scale)[2])) > 20 * float(found.standard_error)


@pytest.mark.slow
def test_weights_and_latents_together() -> None:
    """Factor analysis whose mean has a prior: all data are one normal."""
    pair = FactorAnalysis.from_parameters([0.2, -0.1], [[1.0], [-0.6]], [0.5, 0.8]).double()
    bayes = bayesianise(pair, modules=["loc"])
    x = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [2.0, -0.5]], dtype=torch.float64)
    one = pair.marginal().covariance_matrix.detach()
    covariance = torch.block_diag(one, one, one) + torch.eye(2, dtype=torch.float64).repeat(3, 3)
    exact = float(MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance).log_prob(x.flatten()))
    draws = sample_global_posterior(bayes, x, num_samples=250, seed=2, **OPTIONS)
    assert draws.unconstrained.shape == (2, 250, 5)
    found = log_evidence_of_data_set(bayes, draws, seed=5)
    assert float(found.standard_error) < 0.05
    assert abs(float(found.log_evidence) - exact) < 4 * float(found.standard_error)
    again = log_evidence_of_data_set(bayes, draws, seed=5)
    assert torch.equal(found.log_evidence, again.log_evidence)


def test_too_few_draws() -> None:
    pair, x = linear(out=1)
    bayes = bayesianise(pair, modules=["layer"])
    draws = sample_global_posterior(bayes, x, num_samples=2, **{**OPTIONS, "num_warmup": 5})
    with pytest.raises(
        PpvaeError, match=r"fitted to half of the draws, which are 2: expected at least 8\n(.|\n)*num_sam"
    ):
        log_evidence_of_data_set(bayes, draws)
