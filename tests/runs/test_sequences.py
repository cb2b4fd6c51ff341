"""Models of sequences, built by name for data of several lengths."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ppvae.core import check_pair
from ppvae.data import Dataset
from ppvae.runs.recipe.catalogue import build_model, complete_model, from_data
from ppvae.runs.training.roles import in_roles

MODELS: list[dict[str, Any]] = [
    {"name": "hidden-markov-model", "num_states": 2, "likelihood": {"name": "bernoulli"}},
    {"name": "linear-gaussian-state-space", "latent_dim": 2},
    {"name": "deep-markov-model", "latent_dim": 2, "hidden": [3], "transition_hidden": 3, "recurrent_hidden": 3},
]


@pytest.mark.parametrize("table", MODELS, ids=lambda table: table["name"])
def test_a_model_fits_the_steps_of_the_data(table: dict[str, Any]) -> None:
    x = torch.bernoulli(torch.full((4, 5, 3), 0.4))
    data = Dataset({"x": x, "lengths": torch.tensor([5, 1, 3, 2])})
    pair = build_model(complete_model(table), data)
    check_pair(pair, in_roles(data, pair).batch(torch.arange(4)))


def test_the_entries_of_an_image_are_all_of_it() -> None:
    assert from_data(Dataset(torch.zeros(2, 1, 8, 8)))["data_dim"] == 64
    assert from_data(Dataset(torch.zeros(2, 5, 3)))["data_dim"] == 3
