"""SGVB estimator A: everything sampled."""

from __future__ import annotations

from torch import Tensor

from .base import ELBO, BoundTerms
from ...core import Data, ModelGuidePair, draw, log_joint


class TraceELBO(ELBO):
    r"""SGVB estimator A (Kingma & Welling 2013, arXiv 1312.6114, eq. 6).

    $$\widetilde{\mathcal{L}}^A = \frac{1}{K} \sum_{k=1}^{K} \log p_\theta(x, z_k) - \log q_\phi(z_k \mid x),
      \qquad z_k = g_\phi(\epsilon_k, x)$$

    Equal to ``pyro.infer.Trace_ELBO`` on reparameterised guides, noise for noise.

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
        """The terms of estimator A for a batch; see :meth:`ELBO.terms`."""
        drawn = draw(pair, x, self.num_particles, num_data)
        joint = log_joint(pair, x, drawn.latents, num_data)
        reconstruction = joint.observed.mean(0)
        kl = (drawn.log_q - (joint.local - joint.observed)).mean(0)
        global_ = (joint.global_ - drawn.global_log_q).mean(0)
        return BoundTerms(
            local=reconstruction - kl,
            global_=global_,
            reconstruction=reconstruction,
            kl=kl,
            objective_local=reconstruction - kl_weight * kl,
            objective_global=kl_weight * global_,
        )
