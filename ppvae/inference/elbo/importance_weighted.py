"""The importance-weighted bound, IWAE."""

from __future__ import annotations

from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import pathwise
from ...core import Data, ModelGuidePair


class ImportanceWeightedELBO(ELBO):
    r"""The importance-weighted bound (Burda, Grosse & Salakhutdinov 2015, arXiv 1509.00519, eq. 8).

    $$\mathcal{L}_K = \sum_b \log \frac{1}{K} \sum_{k=1}^{K} w_{kb},
      \qquad w_{kb} = \frac{p_\theta(x_b, z_{kb})}{q_\phi(z_{kb} \mid x_b)}$$

    One weight for every datum and particle; the factor N / B of a minibatch stands outside the logarithm
    (``pyro.infer.RenyiELBO`` has it inside, which is another quantity). K = 1 is :class:`TraceELBO`.

    Args:
        num_particles: K, draws per datum.
    """

    is_lower_bound = True
    needs_rsample = True
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True
    supports_global_latents = False
    serves_scaled_sites = True
    serves_all_values = True

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the importance-weighted bound for a batch; see :meth:`ELBO.terms`."""
        p = pathwise(pair, x, self.num_particles, num_data)
        global_ = p.joint.global_.mean(0)
        return BoundTerms(
            local=p.log_mean_exp(p.log_w),
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=p.log_mean_exp(p.tempered(kl_weight)),
            objective_global=global_,
        )
