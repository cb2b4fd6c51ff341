"""The presets for counts, heavy tails and levels: the contract of a pair, and what the command line trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import DataError, ModelGuidePair, PairError, PpvaeError, check_pair, log_joint
from ppvae.distributions import DiagonalNormal, Multinomial, Poisson, StandardNormal
from ppvae.inference import evidence, generate, inpaint, log_evidence
from ppvae.inference.evidence import simulate_data
from ppvae.models import (
    Exposure,
    Latent,
    LatentModel,
    Observed,
    bayesianise,
    conditional_vae,
    convolutional_vae,
    discretised_logistic_vae,
    hierarchical_vae,
    mixture_vae,
    multinomial_vae,
    negative_binomial_vae,
    poisson_vae,
    posteriors,
    priors,
    student_t_vae,
)
from ppvae.networks import MLP, LogCounts
from ppvae.runs import Recipe, load_run, train


class TestPoissonVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return poisson_vae(7, latent_dim=2, hidden=(5,), prior=priors.vamp(4))

    def make_data(self) -> Tensor:
        return torch.poisson(torch.full((6, 7), 3.0))


class TestMultinomialVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return multinomial_vae(7, latent_dim=2, hidden=(5,))

    def make_data(self) -> Tensor:
        return torch.poisson(torch.full((6, 7), 3.0))


def test_words_are_given_the_total_of_their_document() -> None:
    pair, x = multinomial_vae(7, latent_dim=2, hidden=(5,)), torch.poisson(torch.full((6, 7), 3.0))
    z = torch.randn(6, 2)
    p = pair.likelihood(z, x.sum(-1)).logits.log_softmax(-1)
    by_hand = (x * p).sum(-1) + (x.sum(-1) + 1).lgamma() - (x + 1).lgamma().sum(-1)
    by_hand = by_hand + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(log_joint(pair, x, {"z": z[None]}).local[0], by_hand)
    assert str(pair).startswith("p(x, z | total) = p(z) p(x | z, total)")
    assert torch.equal(generate(pair, 6, like=x, kind="sample").sum(-1), x.sum(-1))
    weights = bayesianise(pair, modules=["likelihood"])
    assert torch.equal(generate(weights, 6, like=x, kind="sample").sum(-1), x.sum(-1))
    simulated = simulate_data(pair, like=x, num_data=6)
    assert isinstance(simulated.x, dict) and torch.equal(simulated.x["x"].sum(-1), simulated.x["total"])
    assert not torch.equal(simulated.x["x"], x)
    found = (
        log_evidence(pair, data, method=evidence.ImportanceSampling(50), progress=False, compile="eager").log_evidence
        for data in (x, {"x": x, "total": x.sum(-1)})
    )
    assert torch.equal(*found)
    with pytest.raises(DataError, match="the entries of 'x' share a total"):
        inpaint(pair, x, torch.arange(7) < 4)


@pytest.mark.parametrize("variable", [Exposure(total_of="y"), Exposure(3, total_of="x"), Exposure(total_of="z")])
def test_a_total_of_what_has_none_is_refused(variable: Exposure) -> None:
    with pytest.raises(PairError, match=r"'total' is one number for each datum, the total of an observed variable"):
        LatentModel(
            total=variable,
            z=Latent(StandardNormal(2), posterior=DiagonalNormal(MLP(5, []), 2).given("x")),
            x=Observed(Multinomial(MLP(2, []), 5).given("z", "total")),
        )


class TestNegativeBinomialVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return negative_binomial_vae(7, latent_dim=2, hidden=(5,), zero_inflated=True)

    def make_data(self) -> Tensor:
        return torch.poisson(torch.full((6, 7), 3.0))


class TestStudentTVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return student_t_vae(7, latent_dim=2, hidden=(5,), df="shared", scale="per-dimension")

    def make_data(self) -> Tensor:
        return torch.randn(6, 7)


class TestDiscretisedLogisticVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return discretised_logistic_vae(7, latent_dim=2, hidden=(5,), posterior=posteriors.coupling(1, (4,)))

    def make_data(self) -> Tensor:
        return torch.randint(0, 256, (6, 7)) / 255


@pytest.mark.parametrize(
    ("model", "arguments", "part"),
    [
        (hierarchical_vae, (6,), "posterior_z2"),
        (mixture_vae, (6,), "posterior_z"),
        (conditional_vae, (6, 2), "posterior_z"),
        (convolutional_vae, (6, (2, 3)), "posterior"),
    ],
)
def test_encoders_of_counts_read_their_logarithm(model: Any, arguments: tuple[Any, ...], part: str) -> None:
    pair, binary = model(*arguments, likelihood=Poisson), model(*arguments)
    assert isinstance(getattr(pair, part).head.trunk, LogCounts)
    assert not isinstance(getattr(binary, part).head.trunk, LogCounts)


DATA: dict[str, Any] = {
    "poisson-vae": lambda draw: draw.poisson(4.0, (80, 6)),
    "multinomial-vae": lambda draw: draw.poisson(draw.gamma(1.0, 1.0, 6), (80, 6)),
    "negative-binomial-vae": lambda draw: draw.negative_binomial(2, 0.3, (80, 6)),
    "student-t-vae": lambda draw: draw.standard_t(3, (80, 6)).astype(np.float32),
    "discretised-logistic-vae": lambda draw: draw.integers(0, 256, (80, 6)).astype(np.uint8),
    "gamma-poisson": lambda draw: draw.poisson(draw.gamma(2.0, 2.0, (80, 1)) * np.ones(6)),
}


@pytest.mark.parametrize("name", DATA)
def test_a_recipe_trains_it_on_a_file_of_such_data(name: str, tmp_path: Path) -> None:
    file = tmp_path / "data.npy"
    np.save(file, DATA[name](np.random.default_rng(0)))
    sizes = {} if name == "gamma-poisson" else {"latent_dim": 2, "hidden": [8]}
    training = {"num_epochs": 8, "batch_size": 20, "learning_rate": 0.01}
    recipe = Recipe.from_dict(
        {"model": {"name": name, **sizes}, "data": {"source": str(file)}, "training": training, "device": "cpu"}
    )
    train(recipe, tmp_path / "run")
    history = load_run(tmp_path / "run").history
    assert history[-1]["elbo_train"] > history[0]["elbo_train"] and math.isfinite(history[-1]["elbo_train"])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: poisson_vae(5, latent_dim=0), "latent_dim: expected at least one"),
        (lambda: multinomial_vae((5, 2)), r"multinomial_vae: expected rows of D entries, found data of shape \(5, 2\)"),
        (lambda: negative_binomial_vae(5, dispersion=-1.0), "positive dispersion"),
        (lambda: student_t_vae(5, df=0.0), "positive df"),
        (lambda: discretised_logistic_vae(5, num_levels=1), "num_levels of at least 2"),
        (
            lambda: check_pair(discretised_logistic_vae(3), torch.full((4, 3), 7.0)),
            r"0, 1/255, ..., 1\), found 12 values",
        ),
        (lambda: check_pair(poisson_vae(3), torch.full((4, 3), 0.5)), "whole numbers from 0 on"),
        (lambda: check_pair(poisson_vae(3), torch.full((4, 3), 2 / 255)), "uint8 values are read as bytes"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, match: str) -> None:
    with pytest.raises(PpvaeError, match=match):
        make()
