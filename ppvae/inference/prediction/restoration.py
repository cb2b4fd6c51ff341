"""What is known of damaged data: the moments of p(x | y), and a few draws, from several chains."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MIXED = 1.1
"""The largest R-hat of a datum whose chains agree."""


@dataclass(frozen=True, eq=False, repr=False)
class Restoration:
    r"""The posterior of data of which something is known, entry by entry: $p(x \mid y)$, all latents integrated out.

    Attributes:
        mean: $\mathrm{E}[x \mid y]$, [N, *event]; what is seen exactly is as it was seen.
        standard_deviation: of every entry under $p(x \mid y)$, [N, *event]: 0 where it is seen exactly.
        standard_error: of the mean, from the spread of the chains' means, [N, *event]; NaN for one chain.
        draws: $x \sim p(x \mid y)$, [S, N, *event]: the last states of so many chains, and beyond these states as far
            apart as there is room for.
        acceptance: share of the draws of z that were accepted, [N]; 1 for pseudo-Gibbs.
        r_hat: how far the chains of a datum disagree, [N]: 1 where they do not; over all entries together, each
            with its variance as weight. NaN for one chain or one step, infinite where a chain failed.
    """

    mean: Tensor
    standard_deviation: Tensor
    standard_error: Tensor
    draws: Tensor
    acceptance: Tensor
    r_hat: Tensor

    @property
    def trusted(self) -> Tensor:
        """Of which data the chains agree (R-hat of at most 1.1), [N], bool."""
        return self.r_hat <= MIXED

    def __repr__(self) -> str:
        agree = f"of {int(self.trusted.sum())} the chains agree, worst R-hat {float(self.r_hat.max()):.3f}"
        if bool(self.r_hat.isnan().all()):
            agree = "of one chain each, of which no R-hat is known"
        return f"Restoration({len(self.mean)} data, {agree}; {float(self.acceptance.mean()):.0%} of the draws accepted)"


class Moments:
    """Running moments of chains: each datum's chains are consecutive rows, [B * C, *event]."""

    def __init__(self, like: Tensor, num_chains: int) -> None:
        self.num_chains, self.count = num_chains, 0
        self.mean, self.squares, self.within = (torch.zeros_like(like) for _ in range(3))
        self.accepted = like.new_zeros(len(like))

    def add(self, mean: Tensor, variance: Tensor, accepted: Tensor) -> None:
        """A state of every chain: E[x | z, y] and Var[x | z, y], and whether it is new."""
        self.count += 1
        delta = mean - self.mean
        self.mean = self.mean + delta / self.count
        self.squares = self.squares + delta * (mean - self.mean)
        self.within = self.within + variance
        self.accepted = self.accepted + accepted

    def result(self) -> dict[str, Tensor]:
        r"""By the law of total variance, $\mathrm{Var}[x] = \mathrm{E\,Var}[x \mid z] + \mathrm{Var\,E}[x \mid z]$.

        The spread of all chains about their common mean lacks that of this mean itself, which is added again.
        """
        chains, steps = self.num_chains, self.count
        means, squares, within, accepted = (
            value.reshape(-1, chains, *value.shape[1:])
            for value in (self.mean, self.squares, self.within, self.accepted)
        )
        mean = means.mean(1)
        between = means.var(1) if chains > 1 else torch.full_like(mean, math.nan)
        error = between / chains
        spread = squares.mean(1) / steps + (means - mean[:, None]).square().mean(1) + error.nan_to_num(0.0)
        variance = within.mean(1) / steps + spread
        apart, inside = between.flatten(1).sum(1), squares.flatten(1).sum(1) / (chains * max(1, steps - 1))
        r_hat = ((steps - 1) / steps + apart / inside).sqrt()
        agree = torch.ones_like(r_hat)  # nothing moves: all is seen, or there is nothing to learn about it
        return {
            "mean": mean,
            "standard_deviation": variance.sqrt(),
            "standard_error": error.sqrt(),
            "acceptance": accepted.mean(1) / steps,
            "r_hat": torch.where(apart == 0, agree, r_hat) if steps > 1 else torch.full_like(agree, math.nan),
        }
