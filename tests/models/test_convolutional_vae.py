"""Auto-encoders of images: the contract, both layouts, the likelihood by hand, and two evidence methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from contracts.pair import PairContract
from torch import Tensor
from torch.nn import functional

from ppvae.core import ModelGuidePair, PpvaeError, draw, log_joint
from ppvae.inference import elbo, evidence, fit, log_evidence
from ppvae.models import convolutional_vae, likelihoods, posteriors, priors
from ppvae.runs import Recipe
from ppvae.runs.recipe.catalogue import build_model, part_entries

SMALL: dict[str, Any] = {"latent_dim": 2, "channels": (2, 3), "hidden": 4}


class TestRows(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return convolutional_vae(16, (4, 4), **SMALL, prior=priors.vamp(3), activation="elu")  # no unit is dead

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 16), 0.4))


class TestImages(PairContract):
    def make_pair(self) -> ModelGuidePair:
        options = {"likelihood": likelihoods.gaussian(), "posterior": posteriors.planar(1), "activation": "gated"}
        return convolutional_vae((2, 5, 3), (2, 5, 3), **SMALL, **options)  # type: ignore[arg-type]

    def make_data(self) -> Tensor:
        return torch.randn(6, 2, 5, 3)


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (2, 5, 4)])
def test_rows_and_images_are_one_model(shape: Sequence[int], float64: torch.dtype) -> None:
    """Each number of the decoder's maps meets its own pixel: also where sides and channels differ."""
    size = torch.Size(shape).numel()
    gaussian = likelihoods.gaussian()
    rows, images = (convolutional_vae(event, shape, **SMALL, likelihood=gaussian) for event in (size, shape))
    images.load_state_dict(rows.state_dict())
    x, z = torch.randn(1, size), torch.randn(7, 1, 2)
    found = log_joint(rows, x, {"z": z}).local
    torch.testing.assert_close(found, log_joint(images, x.reshape(1, *shape), {"z": z}).local)
    torch.manual_seed(0)
    one = draw(rows, x, 3).log_q
    torch.manual_seed(0)
    torch.testing.assert_close(one, draw(images, x.reshape(1, *shape), 3).log_q)
    decoder = rows.likelihood.head.trunk
    maps = decoder.convolutions(decoder.stem(z[:, 0]).reshape(7, *decoder.start))
    loc, log_scale = maps[..., :5, :4].chunk(2, 1)  # the first half of the maps are means
    gap = (x.reshape(shape) - loc) / log_scale.exp()
    by_hand = (-0.5 * gap.square() - log_scale).flatten(1).sum(1) - 0.5 * z[:, 0].square().sum(-1)
    torch.testing.assert_close(found[:, 0], by_hand - 0.5 * (size + 2) * torch.log(torch.tensor(2 * torch.pi)))


def test_every_likelihood_by_name_has_its_numbers() -> None:
    """Where they are too few or too many, it cannot be built."""
    for entry in part_entries()["likelihood"].values():
        assert convolutional_vae(16, (4, 4), **SMALL, likelihood=entry.build()).likelihood.event_shape == (16,)


def test_evidence_methods_agree() -> None:
    torch.manual_seed(2)
    kind = functional.one_hot(torch.arange(200) % 4, 4).float()  # a column is lit
    x = torch.bernoulli(0.1 + 0.7 * kind[:, None, :].expand(200, 4, 4).flatten(1))
    pair = convolutional_vae(16, (4, 4), **SMALL, prior=priors.vamp(4))
    how: dict[str, Any] = {"num_epochs": 8, "batch_size": 50, "learning_rate": 1e-2, "compile": "eager"}
    result = fit(pair, x, elbo=elbo.TraceELBO(), progress=False, **how)
    assert result.history[-1]["elbo_train"] > result.history[0]["elbo_train"]
    one = log_evidence(pair, x[:4], method=evidence.ImportanceSampling(2000), compile="eager", progress=False)
    annealed = evidence.AIS(num_temperatures=10, num_chains=64)
    two = log_evidence(pair, x[:4], method=annealed, compile="eager", progress=False)
    error = (one.standard_error**2 + two.standard_error**2).sqrt()
    assert bool(((one.log_evidence - two.log_evidence).abs() < 4.5 * error + 1e-6).all())


@pytest.mark.parametrize("flatten", [True, False])
def test_a_recipe_builds_it_for_rows_and_images(flatten: bool) -> None:
    from ppvae.data import load

    data = load("digits", binarize="static", flatten=flatten)
    pair = build_model(Recipe.from_dict({"model": {"name": "convolutional-vae", "latent_dim": 2}}).model, data)
    assert pair.likelihood.event_shape == ((64,) if flatten else (1, 8, 8))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(PpvaeError, match="latent_dim: expected at least one"):
        convolutional_vae(16, (4, 4), latent_dim=0)
    with pytest.raises(PpvaeError, match=r"image_shape \(1, 4, 5\) does not hold data of shape \(16,\)"):
        convolutional_vae(16, (4, 5))
    with pytest.raises(PpvaeError, match=r"image_shape: expected \(height, width\) or .*, found \(16,\)"):
        convolutional_vae(16, (16,))
    with pytest.raises(PpvaeError, match="channels: expected at least one unit"):
        convolutional_vae(16, (4, 4), channels=())
