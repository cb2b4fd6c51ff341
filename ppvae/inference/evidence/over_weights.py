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
from .run import model_ready, take, to
from ..placement import dtype_of
from ...core import ModelGuidePair, PairError, PpvaeError, check_pair, draw
from ...core.errors import try_one_of


def weight_draws(pair: ModelGuidePair, data: Any, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Draws of all global sites from the guide.

    Args:
        pair: a pair with global latents.
        data: data of the right shape; the first datum is run.
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
    home = next((parameter.device for parameter in pair.parameters()), torch.device("cpu"))
    first = to(take(model_ready(data, dtype_of(pair)), 1), home)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        names = [info.name for info in check_pair(pair, first).global_latents]
        if not names:
            raise PairError(
                "the pair has no global latent, so there is nothing to average over"
                + try_one_of("log_evidence without global_sites", "bayesianise(pair)")
            )
        drawn = draw(pair, first, count).latents
    return [{name: drawn[name][k] for name in names} for k in range(count)]


def average(parts: Sequence[Evidence], info: Mapping[str, Any]) -> Evidence:
    r"""The log of the mean of $\hat p(x_b \mid w_s)$ over s, from the evidence at every $w_s$.

    Its standard error is the spread of $\hat p$ over the draws by $\sqrt S$ (delta method), in which the method's own
    error is contained, and never less than that. Of one draw the choice of weights has an unknown error: NaN. All data
    share the draws, so the error of their mean comes from the spread of means. The logarithm of an average is below
    that of the mean in expectation (Jensen), so that a lower bound stays one.

    Args:
        parts: the evidence of the same data at every draw, in nats.
        info: what is added to the first part's info.
    """
    count = len(parts)
    logs = torch.stack([part.log_evidence for part in parts])
    mean = logs.logsumexp(0) - math.log(count)
    relative = (logs - mean).exp()  # p(x | w_s) over their mean
    errors = torch.stack([part.standard_error for part in parts])
    within = (relative * errors).square().sum(0).nan_to_num() / count**2
    known = torch.isfinite(mean)
    common = math.nan
    if count > 1 and bool(known.any()):
        # Both are variances of one average: the first counts all of the noise, the second only the method's.
        of_mean = relative[:, known].double().mean(1).var(0) / count
        common = math.sqrt(max(float(of_mean), float(within[known].double().sum()) / int(known.sum()) ** 2))
    return replace(
        parts[0],
        log_evidence=mean,
        standard_error=torch.maximum(within, relative.var(0) / count).sqrt() if count > 1 else mean * math.nan,
        effective_sample_size=torch.stack([part.effective_sample_size for part in parts]).sum(0),
        pareto_k=torch.stack([part.pareto_k for part in parts]).amax(0),
        bound="lower" if parts[0].bound in ("exact", "lower") else "consistent",
        outcome=_worst(torch.stack([part.outcome for part in parts])),
        seconds=sum(part.seconds for part in parts),
        info={**parts[0].info, **info},
        common_error=common,
    )


_BEST_FIRST = (
    Outcome.OK,
    Outcome.DOUBTFUL,
    Outcome.NOT_CONVERGED,
    Outcome.UNRELIABLE,
    Outcome.REFUSED_TAIL,
    Outcome.REFUSED_DIMENSION,
    Outcome.NOT_FINITE,
    Outcome.DIVERGED,
    Outcome.INTERRUPTED,
)


def _worst(outcomes: Tensor) -> Tensor:
    """The worst of the draws' outcomes [S, B], one without an estimate before all that have one: [B]."""
    rank = torch.empty(len(_BEST_FIRST), dtype=torch.int64)
    rank[torch.tensor(_BEST_FIRST)] = torch.arange(len(_BEST_FIRST))
    return outcomes.gather(0, rank[outcomes].argmax(0, keepdim=True))[0]
