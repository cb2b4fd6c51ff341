"""Importance sampling with the guide as proposal: the bound L_K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory
from .run import Run
from .sampled import collect, sampled_memory
from .weights import from_weights
from ..arguments import require_whole
from ...core import Data, ModelGuidePair, draw, log_joint, structure


@dataclass(frozen=True)
class ImportanceSampling(EvidenceMethod):
    r"""The encoder as proposal: $\mathcal{L}_K$ of Burda, Grosse & Salakhutdinov (2015, arXiv 1509.00519, eq.
    8).

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} \frac{p(x, z_k)}{q(z_k \mid x)},\qquad z_k \sim q(z
    \mid x)$$

    $\hat p$ is unbiased, so $\log \hat p$ is a lower bound in expectation; at K = 1 it is the ELBO. With the
    exact posterior as guide it is log p(x) at any K, without error.

    Limitations: where the guide misses a part of the posterior, so does every draw, and neither the standard
    error nor Pareto k can see it.

    Args:
        num_samples: K, draws per datum.

    Raises:
        PpvaeError: K no whole number, or below 1.

    >>> import torch
    >>> from ppvae.inference.evidence import log_evidence
    >>> from ppvae.models import FactorAnalysis
    >>> pair, x = FactorAnalysis(4, 2), torch.randn(3, 4)
    >>> found = log_evidence(pair, x, method=ImportanceSampling(10), progress=False)
    >>> bool((found.log_evidence - pair.log_evidence(x)).abs().max() < 1e-4)
    True
    """

    num_samples: int = 1000
    bound: ClassVar[Bound] = "lower"

    def __post_init__(self) -> None:
        require_whole("ImportanceSampling: num_samples", self.num_samples, 1)

    def check(self, run: Run) -> None:
        """Every datum has a weight of its own."""
        structure(run.pair, run.example).require_weights_per_datum(
            "ImportanceSampling",
            "AIS(start='prior'), BridgeSampling() or PriorSampling(), which need no log q(z | x)",
            "a guide with a distribution for every datum: AutoNormal, or an encoder",
        )

    def memory(self, run: Run) -> Memory:
        """The log-weights stay; latents do not."""
        return sampled_memory(run, self.num_samples)

    def estimate(self, run: Run, x: Data) -> Estimate:
        """L_K with its error, effective sample size and Pareto k."""
        return from_weights(collect(run, run.pair, x, "importance", _log_weights, self.num_samples))


def _log_weights(pair: ModelGuidePair, x: Data, num_samples: int) -> Tensor:
    drawn = draw(pair, x, num_samples)
    return log_joint(pair, x, drawn.latents).local - drawn.log_q
