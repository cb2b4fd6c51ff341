"""The path derivative of the ELBO, "sticking the landing"."""

from __future__ import annotations

from torch import Tensor

from .base import ELBO, BoundTerms
from ...core import Data, ModelGuidePair, draw, log_guide, log_joint


class StickingTheLandingELBO(ELBO):
    r"""Estimator A without the guide's score (Roeder, Wu & Duvenaud 2017, arXiv 1703.09194, eq. 8).

    $$\nabla_\phi \mathcal{L} = \frac{1}{K} \sum_k
      \frac{\partial \log w_k}{\partial z_k} \frac{\partial z_k}{\partial \phi}$$

    The omitted score, $\nabla_\phi \log q_\phi(z_k \mid x)$ at fixed $z_k$, has expectation zero; without it every
    single gradient of the guide is zero where the guide is exact. Values are those of :class:`TraceELBO`, draw for
    draw.

    Args:
        num_particles: K, draws per datum.
    """

    is_lower_bound = True
    needs_rsample = True
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of estimator A with the path derivative alone; see :meth:`ELBO.terms`."""
        draws = draw(pair, x, self.num_particles, num_data)
        joint = log_joint(pair, x, draws.latents, num_data, num_draws=self.num_particles)
        # log q at detached draws has the score as its gradient: subtracting it leaves the path derivative. The value
        # does not change, and the guide's parameters need not be known.
        constants = {name: value.detach() for name, value in draws.latents.items()}
        score, global_score = log_guide(pair, x, constants, num_data, num_draws=self.num_particles)
        log_q = draws.log_q - (score - score.detach())
        global_log_q = draws.global_log_q - (global_score - global_score.detach())
        reconstruction = joint.observed.mean(0)
        kl = (log_q - (joint.local - joint.observed)).mean(0)
        global_ = (joint.global_ - global_log_q).mean(0)
        return BoundTerms(
            local=reconstruction - kl,
            global_=global_,
            reconstruction=reconstruction,
            kl=kl,
            objective_local=reconstruction - kl_weight * kl,
            objective_global=kl_weight * global_,
        )
