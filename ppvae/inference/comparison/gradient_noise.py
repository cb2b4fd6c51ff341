"""Signal and noise of a stochastic gradient, block by block, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NUM_GROUPS = 10


@dataclass(frozen=True)
class GradientStatistics:
    r"""Signal and noise of the gradient g of one block of parameters, per datum.

    $$\text{signal}^2 = \|\mathrm{E}\,g\|^2,\qquad \text{variance} = \mathrm{tr}\,\mathrm{Cov}\,g,\qquad
      \text{snr} = \sqrt{\text{signal}^2 / \text{variance}}$$

    (The block's form of the ratio in Rainforth et al. 2018, arXiv 1802.04537, eq. 3.)

    Attributes:
        num_parameters: length of g.
        signal: estimate of the norm of the mean gradient: the root of the unbiased squared norm, clipped at zero.
        variance: unbiased estimate of the trace of the covariance.
        variance_error: its standard error.
        snr: signal-to-noise ratio; infinite where the variance is zero and the signal is not.
        snr_error: its standard error, by the jackknife over groups of repeats.
    """

    num_parameters: int
    signal: float
    variance: float
    variance_error: float
    snr: float
    snr_error: float


class GradientNoise:
    """Accumulates repeated gradients into signal and noise, in memory of a few gradients.

    Args:
        blocks: name of a block to the names of its parameters.
        num_repeats: how many gradients will be added; at least 2 a group.
    """

    def __init__(self, blocks: Mapping[str, Sequence[str]], num_repeats: int) -> None:
        self.blocks = blocks
        self.groups = min(NUM_GROUPS, num_repeats // 2)
        self.repeats = num_repeats
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._squares = {name: torch.zeros(self.groups, dtype=torch.float64) for name in blocks}
        self._counts = torch.zeros(self.groups, dtype=torch.float64)

    def add(self, gradients: Mapping[str, Tensor]) -> None:
        """One more gradient, by parameter name."""
        group = min(self.count * self.groups // self.repeats, self.groups - 1)
        self.count += 1
        self._counts[group] += 1
        for block, names in self.blocks.items():
            vector = torch.cat([gradients[name].detach().flatten() for name in names]).double()
            if block not in self._sums:
                self._sums[block] = vector.new_zeros(self.groups, len(vector))
            self._sums[block][group] += vector
            self._squares[block][group] += vector.square().sum().cpu()

    def statistics(self) -> dict[str, GradientStatistics]:
        """Signal and noise of every block."""
        return {block: self._of(block) for block in self.blocks}

    def _of(self, block: str) -> GradientStatistics:
        counts = self._counts
        means = self._sums[block] / counts[:, None].to(self._sums[block])
        gram = (means @ means.T).cpu()
        within = (self._squares[block] - counts * gram.diagonal()).clamp_min(0) / (counts - 1)
        variance = float((within * (counts - 1)).sum() / (counts - 1).sum())
        groups = len(counts)
        if groups < 2:
            signal = math.sqrt(max(float(gram[0, 0]) - variance / float(counts[0]), 0.0))
            return GradientStatistics(means.shape[1], signal, variance, math.nan, _ratio(signal, variance), math.nan)
        signal = _signal(gram)
        leave_one_out = []
        for omitted in range(groups):
            rest = torch.arange(groups) != omitted
            leave_one_out.append(_ratio(_signal(gram[rest][:, rest]), float(within[rest].mean())))
        values = torch.tensor(leave_one_out, dtype=torch.float64)
        jackknife = math.sqrt((groups - 1) / groups * float((values - values.mean()).square().sum()))
        return GradientStatistics(
            num_parameters=means.shape[1],
            signal=signal,
            variance=variance,
            variance_error=float(within.std()) / math.sqrt(groups),
            snr=_ratio(signal, variance),
            snr_error=jackknife,
        )


def _signal(gram: Tensor) -> float:
    """Norm of the mean from inner products of independent means: the mean over distinct pairs has no bias."""
    count = len(gram)
    if count < 2:
        return math.sqrt(max(float(gram.sum()), 0.0))
    pairs = (gram.sum() - gram.diagonal().sum()) / (count * (count - 1))
    return math.sqrt(max(float(pairs), 0.0))


def _ratio(signal: float, variance: float) -> float:
    if variance <= 0:
        return math.inf if signal > 0 else 0.0
    return signal / math.sqrt(variance)
