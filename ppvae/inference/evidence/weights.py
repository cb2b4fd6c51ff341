"""From log-weights to an estimate with its error: what every estimator that averages weights shares."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Estimate
from .outcome import Outcome
from .pareto import pareto_k

UNTRUSTED_K = 0.7
INFINITE_VARIANCE_K = 0.5
_ENOUGH_FOR_K = 100  # draws, for a verdict: of fewer, such as the chains of annealing, k is mostly noise


def from_weights(
    log_weights: Tensor, info: dict[str, Tensor] | None = None, dtype: torch.dtype | None = None
) -> Estimate:
    r"""Log of the mean weight of every datum, with its standard error by the delta method.

    $$\log \hat p = \log \tfrac{1}{K} \textstyle\sum_k w_k,\qquad
      \mathrm{ESS} = \frac{(\sum_k w_k)^2}{\sum_k w_k^2},\qquad
      \mathrm{se}(\log \hat p) \approx \frac{\mathrm{sd}(w)}{\sqrt K\,\bar w}
        = \sqrt{\frac{K}{K - 1} \left(\frac{1}{\mathrm{ESS}} - \frac{1}{K}\right)}$$

    Args:
        log_weights: log w of independent draws, [K, B], nats.
        info: further numbers per datum, each [B].
        dtype: of the result; None for that of the weights.
    """
    draws, dtype = log_weights.shape[0], dtype or log_weights.dtype
    broken = log_weights.isnan().any(0) | (log_weights == math.inf).any(0)
    value, error, ess = log_mean(log_weights)
    outcome = torch.zeros_like(value, dtype=torch.int64)
    k = pareto_k(log_weights)
    if draws >= _ENOUGH_FOR_K:
        outcome[k > UNTRUSTED_K] = Outcome.UNRELIABLE
    broken |= ~torch.isfinite(value)
    outcome[broken] = Outcome.NOT_FINITE
    value = torch.where(broken & (value != -math.inf), math.nan, value)
    if draws < 2:
        error = torch.full_like(error, math.nan)
    info = {key: item.to(dtype) for key, item in (info or {}).items()}
    return Estimate(value.to(dtype), error.to(dtype), ess.to(dtype), k.to(dtype), outcome, info)


def log_mean(log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log of the mean weight, its standard error for independent draws, and the ESS: each [B], float64."""
    log_w = log_weights.double()
    draws = log_w.shape[0]
    total = torch.logsumexp(log_w, 0)
    ess = torch.exp(2 * total - torch.logsumexp(2 * log_w, 0))
    error = ((1 / ess - 1 / draws).clamp(min=0.0) * draws / max(draws - 1, 1)).sqrt()
    return total - math.log(draws), error, ess
