"""SGVB estimator A: everything sampled."""

from __future__ import annotations

from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import pathwise
from ...core import Data, ModelGuidePair


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
    serves_scaled_sites = True
    serves_all_values = True

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of estimator A for a batch; see :meth:`ELBO.terms`."""
        p = pathwise(pair, x, self.num_particles, num_data)
        global_ = p.global_log_w.mean(0)
        return BoundTerms(
            local=p.reconstruction - p.kl,
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=p.mean(p.tempered(kl_weight)),
            objective_global=kl_weight * global_,
        )
