"""The evidence averaged over draws of the global sites, such as weights: the posterior predictive density."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .base import Evidence
from .run import model_ready, take, to
from ..placement import dtype_of
from ...core import ModelGuidePair, PairError, PpvaeError, draw, structure
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
        names = [info.name for info in structure(pair, first).global_latents]
        if not names:
            raise PairError(
                "the pair has no global latent, so there is nothing to average over"
                + try_one_of("log_evidence without global_sites", "bayesianise(pair)")
            )
        drawn = draw(pair, first, count).latents
    return [{name: drawn[name][k] for name in names} for k in range(count)]


def average(parts: Sequence[Evidence], info: Mapping[str, Any]) -> Evidence:
    r"""The log of the mean of $\hat p(x_b \mid w_s)$ over s, from the evidence at every $w_s$.

    Its standard error adds up the method's own and that of the choice of weights (delta method). The logarithm of an
    average is below that of the mean in expectation (Jensen), so that a lower bound stays one.

    Args:
        parts: the evidence of the same data at every draw, in nats.
        info: what is added to the first part's info.
    """
    count = len(parts)
    logs = torch.stack([part.log_evidence for part in parts])
    mean = logs.logsumexp(0) - math.log(count)
    relative = (logs - mean).exp()  # p(x | w_s) over their mean
    within = torch.stack([(relative[k] * part.standard_error).square() for k, part in enumerate(parts)]).sum(0)
    between = relative.var(0) / count if count > 1 else torch.zeros_like(mean)
    return replace(
        parts[0],
        log_evidence=mean,
        standard_error=(within.nan_to_num() / count**2 + between).sqrt(),
        effective_sample_size=torch.stack([part.effective_sample_size for part in parts]).sum(0),
        pareto_k=torch.stack([part.pareto_k for part in parts]).amax(0),
        bound="lower" if parts[0].bound in ("exact", "lower") else "consistent",
        outcome=torch.stack([part.outcome for part in parts]).amax(0),
        seconds=sum(part.seconds for part in parts),
        info={**parts[0].info, **info},
    )
