"""Averages over draws of the guide, weighted or not: of the probabilities of discrete latents."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ..execution.over_data import OverData
from ...core import Data, ModelGuidePair, discrete_marginals, draw_all_values, log_joint, members_of, structure

Weights = Literal["guide", "importance"]

T = TypeVar("T")

_BLOCK = 2**22  # draws times numbers of x in one block of work


def blocks_of(work: OverData, num_samples: int) -> list[int]:
    """How many draws at a time."""
    rows = min(work.chunk_size, len(work))
    most = max(1, _BLOCK // max(1, rows * sum(value[:1].numel() for value in members_of(work.example).values())))
    return [min(most, num_samples - at) for at in range(0, num_samples, most)]


def in_blocks(work: OverData, blocks: list[int], function: Callable[[Data, int], T]) -> Callable[[Data], Iterator[T]]:
    """The results of ``function(x, size)`` for every block, each size captured."""
    captured = {
        size: work.capture(
            lambda x, size=size: function(x, size), name="prediction", calls=blocks.count(size) * work.num_chunks
        )
        for size in set(blocks)
    }
    return lambda x: (captured[size](x) for size in blocks)


def at_draws_of_guide(
    pair: ModelGuidePair, x: Data, num: int, support: Mapping[str, Tensor], weights: Weights
) -> tuple[Tensor, dict[str, Tensor]]:
    """The log-weights of draws of the guide, [S, B], and the probabilities there by site, [S, B, *nested, K].

    Where the guide's discrete sites take all of their values, these together are one draw, S = 1.
    """
    draws = draw_all_values(pair, x, num)
    number, share = len(draws.log_q), draws.log_share
    log_w = torch.zeros_like(draws.log_q)
    if weights == "importance":
        log_w = log_joint(pair, x, draws.latents, num_draws=number).local - draws.log_q
    summed = {info.name for info in structure(pair, x).enumerated}
    values = discrete_marginals(pair, x, draws.latents, num_draws=number) if summed.intersection(support) else {}
    for name in set(support) - summed:
        drawn, event = draws.latents[name], tuple(range(1 - support[name].dim(), 0))
        match = drawn.unsqueeze(drawn.dim() - len(event)) == support[name]
        values[name] = (match.all(event) if event else match).to(log_w.dtype)
    values = {name: values[name] for name in support}
    if share is None:
        return log_w, values
    # The mean over all values; where q(y | x) is zero there is no ratio.
    log_w = torch.where(share == -math.inf, -math.inf, log_w + share - math.log(number))
    part = log_w.softmax(0).nan_to_num()
    means = {k: (part.reshape(*part.shape, *(1,) * (v.dim() - 2)) * v).sum(0, True) for k, v in values.items()}
    return log_w.logsumexp(0, True), means


class WeightedMean:
    r"""The mean of f with weights w, $R = \sum w f / \sum w$, and its standard error as that of a ratio.

    $$\mathrm{se}^2 = \frac{S}{S - 1} \frac{\sum_s w_s^2 (f_s - R)^2}{(\sum_s w_s)^2}$$
    """

    def __init__(self) -> None:
        self.count, self.top = 0, torch.tensor(-math.inf, dtype=torch.float64)
        self.sums: list[Tensor] = []

    def add(self, f: Tensor, log_w: Tensor) -> None:
        """More draws: f [S, B, *more] and log w [S, B]."""
        f, log_w = f.double(), log_w.double().reshape(*log_w.shape, *(1,) * (f.dim() - 2))
        before = self.top.to(f.device)
        self.top = torch.maximum(before, log_w.amax(0))
        safe = self.top.nan_to_num(neginf=0.0)
        w, shrink = (log_w - safe).exp(), (before - safe).exp()
        new = [part.sum(0) for part in (w, w * f, w * w, w * w * f, w * w * f * f)]
        scales = [shrink, shrink, *[shrink * shrink] * 3]
        old = self.sums or [torch.zeros_like(part) for part in new]
        self.sums = [scale * total + part for scale, total, part in zip(scales, old, new, strict=True)]
        self.count += len(f)

    def result(self) -> tuple[Tensor, Tensor]:
        """R and its standard error, [B, *more], float64; the error of a single draw is NaN."""
        w, wf, ww, wwf, wwff = self.sums
        mean = wf / w
        variance = (wwff - 2 * mean * wwf + mean * mean * ww).clamp(min=0.0) / (w * w)
        scale = self.count / (self.count - 1) if self.count > 1 else math.nan
        return mean, (scale * variance).sqrt()
