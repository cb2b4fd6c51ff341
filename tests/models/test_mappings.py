"""Pairs whose batch is a mapping of tensors keep the contract: covariates, several observed sites, what is not seen."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from contracts.pair import PairContract
from torch import Tensor, nn

from ppvae.core import Data, ModelGuidePair
from ppvae.distributions import DiagonalNormal
from ppvae.networks import MLP

CLASSES = 3
Batch = dict[str, Tensor]


class CovariateVAE(ModelGuidePair):
    """Measurements and a class, both observed, given covariates and one latent; some classes are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.measurement = nn.Linear(2 + 2, 4)
        self.log_scale = nn.Parameter(torch.zeros(4))
        self.label = nn.Linear(2, CLASSES)
        self.posterior = DiagonalNormal(MLP(4 + 2 + CLASSES, [6]), 2)

    def model(self, x: Batch, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).to(self.log_scale), 1.0).to_event(1))
            inputs = torch.cat([z, x["covariates"].expand(*z.shape[:-1], 2)], -1)
            loc = self.measurement(inputs)
            pyro.sample("y", dist.Normal(loc, self.log_scale.exp()).to_event(1), obs=x["y"])
            label = dist.Categorical(logits=self.label(z))
            pyro.sample("label", label.mask(x["seen"]), obs=x["label"])

    def guide(self, x: Batch, num_data: int | None = None) -> None:
        # `one_hot` looks at the labels' values, which a captured step cannot; a row of the identity is the same.
        label = torch.eye(CLASSES).to(x["y"])[x["label"]] * x["seen"][:, None]
        with self.data_plate(x, num_data):
            context = torch.cat([x["y"], x["covariates"], label], -1)
            pyro.sample("z", self.posterior(context))


class TestCovariateVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return CovariateVAE()

    def make_data(self) -> Data:
        return {
            "y": torch.randn(6, 4),
            "covariates": torch.randn(6, 2),
            "label": torch.arange(6) % CLASSES,
            "seen": torch.arange(6) != 4,
        }


class Regression(nn.Module):
    """A Pyro program that takes its tensors by name."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.encoder = nn.Linear(3, 2)

    def model(self, inputs: Tensor, response: Tensor) -> None:
        with pyro.plate("data", len(inputs)):
            offset = pyro.sample("offset", dist.Normal(torch.zeros(()).to(inputs), 1.0))
            pyro.sample("response", dist.Normal(inputs @ self.slope + offset, 0.7), obs=response)

    def guide(self, inputs: Tensor, response: Tensor) -> None:
        with pyro.plate("data", len(inputs)):
            loc, log_scale = self.encoder(torch.cat([inputs, response[:, None]], -1)).unbind(-1)
            pyro.sample("offset", dist.Normal(loc, log_scale.exp()))


class TestUnpackedRegression(PairContract):
    def make_pair(self) -> ModelGuidePair:
        program = Regression()
        return ModelGuidePair.from_callables(program.model, program.guide, unpack=True)

    def make_data(self) -> Data:
        return {"inputs": torch.randn(6, 2), "response": torch.randn(6)}


# --- the contract can fail ---


class Joined(CovariateVAE):
    """Centres the covariates over the batch, so that a datum's density depends on the others."""

    def model(self, x: Batch, num_data: int | None = None) -> None:
        super().model({**x, "covariates": x["covariates"] - x["covariates"].mean(0)}, num_data)


def test_a_mapping_whose_data_are_not_independent_is_found(float64: torch.dtype) -> None:
    case, pair = TestCovariateVAE(), Joined()
    case.test_shapes(pair, case.make_data())
    with pytest.raises(AssertionError, match="not close"):
        case.test_batch_equals_loop(pair, case.make_data())
