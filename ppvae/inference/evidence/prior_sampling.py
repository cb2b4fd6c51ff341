"""The naive estimator: draws from the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Bound, Estimate, EvidenceMethod, Memory
from .run import EvidenceRun
from .sampled import collect, sampling_memory
from .weights import from_weights
from ..execution.arguments import require_integer
from ...core import Data, ModelGuidePair, draw, log_joint


@dataclass(frozen=True)
class PriorSampling(EvidenceMethod):
    r"""The naive estimator: the mean likelihood of draws from the prior.

    $$\log \hat p(x) = \log \frac{1}{K} \sum_{k=1}^{K} p(x \mid z_k),\qquad z_k \sim p(z)$$

    Unbiased in p, so a lower bound in log p, in expectation.

    Limitations: the number of draws that it needs grows exponentially with KL(posterior || prior), so that it fails
    from a few informative dimensions on (``benchmarks/evidence_dimension.py``), as Pareto k shows.

    Args:
        num_samples: K, draws per datum.

    Raises:
        PpvaeError: K not a whole number, or below 1.
    """

    num_samples: int = 1000
    bound: ClassVar[Bound] = "lower"

    def __post_init__(self) -> None:
        require_integer("PriorSampling: num_samples", self.num_samples, 1)

    def memory(self, run: EvidenceRun) -> Memory:
        """The log-weights stay; latents do not."""
        return sampling_memory(run, self.num_samples)

    def estimate(self, run: EvidenceRun, x: Data) -> Estimate:
        """The mean likelihood with its error, effective sample size and Pareto k."""
        return from_weights(collect(run, run.prior_pair, x, "prior", _log_likelihood, self.num_samples))


def _log_likelihood(pair: ModelGuidePair, x: Data, num_samples: int) -> Tensor:
    # The guide is the model here, so that the log q of `draw` contains the likelihood; it is not used.
    return log_joint(pair, x, draw(pair, x, num_samples).latents).observed
