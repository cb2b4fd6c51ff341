"""The contract of a pair, inherited by pairs that stretch the waist."""

from __future__ import annotations

import torch
from contracts.pair import PairContract
from core.pairs import GammaLatent, GlobalWeight, Hierarchy, Nested, PyroExampleVAE
from torch import Tensor

from ppvae.core import ModelGuidePair
from ppvae.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiagonalNormal,
    FullCovarianceNormal,
    Normal,
    StandardNormal,
)
from ppvae.models import VAE
from ppvae.networks import MLP, ConvDecoder, ConvEncoder


class TestHierarchy(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return Hierarchy()

    def make_data(self) -> Tensor:
        return torch.randn(6, 4)


class TestGammaLatent(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return GammaLatent()

    def make_data(self) -> Tensor:
        return torch.poisson(torch.full((6, 3), 3.0))


class TestGlobalWeight(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return GlobalWeight()

    def make_data(self) -> Tensor:
        return torch.randn(6, 3)


class TestNested(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return Nested()

    def make_data(self) -> Tensor:
        return torch.randn(6, 3)


class TestPyroExampleVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        vae = PyroExampleVAE()
        return ModelGuidePair.from_callables(vae.model, vae.guide)

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 12), 0.4))


class TestConvolutionalVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return VAE(
            prior=StandardNormal(2),
            likelihood=Bernoulli(ConvDecoder(2, (8, 8), (4, 3)), (8, 8)),
            posterior=DiagonalNormal(ConvEncoder((8, 8), (3, 4), 5), 2),
        )

    def make_data(self) -> Tensor:
        return torch.bernoulli(torch.full((6, 8, 8), 0.4))


class TestFullCovarianceNormalVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return VAE(
            prior=StandardNormal(3),
            likelihood=Normal(MLP(3, [5]), 4, scale="per-dimension", mean="sigmoid"),
            posterior=FullCovarianceNormal(MLP(4, [5]), 3),
        )

    def make_data(self) -> Tensor:
        return torch.rand(6, 4)


class TestContinuousBernoulliVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return VAE(
            StandardNormal(2), ContinuousBernoulli(MLP(2, [5]), 4), DiagonalNormal(MLP(4, [5], activation="relu"), 2)
        )

    def make_data(self) -> Tensor:
        return torch.rand(6, 4)


class TestCategoricalVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return VAE(StandardNormal(2), Categorical(MLP(2, [5]), 4, 3), DiagonalNormal(MLP(4, [5]), 2))

    def make_data(self) -> Tensor:
        return torch.randint(0, 3, (6, 4))
