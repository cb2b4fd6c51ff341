"""The VAE of counts: the contract of a pair, and the gamma-Poisson model where the decoder ignores the latent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor

from ppvae.core import Data, ModelGuidePair, PpvaeError, log_joint
from ppvae.data import Dataset
from ppvae.inference import evidence, fit, log_evidence
from ppvae.models import GammaPoisson, LatentModel, count_vae
from ppvae.runs.training.roles import in_roles

D = 3
SIZE = torch.tensor([4.0, 10.0, 1.0, 7.5, 20.0, 3.0])


def cells() -> Tensor:
    return torch.distributions.Poisson(SIZE[:, None] * torch.tensor([0.5, 0.1, 0.4])).sample() + torch.eye(D).repeat(
        2, 1
    )


def small(**options: Any) -> LatentModel:
    return count_vae(D, latent_dim=2, hidden=(5,), **options)


class TestCountVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return small()

    def make_data(self) -> Data:
        return cells()


class TestWithBatchesAndZeros(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return small(num_batches=2, size="given", zero_inflated=True, dispersion="conditional")

    def make_data(self) -> Data:
        return {"x": cells(), "size": SIZE, "batch": torch.eye(2).repeat(3, 1)}


@pytest.mark.parametrize("size", ["total", "given", "none"])
def test_counts_given_the_latent_are_those_of_a_gamma_poisson_model(size: Any, float64: torch.dtype) -> None:
    """A Poisson whose rate is gamma is negative binomial: exposure, mean and dispersion of each count."""
    pair, x, z = small(size=size), cells(), torch.randn(2, 6, 2)
    scramble(pair)
    exposure = {"total": x.sum(1), "given": SIZE, "none": torch.ones(6)}[size]
    batch = {"x": x, "size": SIZE} if size == "given" else x
    found = log_joint(pair, batch, {"z": z}).observed
    head, log_dispersion = pair.likelihood_x.head, pair.likelihood_x.log_dispersion
    concentration = (-log_dispersion).exp()
    for k in range(2):
        for b in range(6):
            rate = head(z[k, b])[0].exp()
            expected = sum(
                GammaPoisson.from_parameters(concentration[d], concentration[d], rate[d : d + 1]).log_evidence(
                    {"x": x[b : b + 1, d : d + 1], "exposure": exposure[b : b + 1]}
                )
                for d in range(D)
            )
            torch.testing.assert_close(found[k, b], torch.as_tensor(expected)[0])


def test_the_counts_start_at_the_size() -> None:
    pair, z = count_vae(500, latent_dim=2, hidden=(5,)), torch.randn(50, 2)
    total = pair.likelihood_x(z, torch.full((50,), 1000.0)).mean.sum(1)
    assert bool(((total > 500) & (total < 2000)).all())


def test_two_methods_agree() -> None:
    torch.manual_seed(0)
    pair = small(num_batches=2)
    batch = {"x": cells(), "batch": torch.eye(2).repeat(3, 1)}
    fit(pair, batch, num_epochs=50, batch_size=6, compile="eager", progress=False, learning_rate=0.02)
    one, two = (
        log_evidence(pair, batch, method=method, compile="eager")
        for method in (evidence.ImportanceSampling(2000), evidence.AIS(num_temperatures=15, num_chains=64))
    )
    error = (one.log_evidence - two.log_evidence) / torch.hypot(one.standard_error, two.standard_error)
    assert bool((error.abs() < 4).all()), error


def test_labels_are_batches() -> None:
    found = in_roles(Dataset(cells(), labels=torch.arange(6) % 2, value_space="count"), small(num_batches=2))
    assert torch.equal(found.members["batch"], torch.eye(2).repeat(3, 1)) and "size" not in found.members
    with pytest.raises(PpvaeError, match=r"has no member 'size' \(Exposure\)"):
        in_roles(Dataset(cells()), small(size="given"))


def test_what_is_refused() -> None:
    for options, message in (
        ({"size": "sum"}, "size: unknown word 'sum'"),
        ({"num_batches": -1}, "num_batches: expected at least 0"),
        ({"event_shape": (2, 3)}, "expected rows of D entries"),
    ):
        with pytest.raises(PpvaeError, match=message):
            count_vae(**{"event_shape": D, **options})  # type: ignore[arg-type]
    with pytest.raises(PpvaeError, match="expected a batch with the members 'batch', 'x'"):
        log_joint(small(num_batches=2), cells(), {"z": torch.zeros(1, 6, 2)})
