"""A pair whose latents are all summed out: every verb is exact, or refuses it by name and says what serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

from ppvae.core import ModelGuidePair, PairError
from ppvae.inference import (
    aggregate_posterior,
    compare_elbos,
    elbo,
    embed,
    evaluate_bound,
    evidence,
    generate,
    inference_gaps,
    inpaint,
    log_evidence,
    posterior_checks,
    reconstruct,
    sample_posterior,
    site_report,
)
from ppvae.models import HiddenMarkovModel, MixtureOfFactorAnalysers


class Mixture(ModelGuidePair):
    """Three normals in two dimensions; the guide is empty."""

    LOC = torch.tensor([[-1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    LOGITS = torch.tensor([0.0, 0.5, 1.0])
    SCALE = 0.8

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(self.LOC.clone())

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=self.LOGITS), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(Vindex(self.loc)[y], self.SCALE).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        pass

    def terms(self, x: Tensor, columns: slice = slice(None)) -> Tensor:
        """log p(x, y) of some columns of x, [B, 3]."""
        likely = dist.Normal(self.LOC[:, columns], self.SCALE).log_prob(x[:, None, columns]).sum(-1)
        return self.LOGITS.log_softmax(0) + likely


def data_of(number: int = 200) -> Tensor:
    return torch.randn(number, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "method",
    [
        evidence.ImportanceSampling(100),
        evidence.ImportanceSampling(100, defensive=0.5),
        evidence.PSIS(100),
        evidence.PriorSampling(100),
    ],
)
def test_evidence_is_exact_and_not_called_low(method: Any) -> None:
    pair, x = Mixture(), data_of()
    result = log_evidence(pair, x, method=method, progress=False)
    torch.testing.assert_close(result.log_evidence, pair.terms(x).logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert result.outcome.unique().tolist() == [0]


def test_evidence_of_long_chains_is_not_called_low() -> None:
    """Rounding grows with the value: -700 nats here."""
    pair = HiddenMarkovModel.from_parameters(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], loc=[[-1.0] * 10, [1.0] * 10], scale=[[1.0] * 10] * 2
    )
    x = 1.5 * torch.randn(20, 30, 10, generator=torch.Generator().manual_seed(0))
    result = log_evidence(pair, x, method=evidence.ImportanceSampling(20), progress=False)
    assert float(result.log_evidence.mean()) < -500
    assert result.outcome.unique().tolist() == [0]


def test_little_mass_that_is_missed_is_still_seen() -> None:
    """Power: 2 per cent more than an estimate without error says, however large its value."""
    value = torch.full((3,), -1000.0)
    weights = value + torch.tensor([0.0, 2e-4, 0.02]) + torch.zeros(50, 1)
    probe = evidence.probe.Probe(weights, torch.full_like(weights, torch.nan))
    low = evidence.probe.misses_mass(value, torch.zeros(3), None, probe)
    assert low.tolist() == [False, False, True]


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "sample_posterior": (sample_posterior, "nothing to sample"),
    "AIS": (lambda pair, x: log_evidence(pair, x, method=evidence.AIS()), "nothing to sample"),
    "BridgeSampling": (lambda pair, x: log_evidence(pair, x, method=evidence.BridgeSampling()), "nothing to sample"),
    "RIS": (lambda pair, x: log_evidence(pair, x, method=evidence.RIS()), "nothing to sample"),
    "inference_gaps": (inference_gaps, "nothing to sample"),
    "embed": (embed, "it has probabilities, and no value"),
    "aggregate_posterior": (aggregate_posterior, "it has probabilities, and no value"),
}


@pytest.mark.parametrize("verb", REFUSED)
def test_refused_by_name(verb: str) -> None:
    run, message = REFUSED[verb]
    with pytest.raises(PairError, match=r"'y'(?s:.*)discrete_posterior") as error:
        run(Mixture(), data_of(4))
    assert message in str(error.value)


def test_summed_out_site_has_no_embedding_beside_another_latent() -> None:
    pair = MixtureOfFactorAnalysers(2, 2, 1)
    for verb in (embed, aggregate_posterior):
        with pytest.raises(PairError, match=r"'y' is summed out(?s:.*)discrete_posterior"):
            verb(pair, data_of(4), site="y")
    assert embed(pair, data_of(4), site="z").shape == (4, 1)


def test_reconstruction_is_the_mean_given_the_posterior() -> None:
    pair, x = Mixture(), data_of(7)
    truth = pair.terms(x).softmax(-1) @ pair.LOC
    for number in (1, 5):
        torch.testing.assert_close(reconstruct(pair, x, num_samples=number), truth)
    torch.testing.assert_close(reconstruct(pair, x), truth)


def test_inpainting_is_the_conditional_mean() -> None:
    pair, x = Mixture(), data_of(20)
    truth = pair.terms(x, slice(0, 1)).softmax(-1) @ pair.LOC[:, 1]
    filled = inpaint(pair, x, torch.tensor([True, False]), num_steps=600, num_burn_in=100).mean
    assert torch.equal(filled[:, 0], x[:, 0])
    assert float((filled[:, 1] - truth).abs().max()) < 0.15
    assert float((filled[:, 1] - truth).square().mean().sqrt()) < 0.06


def test_other_verbs_work() -> None:
    pair, x = Mixture(), data_of(20)
    bound = float(pair.terms(x).logsumexp(-1).mean())
    assert generate(pair, 5, like=x).shape == generate(pair, 5, like=x, kind="sample").shape == (5, 2)
    torch.testing.assert_close(generate(pair, 1, like=x)[0], pair.LOGITS.softmax(0) @ pair.LOC)
    for source in ("prior", "posterior"):
        checks = posterior_checks(pair, x, source=source, num_replicates=10)  # type: ignore[arg-type]
        assert checks.num_replicates == 10
    estimators = [elbo.TraceELBO(), elbo.StickingTheLandingELBO(), elbo.DoublyReparameterizedELBO(3)]
    for estimator in estimators:
        assert float(evaluate_bound(pair, x, elbo=estimator).mean) == pytest.approx(bound, abs=1e-4)
    rows = compare_elbos(pair, x, estimators, num_repeats=4, progress=False)
    assert "TraceELBO" in repr(rows)
    assert f"elbo {bound:.3f}" in repr(site_report(pair, x))
