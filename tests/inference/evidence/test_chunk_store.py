"""A store of finished chunks: any store, for one value of the weights or averaged over many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.core import ModelGuidePair, PpvaeError
from ppvae.inference.evidence import ChunkKey, Estimate, Evidence, ImportanceSampling, log_evidence
from ppvae.models import FactorAnalysis, bayesianise, bernoulli_vae


class Memory(dict[ChunkKey, Estimate]):
    """The smallest store."""

    def put(self, chunk: ChunkKey, estimate: Estimate) -> None:
        self[chunk] = estimate


def estimate(pair: ModelGuidePair, x: Tensor, **options: Any) -> Evidence:
    method = ImportanceSampling(4)
    return log_evidence(pair, x, method=method, chunk_size=3, device="cpu", progress=False, compile="eager", **options)


def bits(found: Evidence) -> list[bytes]:
    return [bytes(found.log_evidence.numpy()), bytes(found.standard_error.numpy()), bytes(found.pareto_k.numpy())]


@pytest.mark.parametrize("draws", [None, 2])
def test_goes_on_after_the_last_finished_chunk(monkeypatch: pytest.MonkeyPatch, draws: int | None) -> None:
    torch.manual_seed(0)
    pair, x = bernoulli_vae(4, latent_dim=2, hidden=(3,)), torch.bernoulli(torch.full((8, 4), 0.5))
    weighted = pair if draws is None else bayesianise(pair)
    total = 3 * (draws or 1)
    whole = estimate(weighted, x, global_sites=draws)
    store, made, last = Memory(), [0], [0]
    original = ImportanceSampling.estimate

    def counted(self: ImportanceSampling, *args: Any) -> Estimate:
        if made[0] == last[0]:
            raise KeyboardInterrupt
        made[0] += 1
        return original(self, *args)

    monkeypatch.setattr(ImportanceSampling, "estimate", counted)
    for done in range(1, total):
        last[0] = done
        with pytest.raises(KeyboardInterrupt):  # also after the first chunk: nothing is lost by it
            estimate(weighted, x, global_sites=draws, store=store)
        assert len(store) == done
    last[0] = total
    assert bits(estimate(weighted, x, global_sites=draws, store=store)) == bits(whole)
    assert made == [total]
    assert bits(estimate(weighted, x, global_sites=draws, store=store)) == bits(whole)
    assert made == [total]  # nothing was computed
    last[0] = -1
    other = estimate(weighted, x, global_sites=draws, store=store, seed=1)
    assert made == [2 * total]
    assert bits(other) != bits(whole)


def test_a_chunk_size_below_one_is_refused() -> None:
    with pytest.raises(PpvaeError, match="chunk_size: expected at least 1, found 0"):
        log_evidence(FactorAnalysis(4, 2), torch.randn(8, 4), chunk_size=0)


def test_every_chunk_has_noise_of_its_own() -> None:
    pair, x = bernoulli_vae(4, latent_dim=2, hidden=(3,)), torch.ones(9, 4)
    first = estimate(pair, x).log_evidence.reshape(3, 3)[:, 0]
    assert len(first.unique()) == 3
