"""A leading axis of one that no plate claims: Pyro's own programs have it, and it means nothing."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, check_pair, draw, log_guide, log_joint, simulate, structure
from ppvae.inference import evidence, log_evidence

X = torch.tensor([[0.3, -0.2], [1.0, 0.4], [-0.6, 0.8]])
WEIGHTS = torch.tensor([0.5, -0.3, 0.2, 0.9])


def programs(lead: str) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """A factor analysis, whose matrix has an axis of one in front; so has the latent's mean in one program."""

    def model(x: Tensor) -> None:
        matrix = WEIGHTS.reshape(-1, 2, 2)
        with pyro.plate("data", len(x)):
            loc = torch.zeros((1, len(x), 2) if lead == "model" else (len(x), 2))
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.matmul(z, matrix), 0.7).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc = 0.2 * (x[None] if lead == "guide" else x)
            pyro.sample("z", dist.Normal(loc, 0.9).to_event(1))

    return model, guide


@pytest.mark.parametrize("lead", ["model", "guide", "neither"])
def test_the_evidence_is_that_without_it(lead: str) -> None:
    pair = ModelGuidePair.from_callables(*programs(lead))
    check_pair(pair, X)
    assert structure(pair, X).nesting == 1 and pair.vectorizes
    matrix = WEIGHTS.reshape(2, 2)
    exact = dist.MultivariateNormal(torch.zeros(2), matrix.T @ matrix + 0.49 * torch.eye(2)).log_prob(X)
    found = log_evidence(pair, X, method=evidence.ImportanceSampling(4000), progress=False, compile="eager")
    assert bool(((found.log_evidence - exact).abs() <= 4 * found.standard_error).all())
    latents = draw(pair, X, 5).latents
    assert latents["z"].shape == (5, 3, 2)
    prior = dist.Normal(0.0, 1.0).log_prob(latents["z"]).sum(-1)
    likelihood = dist.Normal(latents["z"] @ matrix, 0.7).log_prob(X).sum(-1)
    torch.testing.assert_close(log_joint(pair, X, latents).local, prior + likelihood)
    log_q = dist.Normal(0.2 * X, 0.9).log_prob(latents["z"]).sum(-1)
    torch.testing.assert_close(log_guide(pair, X, latents)[0], log_q)
    assert simulate(pair, X).observed["x"].shape == (3, 2)
