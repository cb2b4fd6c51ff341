"""The score-function estimator (REINFORCE), with control variates."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .base import ELBO, BoundTerms
from .particles import score_particles
from ...core import Data, ModelGuidePair, PpvaeError
from ...core.errors import did_you_mean, try_one_of

BASELINES = ("none", "decaying-average", "leave-one-out")


class ScoreFunctionELBO(ELBO):
    r"""The score-function gradient of the ELBO, for any guide, also discrete ones.

    $$\nabla_\phi \mathcal{L} = \frac{1}{K} \sum_k (\log w_k - c_k)\, \nabla_\phi \log q_\phi(z_k \mid x),\qquad
      \nabla_\theta \mathcal{L} = \frac{1}{K} \sum_k \nabla_\theta \log p_\theta(x, z_k)$$

    Williams 1992; Paisley, Blei & Jordan 2012 (arXiv 1206.6430). A baseline $c_k$ that does not depend on $z_k$ does
    not change the expectation and can lower the variance:

    - "decaying-average": the mean of $\log w$ over past batches, a state between steps;
    - "leave-one-out": $c_k = \frac{1}{K-1} \sum_{j \ne k} \log w_j$ (Mnih & Rezende 2016; Kool et al. 2019);
    - a module: $c_k = c_\psi(x)$, trained beside the pair by least squares (Mnih & Gregor 2014, arXiv 1402.0030).

    A local latent's score is multiplied by the log weight of its own datum only; a global one's by that of the whole
    data set.

    Args:
        num_particles: K, draws per datum.
        baseline: "none", "decaying-average", "leave-one-out", or a module from x [B, *event] to [B] or [B, 1].
        decay: of the decaying average, in [0, 1).

    Raises:
        PpvaeError: "leave-one-out" with K < 2, an unknown baseline, or a decay out of range.
    """

    is_lower_bound = True
    needs_rsample = False
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True

    def __init__(
        self,
        *,
        num_particles: int = 1,
        baseline: Literal["none", "decaying-average", "leave-one-out"] | nn.Module = "none",
        decay: float = 0.9,
    ) -> None:
        super().__init__(num_particles=num_particles)
        if isinstance(baseline, str) and baseline not in BASELINES:
            raise PpvaeError(
                f"ScoreFunctionELBO: unknown baseline {baseline!r}: {did_you_mean(baseline, BASELINES)}, "
                "or a module from x to [B]"
            )
        if baseline == "leave-one-out" and num_particles < 2:
            raise PpvaeError(
                f"ScoreFunctionELBO: the leave-one-out baseline of a draw is the mean of the others: expected "
                f"num_particles of at least 2, found {num_particles}"
                + try_one_of("num_particles=2 or more", "baseline='decaying-average'")
            )
        if not 0 <= decay < 1:
            raise PpvaeError(f"ScoreFunctionELBO: expected a decay in [0, 1), found {decay}")
        self.baseline = baseline if isinstance(baseline, str) else "learned"
        self.module = None
        if isinstance(baseline, nn.Module):
            self.module = baseline
        elif baseline == "decaying-average":
            self.module = DecayingAverage(decay)

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of estimator A with score-function gradients; see :meth:`ELBO.terms`."""
        p = score_particles(pair, x, self.num_particles, num_data)
        signal = p.tempered(kl_weight).detach()
        global_signal = (kl_weight * p.global_log_w).detach()
        baseline, global_baseline = torch.zeros_like(signal), torch.zeros_like(global_signal)
        fit_of_baseline: Tensor | float = 0.0
        buffers: dict[str, Tensor] | None = None
        if self.baseline == "leave-one-out":
            baseline, global_baseline = _mean_of_others(signal), _mean_of_others(global_signal)
        elif isinstance(self.module, DecayingAverage):
            baseline = baseline + self.module.value().to(signal.dtype)
            buffers = self.module.after(signal)
        elif self.module is not None:
            batch: Any = x  # stock SVI passes (args, kwargs): the first argument is the batch
            prediction = self.module(batch[0][0] if isinstance(batch, tuple) else x).reshape(signal.shape[-1])
            baseline = baseline + prediction.detach()
            fit_of_baseline = -0.5 * (signal - prediction).square().mean(0)
        # A global draw changes every datum's weight, so its score multiplies each; scaled_total applies N / B.
        score = p.log_q + p.global_log_q.unsqueeze(-1)
        of_guide = (score * (signal - baseline)).mean(0)
        of_model = (p.joint.observed + kl_weight * (p.joint.local - p.joint.observed)).mean(0)
        global_of_guide = (p.global_log_q * (global_signal - global_baseline)).mean(0)
        return BoundTerms(
            local=p.log_w.mean(0),
            global_=p.global_log_w.mean(0),
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=of_model + of_guide + fit_of_baseline,
            objective_global=kl_weight * p.joint.global_.mean(0) + global_of_guide,
            buffers=buffers,
        )

    def __repr__(self) -> str:
        return f"ScoreFunctionELBO(num_particles={self.num_particles}, baseline={self.baseline!r})"


class DecayingAverage(nn.Module):
    """An exponentially weighted mean of past signals, corrected for its start at zero.

    Args:
        decay: in [0, 1); weights fall by this factor from one step to the next.
    """

    total: Tensor
    weight: Tensor

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros((), dtype=torch.float64))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))

    def value(self) -> Tensor:
        """The mean so far, a scalar in nats; zero before the first step."""
        return torch.where(self.weight > 0, self.total / self.weight.clamp_min(1e-300), 0.0)

    def after(self, signal: Tensor) -> dict[str, Tensor]:
        """The buffers after one more signal [K, B]."""
        return {
            "total": self.decay * self.total + (1 - self.decay) * signal.mean().to(self.total.dtype),
            "weight": self.decay * self.weight + (1 - self.decay),
        }


def _mean_of_others(signal: Tensor) -> Tensor:
    return (signal.sum(0) - signal) / (signal.shape[0] - 1)
