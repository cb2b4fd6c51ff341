"""Gaps that a description declares: filled by their conditional distribution, which is known for a linear Gaussian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ppvae.core import DataError, PairError
from ppvae.distributions import Bernoulli, EachStep, LinearNormal, StandardNormal, StepwiseNormal
from ppvae.inference import AdditiveNormal, inpaint
from ppvae.models import Latent, LatentModel, Lengths, LinearGaussian, Mask, Observed, bernoulli_vae
from ppvae.networks import MLP, Recurrent


def factors() -> LinearGaussian:
    torch.manual_seed(0)
    return LinearGaussian(
        seen=Mask(),
        z=Latent(StandardNormal(2)),
        x=Observed(LinearNormal([2], 4).given("z"), mask="seen"),
    )


def conditional(pair: LinearGaussian, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every entry given those that are seen, [N, 4], by hand."""
    joint = pair.joint({"x": x, "seen": seen})
    at = joint.slices["x"]
    covariance = joint.covariance[at, at]
    mean, deviation = joint.loc[:, at].expand_as(x).clone(), torch.zeros_like(x)
    for row, here in enumerate(seen):
        gain = covariance[:, here] @ covariance[here][:, here].inverse()
        mean[row] += gain @ (x[row] - mean[row])[here]
        deviation[row] = (covariance - gain @ covariance[here]).diagonal().clamp_min(0).sqrt()
    return mean.detach(), deviation.detach()


def gappy(pair: LinearGaussian) -> dict[str, Tensor]:
    seen = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0]]).bool()
    x = 2 * torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    return {"x": x.where(seen, torch.tensor(math.nan)), "seen": seen}


def repeated(batch: Mapping[str, Tensor], times: int) -> dict[str, Tensor]:
    return {name: value.repeat(times, *(1,) * (value.dim() - 1)) for name, value in batch.items()}


@pytest.mark.parametrize("compile", ["eager", "graph"])
def test_gaps_have_the_conditional_mean(compile: Any) -> None:
    pair = factors()
    batch = gappy(pair)
    truth, _ = conditional(pair, batch["x"].nan_to_num(), batch["seen"])
    seen = batch["seen"]
    found = inpaint(
        pair, repeated(batch, 60), num_steps=120, num_burn_in=100, num_chains=1, num_draws=1, compile=compile
    ).mean
    found = found.reshape(60, 3, 4)
    assert torch.equal(found[:, seen], batch["x"][seen].expand(60, -1))
    mean, error = found.mean(0), found.std(0) / math.sqrt(60)
    assert bool(((mean - truth)[~seen].abs() < 4.5 * error[~seen]).all())
    # It could have been seen: without what is observed, the mean is another one.
    none, _ = conditional(pair, batch["x"].nan_to_num(), torch.zeros_like(seen))
    assert float(((none - truth)[~seen].abs() / error[~seen]).max()) > 20


def test_draws_have_the_conditional_moments() -> None:
    pair = factors()
    batch = gappy(pair)
    truth, deviation = conditional(pair, batch["x"].nan_to_num(), batch["seen"])
    missing = ~batch["seen"]
    restored = inpaint(
        pair,
        batch,
        num_chains=2000,
        num_draws=2000,
        chunk_size=10_000,
        num_steps=5,
        num_burn_in=0,
        method="metropolis-within-gibbs",
    )
    found = restored.draws
    assert bool(((found.mean(0) - truth)[missing].abs() < 4.5 * deviation[missing] / math.sqrt(2000)).all())
    ratio = found.std(0)[missing] / deviation[missing]
    assert bool(((ratio - 1).abs() < 4.5 / math.sqrt(2 * 2000)).all())
    torch.testing.assert_close(restored.standard_deviation[missing], deviation[missing], rtol=0.03, atol=0)
    assert bool(((restored.mean - truth)[missing].abs() < 4.5 * restored.standard_error[missing]).all())


def test_a_mask_of_ones_leaves_everything() -> None:
    pair = factors()
    x = torch.randn(3, 4)
    assert torch.equal(inpaint(pair, {"x": x, "seen": torch.ones(3, 4)}, num_steps=60, num_burn_in=50).mean, x)


def test_a_modality_is_filled_from_the_other() -> None:
    """The second one is missing as a whole; and it is named, where there are two."""
    pair = LinearGaussian(
        has=Mask(per_datum=True),
        z=Latent(StandardNormal(2)),
        a=Observed(LinearNormal([2], 3).given("z")),
        b=Observed(LinearNormal([2], 2).given("z"), mask="has"),
    )
    a, b = torch.randn(1, 3), torch.randn(1, 2)
    joint = pair.joint({"a": a, "b": b, "has": torch.zeros(1)})
    here, there = joint.slices["a"], joint.slices["b"]
    gain = joint.covariance[there, here] @ joint.covariance[here, here].inverse()
    truth = (joint.loc[:, there] + (a - joint.loc[:, here]) @ gain.T).detach()
    batch = repeated({"a": a, "b": b, "has": torch.zeros(1)}, 60)
    found = inpaint(pair, batch, site="b", num_steps=120, num_burn_in=100, num_chains=1, num_draws=1).mean
    assert bool(((found.mean(0) - truth[0]).abs() < 4.5 * found.std(0) / math.sqrt(60)).all())
    with pytest.raises(PairError, match="2 observed sites"):
        inpaint(pair, batch)


def test_beyond_a_length_is_a_gap() -> None:
    pair = LatentModel(
        lengths=Lengths(),
        z=Latent(StandardNormal((4, 1)), posterior=StepwiseNormal(Recurrent(2, 3), (4, 1)).given("x")),
        x=Observed(EachStep(Bernoulli(MLP(1, []), 2), 4).given("z"), lengths="lengths"),
    )
    x, lengths = torch.ones(2, 4, 2), torch.tensor([2, 4])
    found = inpaint(pair, {"x": x, "lengths": lengths}, num_steps=60, num_burn_in=50).mean
    assert torch.equal(found[0, :2], x[0, :2]) and torch.equal(found[1], x[1])
    assert bool(((found[0, 2:] > 0) & (found[0, 2:] < 1)).all())


def test_what_is_missing_is_said_once() -> None:
    pair, vae = factors(), bernoulli_vae(4, latent_dim=2, hidden=(3,))
    with pytest.raises(DataError, match=r"(?s)one tensor of data beside a mask, found a mapping.*in its own member"):
        inpaint(pair, gappy(pair), torch.ones(3, 4).bool())
    with pytest.raises(DataError, match=r"(?s)nothing says which entries of 'x' are missing.*seen=Mask\(\)"):
        inpaint(vae, torch.ones(3, 4))
    with pytest.raises(DataError, match=r"(?s)noise goes with a mask.*denoise\(pair, data, noise\)"):
        inpaint(pair, gappy(pair), noise=AdditiveNormal(0.5))
