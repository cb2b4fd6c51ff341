r"""Rank-normalised split R-hat and bulk effective sample size, for all data at once.

Vehtari, Gelman, Simpson, Carpenter & Bürkner 2021 (arXiv 1903.08008). The numbers equal ArviZ's up to rounding; ArviZ
loops over the scalars in Python, here every step is one tensor operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 2**23  # numbers in one block of work: about 0.5 GB


def rhat(draws: Tensor) -> Tensor:
    r"""The larger of bulk and tail R-hat; 1 where chains agree, NaN for one chain or fewer than four draws.

    $$\hat R = \sqrt{\frac{(n - 1) W / n + B / n}{W}}$$

    of split, rank-normalised draws (bulk), and of their folded distances from the median (tail); equations 3 and 4.

    Args:
        draws: [chain, draw, *scalars].

    Returns:
        [*scalars], float64.
    """
    if draws.shape[0] < 2 or draws.shape[1] < 4:
        return draws.new_full(draws.shape[2:], torch.nan, dtype=torch.float64)
    return _blockwise(_rhat, draws)


def ess(draws: Tensor) -> Tensor:
    r"""Bulk effective sample size, in draws; NaN for fewer than four draws.

    $$S_\text{eff} = \frac{C N}{\hat\tau},\qquad \hat\tau = -1 + 2 \sum_{t=0}^{K} \hat P_t,\qquad
      \hat P_t = \hat\rho_{2t} + \hat\rho_{2t+1}$$

    of split, rank-normalised draws, with Geyer's initial positive and monotone sequence; equations 10 to 14.

    Args:
        draws: [chain, draw, *scalars].

    Returns:
        [*scalars], float64.
    """
    if draws.shape[1] < 4:
        return draws.new_full(draws.shape[2:], torch.nan, dtype=torch.float64)
    return _blockwise(_ess, draws)


def autocovariance(deviations: Tensor, dim: int) -> Tensor:
    """Sums of products of centred series at every lag along an axis, by FFT with padding against wrap-around."""
    num = deviations.shape[dim]
    size = 2 ** math.ceil(math.log2(2 * num))
    spectrum: Tensor = torch.fft.rfft(deviations, n=size, dim=dim)
    products: Tensor = torch.fft.irfft(spectrum * spectrum.conj(), n=size, dim=dim)
    return products.narrow(dim, 0, num)


def _blockwise(function: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """Apply to [rows, 2 chains, half the draws] in blocks of rows, so that memory stays small."""
    scalars = draws.shape[2:]
    rows = draws.reshape(*draws.shape[:2], -1).permute(2, 0, 1)
    half = draws.shape[1] // 2
    size = max(1, BLOCK // max(1, draws.shape[0] * draws.shape[1]))
    if rows.numel() == 0:
        return draws.new_zeros(scalars, dtype=torch.float64)
    values = []
    for block in rows.split(size):
        halves = torch.cat([block[..., :half], block[..., -half:]], 1)
        value = function(halves)
        values.append(torch.where(torch.isfinite(halves).all((1, 2)), value, torch.nan))
    return torch.cat(values).reshape(scalars)


def _normal_scores(values: Tensor) -> Tensor:
    """Normal scores of the ranks within each row, ties sharing their average rank; [rows, C, N], float64."""
    flat = values.flatten(1)
    size = flat.shape[1]
    ascending, order = flat.sort(1)
    place = torch.arange(size, device=flat.device)
    starts = torch.ones_like(ascending, dtype=torch.bool)
    starts[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    ends = starts.roll(-1, 1)  # the last of its ties; the first is always a start
    first = torch.where(starts, place, 0).cummax(1).values
    last = torch.where(ends, place, size).flip(1).cummin(1).values.flip(1)
    rank = torch.empty_like(first, dtype=torch.float64).scatter_(1, order, (first + last).double() / 2 + 1)
    scores: Tensor = torch.special.ndtri((rank - 0.375) / (size + 0.25))
    return scores.reshape(values.shape)


def _rhat(values: Tensor) -> Tensor:
    flat = values.flatten(1).sort(1).values
    size = flat.shape[1]
    median = 0.5 * (flat[:, (size - 1) // 2] + flat[:, size // 2])
    folded = (values - median[:, None, None]).abs()
    return torch.maximum(_plain_rhat(_normal_scores(values)), _plain_rhat(_normal_scores(folded)))


def _plain_rhat(values: Tensor) -> Tensor:
    num = values.shape[-1]
    between = num * values.mean(-1).var(-1)
    within = values.var(-1).mean(-1)
    return ((between / within + num - 1) / num).sqrt()


def _ess(split: Tensor) -> Tensor:
    values = _normal_scores(split)
    _, chains, num = values.shape
    total = chains * num
    deviations = values - values.mean(-1, keepdim=True)
    covariance = autocovariance(deviations, -1).mean(1) / num
    within = covariance[:, :1] * num / (num - 1)
    variance = within * (num - 1) / num
    if chains > 1:
        variance = variance + values.mean(-1).var(-1)[:, None]
    rho = 1 - (within - covariance) / variance
    rho[:, 0] = 1

    # Pair j has lags 2j and 2j + 1. The sum runs while pairs are positive; lags near the end are not used.
    last = max(0, math.ceil((num - 2) / 2) - 1)
    pairs = rho[:, : 2 * (last + 1)].unflatten(1, (-1, 2)).sum(-1)
    positive = (pairs > 0).cumprod(1)
    stop = positive.sum(1).clamp(max=last)  # the first pair that is not summed, or the last one
    order = torch.arange(last + 1, device=pairs.device)
    pair_sum = torch.where(order < stop[:, None], pairs.cummin(1).values, 0).sum(1)
    end_rho = rho.gather(1, 2 * stop[:, None])[:, 0]
    end_pair = pairs.gather(1, stop[:, None])[:, 0]
    end_rho = torch.where((end_rho > 0) | (end_pair >= 0) | (stop == 0), end_rho, 0)
    tau = (-1 + 2 * pair_sum + end_rho).clamp(min=1 / math.log10(total))
    # Constant draws count as independent, as in ArviZ.
    constant = values.amax((1, 2)) - values.amin((1, 2)) < 1e-15
    return torch.where(constant, float(total), total / tau)
