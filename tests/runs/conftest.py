"""A small recipe, and a trained run that tests only read."""

from __future__ import annotations

from typing import Any

import pytest

from ppvae.runs import Recipe, Run, train

SMALL: dict[str, Any] = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [16]},
    "data": {"num_train": 200, "binarize": "static"},
    "training": {"num_epochs": 3, "batch_size": 50, "learning_rate": 0.01, "compile": "eager"},
    "device": "cpu",
}


@pytest.fixture
def small() -> Recipe:
    return Recipe.from_dict(SMALL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(Recipe.from_dict(SMALL), tmp_path_factory.mktemp("runs") / "trained", progress=False)
