"""Trace and rank plots of HMC chains."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .theme import LABELS, Theme, canvas
from ...inference import PosteriorDraws

BINS = 15


def chains(draws: PosteriorDraws, theme: Theme) -> Figure:
    """One coordinate of one datum along its chains, and the ranks of every chain's draws over all data.

    Chains that mixed cannot be told apart: traces overlap, and the ranks of each are uniform (Vehtari et al. 2021,
    arXiv 1903.08008).
    """
    figure, (trace, rank) = canvas(theme, 2.9, 2)
    u = draws.unconstrained[..., 0].detach().cpu()  # [chain, draw, datum]
    for chain in range(u.shape[0]):
        trace.plot(u[chain, :, 0].numpy(), color=LABELS[chain % len(LABELS)], linewidth=0.8, alpha=0.85)
    trace.set_xlabel("draw")
    trace.set_ylabel("first coordinate")
    counts = rank_counts(u)
    edges = torch.linspace(0, 1, BINS + 1)
    expected = counts.sum(1, keepdim=True) / BINS
    for chain in range(u.shape[0]):
        rank.stairs((counts / expected)[chain].numpy(), edges.numpy(), color=LABELS[chain % len(LABELS)])
    rank.axhline(1.0, color=theme.muted, linewidth=1.0)
    rank.set_ylim(0, max(2.0, float((counts / expected).max()) * 1.1))
    rank.set_xlabel("rank among all draws")
    rank.set_ylabel("share, relative to uniform")
    return figure


def rank_counts(u: Tensor) -> Tensor:
    """How many draws of each chain fall into each of 15 bins of rank, summed over data: [chain, BINS].

    Args:
        u: one coordinate, [chain, draw, datum].
    """
    num_chains, num_draws, num_data = u.shape
    flat = u.reshape(num_chains * num_draws, num_data)
    ranks = flat.argsort(0).argsort(0).reshape(num_chains, num_draws * num_data)
    bins = (ranks * BINS) // (num_chains * num_draws)
    return torch.stack([torch.bincount(bins[chain], minlength=BINS) for chain in range(num_chains)]).float()
