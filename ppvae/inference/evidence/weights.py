"""From log-weights to an estimate with its error, for every estimator that averages weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Estimate
from .outcome import Outcome
from .pareto import pareto_smoothed
from ..hmc.diagnostics import autocovariance

UNTRUSTED_K = 0.7
INFINITE_VARIANCE_K = 0.5
_LIGHT_K = 0.3
_FEWEST = 10  # draws: of fewer, the effective sample size says nothing
_SATURATED = 4.0  # effective draws: with fewer, the error of the delta method cannot grow with the true one
_EQUAL = 1e-3  # nats: weights that differ by less are equal, however few


def from_weights(
    log_weights: Tensor,
    info: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    *,
    smooth: bool = False,
) -> Estimate:
    r"""Log of the mean weight of every datum, with its standard error by the delta method, and a verdict.

    $$\log \hat p = \log \tfrac{1}{K} \textstyle\sum_k w_k,\qquad
      \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2},\qquad
      \mathrm{se}(\log \hat p) \approx \frac{\mathrm{sd}(w)}{\sqrt K\,\bar w}
        = \sqrt{\frac{K}{K - 1} \left(\frac{1}{\mathrm{ESS}} - \frac{1}{K}\right)}$$

    That error cannot exceed one nat, whatever the true one is: where the effective sample size is below four it is
    NaN, unknown. The outcome is that of :func:`verdict`. ``info["bias"]`` is L_K - L_{K/2}, the gain of the second
    half of the draws, which estimates how far log p-hat still is below log p.

    Args:
        log_weights: log w of independent draws, [K, B], nats.
        info: further numbers per datum, each [B].
        dtype: of the result; None for that of the weights.
        smooth: replace the largest weights by quantiles of the tail fitted to them, :func:`pareto_smoothed`.
    """
    draws, dtype = log_weights.shape[0], dtype or log_weights.dtype
    invalid = log_weights.isnan().any(0) | (log_weights == math.inf).any(0)
    smoothed, k = pareto_smoothed(log_weights)
    value, error, ess = log_mean(smoothed if smooth else log_weights)
    bias = gain_of_doubling(log_weights)
    spread = log_weights.double().nan_to_num().amax(0) - log_weights.double().nan_to_num().amin(0)
    outcome = verdict(draws, ess, k)
    outcome[bias > torch.maximum(error, torch.full_like(error, _EQUAL))] = Outcome.LOOSE
    outcome[spread < _EQUAL] = Outcome.OK if draws > 1 else Outcome.TOO_FEW_DRAWS
    invalid |= ~torch.isfinite(value)
    outcome[invalid] = Outcome.NOT_FINITE
    value = torch.where(invalid & (value != -math.inf), math.nan, value)
    error = torch.where((ess < _SATURATED) & (draws > _SATURATED), math.nan, error)
    if draws < 2:
        error = torch.full_like(error, math.nan)
    info = {key: item.to(dtype) for key, item in ({"bias": bias} | (info or {})).items()}
    return Estimate(value.to(dtype), error.to(dtype), ess.to(dtype), k.to(dtype), outcome, info)


def verdict(draws: int, ess: Tensor, k: Tensor) -> Tensor:
    """Which estimates stand within their errors, as :class:`Outcome`, int64 [B], by the effective sample size (and so
    the largest weight's share, and the variance of the weights) and Pareto k together.

    Thresholds are measured (benchmarks/calibration.py): k alone passes data whose tail no draw has reached, and flags
    good ones whose heavy tail has almost no mass. With few draws k is noise.

    Args:
        draws: K.
        ess: effective sample size, [B].
        k: Pareto k, [B]; NaN where it is undefined.
    """
    enough = ess >= max(0.3 * draws, min(0.6 * draws, 30.0))
    enough |= (ess >= 300) & (k < INFINITE_VARIANCE_K)
    enough |= (ess >= 100) & (k < _LIGHT_K)
    outcome = torch.zeros_like(ess, dtype=torch.int64)
    outcome[~enough] = Outcome.LOOSE
    outcome[~enough & (k > UNTRUSTED_K)] = Outcome.UNRELIABLE
    if draws < _FEWEST:
        outcome[:] = Outcome.TOO_FEW_DRAWS
    return outcome


def gain_of_doubling(log_weights: Tensor) -> Tensor:
    """L_K minus the mean of L_{K/2} over the two halves of the draws: never negative; [B], float64, nats."""
    half = log_weights.shape[0] // 2
    if half == 0:
        return torch.full_like(log_weights[0], math.nan, dtype=torch.float64)
    halves = log_weights[: 2 * half].double().unflatten(0, (2, half)).logsumexp(1)  # [2, B]
    gain: Tensor = halves.logsumexp(0) - math.log(2) - halves.mean(0)
    return gain


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the mean weight, its standard error for independent draws, and the ESS: each [B], float64."""
    log_w = log_weights.double()
    draws = log_w.shape[0]
    total = torch.logsumexp(log_w, 0)
    ess = torch.exp(2 * total - torch.logsumexp(2 * log_w, 0))
    error = ((1 / ess - 1 / draws).clamp(min=0.0) * draws / max(draws - 1, 1)).sqrt()
    return total - math.log(draws), error, ess


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
