"""Averages over chains of autocorrelated draws, with errors that count autocorrelation, for all data at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..hmc.diagnostics import autocovariance


class Average(NamedTuple):
    """Log of an average of weights; each [B], float64.

    Attributes:
        log_mean: nats.
        relative_variance: of the average, in units of its square: the variance of ``log_mean`` by the delta method.
        effective_sample_size: independent draws with the same variance of the average.
    """

    log_mean: Tensor
    relative_variance: Tensor
    effective_sample_size: Tensor


def average(log_weights: Tensor, good: Tensor) -> Average:
    r"""Average of weights over the good chains, with the error of an autocorrelated series.

    $$\mathrm{var}(\bar w) \approx \frac{\hat\sigma^2}{N} \hat\tau,\qquad \hat\tau = 1 + 2 \sum_t \hat\rho_t$$

    with Geyer's (1992) initial monotone sequence over autocorrelations averaged over chains, about the common mean, so
    that chains which disagree raise the error. $\hat\tau$ is at least 1: antithetic draws are not counted as more than
    independent.

    Args:
        log_weights: log w, [C, n, B], nats.
        good: chains that count, bool [C, B].
    """
    top = log_weights.double().masked_fill(~good.unsqueeze(1), -math.inf).amax((0, 1)).nan_to_num(neginf=0.0)
    mean, variance, ess = mean_of_series((log_weights.double() - top).exp(), good)
    return Average(mean.log() + top, variance / mean.square().clamp(min=1e-300), ess)


def mean_of_series(values: Tensor, good: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean over the good chains of a series [C, n, B, *], the variance of that mean, and the ESS: each [B, *]."""
    tail = (1,) * (values.dim() - 3)
    keep = good.unsqueeze(1).reshape(len(good), 1, -1, *tail)
    count = (good.sum(0) * values.shape[1]).clamp(min=1).reshape(-1, *tail)
    mean = torch.where(keep, values, 0.0).sum((0, 1)) / count
    covariance = autocovariance(torch.where(keep, values - mean, 0.0), 1).sum(0) / count  # [n, B, *]
    tau = _initial_monotone(covariance / covariance[:1].clamp(min=1e-300))
    variance = covariance[0] / (count - 1).clamp(min=1) * tau
    return mean, variance, count / tau


def effective_draws(values: Tensor, good: Tensor) -> Tensor:
    """Effective sample size of the mean of a series [C, n, B, d], the median over d: [B], float64."""
    return mean_of_series(values.double(), good)[2].median(-1).values


def _initial_monotone(rho: Tensor) -> Tensor:
    """Integrated autocorrelation time, [*scalars], of autocorrelations [n, *scalars]."""
    pairs = rho[: len(rho) // 2 * 2].unflatten(0, (-1, 2)).sum(1)
    if not len(pairs):
        return torch.ones_like(rho[0])
    positive = (pairs > 0).cumprod(0)
    tau: Tensor = 2 * (pairs.cummin(0).values * positive).sum(0) - 1
    return tau.clamp(min=1.0)
