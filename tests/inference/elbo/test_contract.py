"""Every estimator keeps the contract."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from contracts.elbo import ELBOContract, declared_facts, proofs_of
from contracts.elbo_oracles import Outside, linear_vae, mean, power_mean, some_data
from torch import nn

from ppvae.core import PairError
from ppvae.inference import elbo


class TestTrace(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.TraceELBO(num_particles=2)


class TestTraceMeanField(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.TraceMeanFieldELBO(num_particles=2)


class TestStickingTheLanding(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.StickingTheLandingELBO(num_particles=2)


class TestImportanceWeighted(ELBOContract):
    def make(self) -> elbo.ELBO:
        return elbo.ImportanceWeightedELBO(2)


class TestRenyi(ELBOContract):
    bound = staticmethod(power_mean(0.5))

    def make(self) -> elbo.ELBO:
        return elbo.RenyiELBO(0.5, num_particles=2)


class TestRenyiOfLargeOrder(ELBOContract):
    bound = staticmethod(power_mean(2.0))

    def make(self) -> elbo.ELBO:
        return elbo.RenyiELBO(2.0, num_particles=2)


class TestRenyiOfNegativeOrder(ELBOContract):
    bound = staticmethod(power_mean(-3.0))
    wrong = 0.25  # near the exact guide, where the power mean of exponent 4 exceeds the evidence

    def make(self) -> elbo.ELBO:
        return elbo.RenyiELBO(-3.0, num_particles=2)


class TestDoublyReparameterized(ELBOContract):
    def make(self) -> elbo.ELBO:
        return elbo.DoublyReparameterizedELBO(2)


class TestVIMCO(ELBOContract):
    def make(self) -> elbo.ELBO:
        return elbo.VIMCO(2)


class TestWake(ELBOContract):
    def make(self) -> elbo.ELBO:
        return elbo.ReweightedWakeSleep(2)


class TestWakeAndSleep(ELBOContract):
    def make(self) -> elbo.ELBO:
        return elbo.ReweightedWakeSleep(2, sleep=0.5)

    def test_an_observation_outside_the_plate_is_not_dreamt_of(self) -> None:
        with pytest.raises(PairError, match=r"dreams of data, but observed site 'y' stands outside the plate"):
            self.make().check(Outside(linear_vae()), some_data())


class TestScoreFunction(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.ScoreFunctionELBO(num_particles=2)


class TestScoreFunctionLeaveOneOut(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.ScoreFunctionELBO(num_particles=2, baseline="leave-one-out")


class TestScoreFunctionDecayingAverage(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        return elbo.ScoreFunctionELBO(num_particles=2, baseline="decaying-average")


class LinearBaseline(nn.Module):
    """A linear function of the first two data dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x[:, :2])


class TestScoreFunctionLearnedBaseline(ELBOContract):
    bound = staticmethod(mean)

    def make(self) -> elbo.ELBO:
        torch.manual_seed(2)
        return elbo.ScoreFunctionELBO(num_particles=2, baseline=LinearBaseline())


# --- the facts ---

FALSE_FACTS: dict[str, tuple[type[ELBOContract], bool]] = {
    "is_lower_bound": (TestTrace, False),
    "needs_rsample": (TestTrace, False),
    "tight_when_guide_exact": (TestImportanceWeighted, False),
    "zero_variance_when_guide_exact": (TestTraceMeanField, True),
    "unbiased_gradient": (TestWake, True),
    "supports_global_latents": (TestImportanceWeighted, True),
    "serves_noise_per_datum": (TestTrace, True),
    "serves_scaled_sites": (TestVIMCO, True),
    "serves_all_values": (TestVIMCO, True),
    "serves_kl_per_site": (TestVIMCO, True),
    "sums_over_data": (TestTrace, False),
}
"""Of every fact, an estimator and a value that is false of it."""


@pytest.mark.parametrize("fact", declared_facts())
def test_every_declared_fact_has_a_proof_that_can_fail(fact: str, float64: torch.dtype) -> None:
    case, value = FALSE_FACTS[fact]
    contract = case()
    honest = contract.make()
    assert getattr(honest, fact) is not value

    def make() -> elbo.ELBO:
        made = case().make()
        setattr(made, fact, value)
        return made

    contract.make = make  # type: ignore[method-assign]
    given: dict[str, Any] = {"float64": float64, "kl_weight": 1.0, "with_global": True}
    proofs = list(proofs_of(fact))
    assert proofs, f"{fact} has no proof in ELBOContract"
    refuted = []
    for proof in proofs:
        arguments = {name: given[name] for name in inspect.signature(proof).parameters if name in given}
        try:
            proof(contract, **arguments)
        except (Exception, pytest.fail.Exception):
            refuted.append(proof.__name__)
    assert refuted
