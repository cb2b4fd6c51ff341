"""Topic models: the contract of a pair, and the evidence by quadrature."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contracts.exact_twins import scramble
from contracts.pair import PairContract
from torch import Tensor
from torch.distributions import Multinomial

from ppvae.core import Data, ModelGuidePair, PpvaeError, log_joint
from ppvae.inference import evidence, fit, log_evidence, topics
from ppvae.models import LatentModel, topic_model

V = 4


def documents(count: int = 6) -> Tensor:
    return torch.distributions.Poisson(torch.tensor([4.0, 1.0, 0.5, 2.0])).sample((count,))


class TestTopicModel(PairContract):
    kind: Any = "prodlda"

    def make_pair(self) -> ModelGuidePair:
        return topic_model(V, kind=self.kind, num_topics=3, hidden=(5,))

    def make_data(self) -> Data:
        return documents()


class TestNVDM(TestTopicModel):
    kind = "nvdm"


def scrambled(kind: Any, num_topics: int) -> tuple[LatentModel, Tensor, Tensor]:
    """A model, its topics [V, K] and what all documents share [V]."""
    pair = topic_model(V, kind=kind, num_topics=num_topics, hidden=(5,), concentration=0.4)
    scramble(pair)
    layer = pair.likelihood_x.head.layers[0]
    return pair, layer.weight.detach(), layer.bias.detach()


def by_quadrature(x: Tensor, kind: str, weight: Tensor, bias: Tensor) -> Tensor:
    """log p(x) over one dimension: z of one topic, or of two that ProdLDA's softmax reduces to their difference."""
    scale = 1.0 if kind == "nvdm" else math.sqrt(2 * (1 - 1 / 2) / 0.4)
    z = torch.linspace(-12, 12, 4001) * scale
    theta = z[:, None] if kind == "nvdm" else torch.stack([z.sigmoid(), (-z).sigmoid()], 1)
    share = (theta @ weight.T + bias).softmax(-1)
    log_prior = -0.5 * (z / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))
    values = [
        (Multinomial(int(row.sum()), share).log_prob(row) + log_prior + (z[1] - z[0]).log()).logsumexp(0) for row in x
    ]
    return torch.stack(values)


@pytest.mark.parametrize(("kind", "num_topics"), [("nvdm", 1), ("prodlda", 2)])
def test_the_evidence_is_that_of_quadrature(kind: str, num_topics: int, float64: torch.dtype) -> None:
    pair, weight, bias = scrambled(kind, num_topics)
    x = documents()
    exact = by_quadrature(x, kind, weight, bias)
    # The same integral through the waist, over the plane.
    line = torch.linspace(-8, 8, 200 if num_topics == 2 else 4001) * (1.0 if num_topics == 1 else math.sqrt(1.25))
    z = torch.cartesian_prod(*[line] * num_topics).reshape(-1, 1, num_topics).expand(-1, len(x), -1)
    terms = log_joint(pair, x, {"z": z}).local + num_topics * (line[1] - line[0]).log()
    torch.testing.assert_close(terms.logsumexp(0), exact, rtol=0, atol=1e-9)


def test_two_methods_agree_with_quadrature(float64: torch.dtype) -> None:
    pair, x = scrambled("prodlda", 2)[0], documents()
    fit(pair, x, num_epochs=50, batch_size=6, compile="eager", progress=False, learning_rate=0.02)
    layer = pair.likelihood_x.head.layers[0]
    exact = by_quadrature(x, "prodlda", layer.weight.detach(), layer.bias.detach())
    for method in (evidence.ImportanceSampling(2000), evidence.AIS(num_temperatures=15, num_chains=64)):
        found = log_evidence(pair, x, method=method, compile="eager")
        error = (found.log_evidence - exact) / found.standard_error
        assert bool((error.abs() < 4).all()), error


@pytest.mark.parametrize("kind", ["nvdm", "prodlda"])
def test_topics_are_the_columns_of_the_decoder(kind: str) -> None:
    """In the order of their weights, whatever all documents share."""
    pair, weight, _ = scrambled(kind, 3)
    names = ("court", "goal", "vote", "rain")
    found = topics(pair, like=documents(), words=names)
    expected = (
        weight.argsort(0, descending=True).T
        if kind == "nvdm"
        else (weight - weight.mean(1, True)).argsort(0, descending=True).T
    )
    assert torch.equal(found.index, expected)
    assert found.words[1] == tuple(names[v] for v in expected[1].tolist())
    assert str(topics(pair, like=documents(), num_words=1)).splitlines()[2] == f"2: {int(expected[2, 0])}"


def test_what_is_refused() -> None:
    for options, message in (
        ({"num_topics": 1}, "num_topics: expected at least one latent dimension"),
        ({"concentration": 0.0}, "concentration: expected a positive number"),
        ({"kind": "lda"}, "kind: unknown word 'lda'"),
        ({"event_shape": (2, 3)}, "expected rows of D entries"),
    ):
        with pytest.raises(PpvaeError, match=message):
            topic_model(**{"event_shape": V, **options})  # type: ignore[arg-type]
    pair = topic_model(V, num_topics=2, hidden=(5,))
    with pytest.raises(PpvaeError, match="expected 4 words, one for each entry of a datum, found 1"):
        topics(pair, like=documents(), words=["court"])
    with pytest.raises(PpvaeError, match="not all 0"):
        topics(pair, like=torch.zeros(2, V))
