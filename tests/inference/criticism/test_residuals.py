"""Quantile residuals: standard normal under the right model and posterior, and not under a wrong one."""

from __future__ import annotations

import pytest
import torch

from ppvae.core import PairError
from ppvae.inference import quantile_residuals
from ppvae.inference.evidence import simulate_data
from ppvae.models import GammaPoisson, mixture_vae


def test_residuals_of_the_true_model_are_standard_normal_and_of_another_are_not() -> None:
    """Its guide is the exact posterior; half of all counts are 0, which are put at random among their equals."""
    options = {"concentration": 1.5, "loading": [1.0, 0.2, 3.0]}
    pair = GammaPoisson.from_parameters(rate=1.0, **options)
    x = simulate_data(pair, torch.zeros(1, 3), 2000).x
    assert isinstance(x, torch.Tensor)
    steady = torch.full_like(x, 2.0)  # no count varies
    for data, right in ((x, True), (steady, False)):
        normal = quantile_residuals(pair, data, num_replicates=99, seed=1).normal
        each = torch.cat([normal, normal.square() - 1], 1).double()  # of one datum they depend on each other
        scores = each.mean(0) / (each.std(0) / len(each) ** 0.5)
        assert bool((scores.abs() < 4.5).all()) is right
    found = quantile_residuals(pair, x, num_replicates=99, seed=1)
    level = found.level[found.location >= 1]  # a choice by what is expected
    share = torch.histc(level, 10, 0, 1) / len(level)
    assert bool(((share - 0.1).abs() < 5 * (0.1 * 0.9 / len(level)) ** 0.5).all())


def test_a_class_that_a_replicate_would_draw_anew_is_refused() -> None:
    pair = mixture_vae(4, num_components=2, latent_dim=1, hidden=(3,))
    with pytest.raises(PairError, match="site 'y' is summed out: a replicate would draw it anew"):
        quantile_residuals(pair, torch.zeros(2, 4))
