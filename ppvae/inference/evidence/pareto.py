r"""Tail index of importance weights: is their variance finite, and can the estimate be trusted?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PRIOR_B, _PRIOR_K = 3.0, 10.0


def pareto_k(log_weights: Tensor) -> Tensor:
    r"""Shape $\hat k$ of a generalised Pareto distribution fitted to the largest weights of every datum.

    $$M = \min(K / 5,\ 3 \sqrt K),\qquad w_{(K-M+i)} - w_{(K-M)} \sim \mathrm{GPD}(k, \sigma)$$

    Moments of order below $1/k$ exist. Below 0.5 the variance is finite; above 0.7 the estimate converges too slowly to
    be of use where the tail has much of the mass (Vehtari, Simpson, Gelman, Yao & Gabry 2024, arXiv 1507.02646): which
    estimates are trusted, :func:`~.weights.verdict` says, by the effective sample size too. The fit is the empirical
    Bayes one of Zhang & Stephens (2009), for all data at once.

    Args:
        log_weights: log w, [K, B]; any constant may have been added.

    Returns:
        k, [B], in the dtype of the weights; NaN where fewer than five weights form the tail, where all weights are
        equal up to rounding, where so many share the largest value that the tail is flat (discrete latents), or where
        one is NaN; +inf where too few weights differ from zero for a fit.
    """
    return pareto_smoothed(log_weights)[1]


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    r"""Weights whose largest ones are replaced by the order statistics that the fitted tail expects, and $\hat k$.

    $$\tilde w_{(K-M+i)} = \min\bigl(w_{(K)},\ w_{(K-M)} + F^{-1}_{k,\sigma}\bigl(\tfrac{i - 1/2}{M}\bigr)\bigr)$$

    The largest weight, which is noise, no longer dominates the sum, at the price of a bias (Vehtari, Simpson, Gelman,
    Yao & Gabry 2024, arXiv 1507.02646). Equal to ``arviz.psislw``, which also normalises them.

    Args:
        log_weights: log w, [K, B]; any constant may have been added.

    Returns:
        log of the smoothed weights, [K, B], in their order, and k, [B], as in :func:`pareto_k`. Where k is not finite
        the weights are unchanged.
    """
    draws, batch = log_weights.shape
    tail = math.ceil(min(draws / 5, 3 * math.sqrt(draws)))
    if tail < 5 or draws <= tail:
        return log_weights, torch.full_like(log_weights[0], math.nan)
    # The fit holds [B, grid, tail] numbers: a few hundred data at a time keep that small.
    step = max(1, 2**22 // (tail * (30 + math.isqrt(tail))))
    parts = [_fit_tail(log_weights[:, i : i + step], tail) for i in range(0, batch, step)]
    log_smooth, k = torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts])
    return log_smooth, k.to(log_weights.dtype)


def _fit_tail(log_weights: Tensor, tail: int) -> tuple[Tensor, Tensor]:
    eps = torch.finfo(log_weights.dtype).eps
    largest = log_weights.double().topk(tail + 1, dim=0)
    top = largest.values.mT  # [B, M + 1], falling
    undefined = log_weights.isnan().any(0) | ~torch.isfinite(top[:, 0])
    # Rounding of a log-weight is relative to the terms whose difference it is, at least to its own magnitude.
    spread = top[:, 0] - log_weights.double().amin(0)
    rounding = 64 * eps * top[:, 0].abs().clamp(min=1.0)
    undefined |= (spread <= rounding) | (top[:, 0] - top[:, -1] <= rounding)
    maximum = top[:, :1]
    top = top - maximum
    cutoff = top[:, -1:].clamp(min=math.log(torch.finfo(torch.float64).tiny))
    values = top[:, :-1].flip(-1)  # rising
    in_tail = values > cutoff
    count = in_tail.sum(-1)
    excess = torch.where(in_tail, values.exp() - cutoff.exp(), 0.0)
    k, sigma = _generalised_pareto(excess, in_tail, count.clamp(min=5))
    k = torch.where(count <= 4, math.inf, k)
    k = torch.where(undefined, math.nan, k)
    # Order statistics of the fitted tail: the ranks of those above the cutoff, which are the last of each row.
    rank = torch.arange(tail, device=top.device) - (tail - count)[:, None]
    at = ((rank + 0.5) / count[:, None].clamp(min=1)).clamp(0.0, 1.0)
    beyond = torch.where(k.abs() < eps, -torch.log1p(-at.mT), torch.expm1(-k * torch.log1p(-at.mT)) / k).mT
    quantiles = torch.log(sigma[:, None] * beyond + cutoff.exp()).clamp(max=0.0)
    smooth = in_tail & torch.isfinite(k)[:, None]
    tail_weights = (torch.where(smooth, quantiles, values) + maximum).flip(-1).mT.to(log_weights.dtype)  # falling
    old = log_weights.gather(0, largest.indices[:-1])
    return log_weights.scatter(0, largest.indices[:-1], torch.where(smooth.flip(-1).mT, tail_weights, old)), k


def _generalised_pareto(excess: Tensor, in_tail: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Zhang & Stephens (2009) with the weakly informative prior of Vehtari et al. (2024, appendix C).

    Args:
        excess: rising, [B, M]; the last ``count`` of each row are the sample.
        in_tail: which those are, [B, M].
        count: n, [B], at least 5.

    Returns:
        k, shrunk towards 0.5 by the prior, and sigma, each [B].
    """
    n = count.double()
    size = excess.shape[-1]
    grid = 30 + count.double().sqrt().floor()  # of candidate values of b, [B]
    j = torch.arange(1, 31 + math.isqrt(size), dtype=torch.float64, device=excess.device)
    live = j <= grid[:, None]
    quartile = (n / 4 + 0.5).floor().long() - 1 + (size - count)
    scale = excess.gather(-1, quartile[:, None].clamp(max=size - 1))
    b = (1 - torch.sqrt(grid[:, None] / (j - 0.5))) / (_PRIOR_B * scale) + 1 / excess[:, -1:]
    b = torch.where(live, b, 0.0)
    mean_log = (torch.log1p(-b[..., None] * excess[:, None]) * in_tail[:, None]).sum(-1) / n[:, None]
    profile = n[:, None] * (torch.log(-(b / mean_log)) - mean_log - 1)
    weight = torch.softmax(profile.masked_fill(~live, -math.inf), -1)
    weight = torch.where(weight >= 10 * torch.finfo(torch.float64).eps, weight, 0.0)
    b_mean = (b * weight).sum(-1) / weight.sum(-1)
    k = (torch.log1p(-b_mean[:, None] * excess) * in_tail).sum(-1) / n
    return (n * k + _PRIOR_K * 0.5) / (n + _PRIOR_K), -k / b_mean
