"""The evidence averaged over draws of the global sites, such as weights: the posterior predictive density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .base import Evidence
from .outcome import Outcome
from .run import first_rows, model_ready
from ..execution.placement import dtype_of, home_of, to
from ...core import ModelGuidePair, PairError, PpvaeError, check_pair, draw
from ...core.errors import try_one_of


def weight_draws(pair: ModelGuidePair, data: Any, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Draws of all global sites from the guide.

    Args:
        pair: a pair with global latents.
        data: data of the right shape; the guide runs on the first datum.
        count: S, number of draws.
        seed: of the draws.

    Returns:
        S times site to value, [*event].

    Raises:
        PairError: the pair has no global latent.
        PpvaeError: a count below one.
    """
    if count < 1:
        raise PpvaeError(f"draws of the global sites: expected at least 1, found {count}")
    first = to(first_rows(model_ready(data, dtype_of(pair)), 1), home_of(pair))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        names = [info.name for info in check_pair(pair, first).global_latents]
        if not names:
            raise PairError(
                "the pair has no global latent, so there is nothing to average over"
                + try_one_of("log_evidence without global_sites", "bayesianise(pair)")
            )
        draws = draw(pair, first, count).latents
    return [{name: draws[name][k] for name in names} for k in range(count)]


def average(parts: Sequence[Evidence], info: Mapping[str, Any]) -> Evidence:
    r"""The log of the mean of $\hat p(x_b \mid w_s)$ over s, from the evidence at every $w_s$.

    $$\log \hat p = \log \tfrac{1}{S} \textstyle\sum_s \hat p_s + \frac{v}{2 S},\qquad
      v = \frac{\mathrm{var}_s\, \hat p_s}{(\tfrac{1}{S} \sum_s \hat p_s)^2}$$

    The logarithm of an average lies below that of the mean in expectation (Jensen), by v / 2S to second order: the
    second term corrects this where it is small. ``info["uncorrected"]`` is the first term alone, the lower bound.
    The standard error is $\sqrt{v / S}$, which contains the method's own error and is at least that, times the ratio
    of Student's quantile with S - 1 degrees of freedom to the normal one (at 95 %). With one draw the error due to the
    choice of weights is unknown: NaN. All data share the draws, so the error of their mean comes from the variance of
    the draws' means. Where v / S exceeds a quarter the outcome is TOO_FEW_DRAWS.

    Args:
        parts: the evidence of the same data at every draw, in nats.
        info: further entries. Tensors in the parts' own info are averaged over draws, for "rhat" and "uncovered" the
            largest is taken.
    """
    count = len(parts)
    logs = torch.stack([part.log_evidence for part in parts])
    mean = logs.logsumexp(0) - math.log(count)
    relative = (logs - mean).exp()  # p(x | w_s) over their mean
    errors = torch.stack([part.standard_error for part in parts])
    within = (relative * errors).square().sum(0).nan_to_num() / count**2
    outcome = _worst(torch.stack([part.outcome for part in parts]))
    common, standard_error, value = math.nan, mean * math.nan, mean
    if count > 1:
        import scipy.stats

        factor = float(scipy.stats.t.ppf(0.975, count - 1) / scipy.stats.norm.ppf(0.975))
        of_choice = relative.var(0) / count  # the relative variance of the average
        small = of_choice <= _BELIEVED
        value = mean + torch.where(small, 0.5 * of_choice, 0.0)
        standard_error = factor * torch.maximum(within, of_choice).sqrt()
        outcome = torch.where((outcome == Outcome.OK) & ~small, int(Outcome.TOO_FEW_DRAWS), outcome)
        ok = torch.isfinite(mean) & (outcome == Outcome.OK)
        if bool(ok.any()):
            # Both are variances of one average: the first counts all of the noise, the second only the method's.
            of_mean = relative[:, ok].double().mean(1).var(0) / count
            of_method = float(within[ok].double().sum()) / int(ok.sum()) ** 2
            common = factor * math.sqrt(max(float(of_mean), of_method))
    return replace(
        parts[0],
        log_evidence=value,
        standard_error=standard_error,
        effective_sample_size=torch.stack([part.effective_sample_size for part in parts]).sum(0),
        pareto_k=torch.stack([part.pareto_k for part in parts]).amax(0),
        bound="lower" if count == 1 and parts[0].bound in ("exact", "lower") else "consistent",
        outcome=outcome,
        seconds=sum(part.seconds for part in parts),
        info={**_together(parts), "uncorrected": mean, **info},
        common_error=common,
    )


_BELIEVED = 0.25  # of the average's relative variance: above it, S draws are worth fewer than about four
_LARGEST = ("rhat", "uncovered")


def _together(parts: Sequence[Evidence]) -> dict[str, Any]:
    """The info of all draws in one: tensors combined, the rest from the first draw."""
    info: dict[str, Any] = {}
    for name, value in parts[0].info.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            values = torch.stack([part.info[name] for part in parts])
            info[name] = values.amax(0) if name in _LARGEST else values.mean(0)
        else:
            info[name] = value
    return info


_BEST_FIRST = (
    Outcome.OK,
    Outcome.DOUBTFUL,
    Outcome.TOO_FEW_DRAWS,
    Outcome.NOT_CONVERGED,
    Outcome.LOOSE,
    Outcome.CHAINS_DISAGREE,
    Outcome.MISSED_MASS,
    Outcome.UNRELIABLE,
    Outcome.REFUSED_TAIL,
    Outcome.REFUSED_DIMENSION,
    Outcome.NOT_FINITE,
    Outcome.DIVERGED,
    Outcome.INTERRUPTED,
)


def _worst(outcomes: Tensor) -> Tensor:
    """The worst of the draws' outcomes [S, B]; those without an estimate are worse than all others: [B]."""
    rank = torch.empty(len(_BEST_FIRST), dtype=torch.int64)
    rank[torch.tensor(_BEST_FIRST)] = torch.arange(len(_BEST_FIRST))
    return outcomes.gather(0, rank[outcomes].argmax(0, keepdim=True))[0]
