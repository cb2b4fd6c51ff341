"""A run that was refused before its first step does not stand in the way of the next try."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ppvae.core import FitError, PairError, RunError
from ppvae.inference import Callback, TrainingState
from ppvae.runs import Recipe, train

VALUES = {
    "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [6]},
    "data": {"num_train": 200, "binarize": "static"},
    "training": {"num_epochs": 1, "compile": "eager"},
}


def test_a_refused_run_is_replaced_without_asking(tmp_path: Path) -> None:
    grey = Recipe.from_dict({**VALUES, "data": {"num_train": 200, "binarize": "none"}})
    with pytest.raises(PairError, match="support"):
        train(grey, tmp_path / "run", progress=False)
    assert train(Recipe.from_dict(VALUES), tmp_path / "run", progress=False).history
    with pytest.raises(RunError, match="a run stands here already"):
        train(Recipe.from_dict(VALUES), tmp_path / "run", progress=False)


def test_a_run_that_failed_in_training_is_kept(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_step(self, state: TrainingState) -> None:
            with torch.no_grad():
                next(state.pair.parameters()).fill_(float("nan"))

    with pytest.raises(FitError):
        train(Recipe.from_dict(VALUES), tmp_path / "run", callbacks=[Poison()], progress=False)
    with pytest.raises(RunError, match="a run stands here already"):
        train(Recipe.from_dict(VALUES), tmp_path / "run", progress=False)
