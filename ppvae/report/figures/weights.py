"""Figures of a posterior over weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .theme import LABELS, Theme, canvas, plain_numbers


def weight_noise(signal_to_noise: Mapping[str, Tensor], theme: Theme) -> Figure:
    """Distribution of |mean| / sd over the weights of every site, on a logarithmic axis."""
    figure, (axes,) = canvas(theme, 3.4)
    logs = {name: torch.log10(value.flatten().clamp(min=1e-4)).numpy() for name, value in signal_to_noise.items()}
    everything = np.concatenate(list(logs.values()))
    edges = np.linspace(everything.min(), max(everything.max(), everything.min() + 0.1), 41)
    for place, (name, values) in enumerate(logs.items()):
        share, _ = np.histogram(values, edges)
        axes.stairs(
            share / len(values),
            10**edges,
            color=LABELS[place % len(LABELS)],
            linewidth=1.6,
            label=f"{name} ({len(values)})",
        )
    axes.axvline(1.0, color=theme.muted, linewidth=1.0)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis)
    axes.set_xlabel("signal-to-noise |mean| / sd")
    axes.set_ylabel("share of the weights")
    axes.legend(labelcolor=theme.ink)
    return figure
