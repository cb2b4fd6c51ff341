"""From log-weights to an estimate with its error, for every estimator that averages weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Estimate
from .outcome import Outcome
from .pareto import pareto_smoothed

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
