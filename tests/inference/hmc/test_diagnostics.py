"""R-hat and effective sample size, against ArviZ's, scalar for scalar."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ppvae.inference.hmc import diagnostics
from ppvae.inference.hmc.diagnostics import ess, rhat


def hard_draws(chains: int, draws: int, dtype: torch.dtype) -> torch.Tensor:
    """Scalars of every kind: slow chains, chains apart, heavy tails, ties, antithetic, white."""
    white = torch.randn(chains, draws, 8, dtype=dtype)
    slow = 0.1 * white.cumsum(1)
    parts = [
        white,
        slow,
        white + torch.arange(chains)[:, None, None],
        white**3,
        (2 * white).round(),
        white.abs() * (-1) ** torch.arange(draws)[None, :, None],
        white * (1 + torch.arange(chains)[:, None, None]),
    ]
    return torch.cat(parts, -1).reshape(chains, draws, 7, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("chains", "draws"), [(4, 100), (4, 101), (2, 4), (3, 5), (2, 7), (1, 64)])
def test_equal_to_arviz(chains: int, draws: int, dtype: torch.dtype) -> None:
    import arviz as az

    values = hard_draws(chains, draws, dtype)
    data = az.convert_to_dataset({"v": values.numpy()})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        expected_rhat, expected_ess = az.rhat(data)["v"].values, az.ess(data)["v"].values
    np.testing.assert_allclose(ess(values).numpy(), expected_ess, rtol=1e-6)
    if chains > 1:
        finite = np.isfinite(expected_rhat)
        np.testing.assert_allclose(rhat(values).numpy()[finite], expected_rhat[finite], rtol=1e-6)
    else:
        assert bool(rhat(values).isnan().all())


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = hard_draws(4, 50, torch.float64)
    whole = rhat(values), ess(values)
    monkeypatch.setattr(diagnostics, "BLOCK", 4 * 50 * 5)
    torch.testing.assert_close(rhat(values), whole[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(ess(values), whole[1], rtol=1e-12, atol=0.0)


def test_what_cannot_be_said_is_nan() -> None:
    values = torch.randn(4, 3, 2)
    assert bool(ess(values).isnan().all())
    assert bool(rhat(values).isnan().all())
    values = torch.randn(4, 50, 3)
    values[2, 7, 1] = torch.nan
    assert ess(values).isnan().tolist() == rhat(values).isnan().tolist() == [False, True, False]
    assert ess(torch.ones(2, 10, 1)).tolist() == [20.0]
    assert ess(torch.randn(2, 10, 0)).shape == (0,)
