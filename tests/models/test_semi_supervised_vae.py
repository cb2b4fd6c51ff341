"""M2: the contract of a pair, and the density of a datum whose class is summed out."""

from __future__ import annotations

import pytest
import torch
from contracts.pair import PairContract

from ppvae.core import Data, ModelGuidePair, PpvaeError, log_joint
from ppvae.models import likelihoods, semi_supervised_vae


class TestSemiSupervisedVAE(PairContract):
    def make_pair(self) -> ModelGuidePair:
        return semi_supervised_vae(6, 3, latent_dim=2, hidden=(4,))

    def make_data(self) -> Data:
        return {"x": torch.bernoulli(torch.full((6, 6), 0.4)), "label": torch.tensor([0, -1, 2, -1, -1, 1])}


def test_the_class_of_a_gap_is_summed_out(float64: torch.dtype) -> None:
    pair = semi_supervised_vae(6, 3, latent_dim=2, hidden=(4,), likelihood=likelihoods.gaussian(scale="shared"))
    with torch.no_grad():
        for parameter in pair.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    x, z = torch.randn(4, 6), torch.randn(1, 4, 2)

    def joint(label: int) -> torch.Tensor:
        batch = {"x": x, "label": torch.full((4,), label)}
        return log_joint(pair, batch, {"z": z, "label_unobserved": torch.eye(3)[[0]].expand(1, 4, 3)}).local

    one_hot = torch.eye(3)
    by_class = [joint(k) for k in range(3)]
    hidden = {"x": x, "label": torch.full((4,), -1)}
    unknown = [
        log_joint(pair, hidden, {"z": z, "label_unobserved": one_hot[k].expand(1, 4, 3)}).local for k in range(3)
    ]
    for known, drawn in zip(by_class, unknown, strict=True):
        torch.testing.assert_close(known, drawn)


def test_at_first_no_class_differs_from_another() -> None:
    """Hidden layers hardly see which class it is; the layers above them start as PyTorch's, so that learning begins."""
    torch.manual_seed(0)
    pair = semi_supervised_vae(6, 3, latent_dim=2, hidden=(50,))
    x, z, drawn = torch.bernoulli(torch.full((4, 6), 0.4)), torch.randn(1, 4, 2), torch.eye(3)[[0]].expand(1, 4, 3)
    joints = [
        log_joint(pair, {"x": x, "label": torch.full((4,), k)}, {"z": z, "label_unobserved": drawn}).local
        for k in range(3)
    ]
    torch.testing.assert_close(joints[0], joints[1], rtol=0, atol=1e-2)
    torch.testing.assert_close(joints[0], joints[2], rtol=0, atol=1e-2)
    heads = [p for name, p in pair.named_parameters() if "head.layers" in name and name.endswith("weight")]
    assert all(float(weight.detach().abs().max()) > 0.1 for weight in heads)  # U(-1/sqrt(50), 1/sqrt(50))


def test_data_of_several_axes_are_refused() -> None:
    with pytest.raises(PpvaeError, match=r"expected rows of D entries, found data of shape \(2, 3\)"):
        semi_supervised_vae((2, 3), 3)
    with pytest.raises(PpvaeError, match="latent_dim: expected at least one"):
        semi_supervised_vae(6, 3, latent_dim=0)
