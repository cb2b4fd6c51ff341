"""VIMCO: the importance-weighted bound for discrete latents."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import log_mean_exp, score_particles
from ...core import Data, ModelGuidePair, PpvaeError
from ...core.errors import try_one_of


class VIMCO(ELBO):
    r"""The importance-weighted bound with a baseline for every draw (Mnih & Rezende 2016, arXiv 1602.06725, eq. 14).

    $$\nabla \mathcal{L}_K = \sum_k (\hat L - \hat L_{-k})\, \nabla \log q(z_k \mid x)
      + \sum_k \tilde w_k \nabla \log w_k,\qquad \hat L = \log \frac{1}{K} \sum_k w_k$$

    where $\hat L_{-k}$ has $w_k$ replaced by the geometric mean of the other weights. Needs no reparameterisation, so
    that it serves discrete latents; the value is that of :class:`ImportanceWeightedELBO`.

    Args:
        num_particles: K, draws per datum, at least 2.

    Raises:
        PpvaeError: K < 2.
    """

    is_lower_bound = True
    needs_rsample = False
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True
    supports_global_latents = False

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        if num_particles < 2:
            raise PpvaeError(
                f"VIMCO: the baseline of a draw comes from the others: expected num_particles of at least 2, "
                f"found {num_particles}" + try_one_of("num_particles=2 or more", "ScoreFunctionELBO()")
            )

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the importance-weighted bound with VIMCO gradients; see :meth:`ELBO.terms`."""
        p = score_particles(pair, x, self.num_particles, num_data)
        objective = p.tempered(kl_weight)
        learning_signal = _learning_signal(objective.detach())
        global_ = p.joint.global_.mean(0)
        return BoundTerms(
            local=log_mean_exp(p.log_w),
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=log_mean_exp(objective) + (learning_signal * p.log_q).sum(0),
            objective_global=global_,
        )


def _learning_signal(log_w: Tensor) -> Tensor:
    r"""$\hat L - \hat L_{-k}$, [K, B]."""
    count = log_w.shape[0]
    diagonal = torch.eye(count, dtype=torch.bool, device=log_w.device).unsqueeze(-1)
    others = log_w.unsqueeze(1).expand(-1, count, -1)  # [j, k, B]: w_j
    # torch.where, not a product with zero: a particle of zero density has a log weight of minus infinity.
    geometric = torch.where(diagonal, 0.0, others).sum(0) / (count - 1)  # log of the geometric mean of the others
    leave_one_out = torch.where(diagonal, geometric, others)  # w_j with w_k replaced
    baseline = log_mean_exp(leave_one_out)
    # Where all the others have zero density the baseline is zero, which depends on the others alone, as it must.
    return log_mean_exp(log_w) - torch.where(baseline == -torch.inf, 0.0, baseline)
