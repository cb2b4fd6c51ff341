"""A run whose prior reads the posterior: its checkpoint holds that once, and what is loaded is what was trained."""

from __future__ import annotations

from pathlib import Path

import torch

from ppvae.distributions import VampPrior
from ppvae.models import VAE
from ppvae.runs import Recipe, load_run, train


def test_a_run_with_a_vamp_prior_is_loaded_as_it_was_trained(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {
                "name": "bernoulli-vae",
                "latent_dim": 2,
                "hidden": [6],
                "prior": {"name": "vamp", "num_components": 5},
            },
            "data": {"source": "digits", "num_train": 100},
            "training": {"num_epochs": 2, "compile": "graph"},
        }
    )
    trained = train(recipe, tmp_path / "run").pair
    loaded = load_run(tmp_path / "run").pair
    assert isinstance(loaded, VAE) and isinstance(loaded.prior, VampPrior) and isinstance(trained, VAE)
    assert loaded.prior.posterior is loaded.posterior
    assert not any("prior.posterior" in name for name in loaded.state_dict())
    z = torch.randn(4, 2)
    assert torch.equal(loaded.prior().log_prob(z), trained.prior().log_prob(z))
