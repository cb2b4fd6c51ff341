"""The variational Rényi bound."""

from __future__ import annotations

import math

from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import pathwise
from ...core import Data, ModelGuidePair, PpvaeError
from ...core.errors import try_one_of


class RenyiELBO(ELBO):
    r"""The variational Rényi bound, estimated by Monte Carlo (Li & Turner 2016, arXiv 1602.02311, eq. 14).

    $$\mathcal{L}_{\alpha, K} = \sum_b \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^{K} w_{kb}^{1 - \alpha}$$

    $\alpha = 0$ is :class:`ImportanceWeightedELBO`, $\alpha \to 1$ is :class:`TraceELBO`, and between them the bound
    falls as $\alpha$ grows. A power mean of exponent $1 - \alpha \le 1$ is at most the arithmetic mean, so that the
    expected estimate is a lower bound of log p(x) for every $\alpha \ge 0$ and every K, but not for $\alpha < 0$.

    Args:
        alpha: order of the divergence, any number but 1.
        num_particles: K, draws per datum.

    Raises:
        PpvaeError: alpha = 1, or not finite.
    """

    needs_rsample = True
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True
    supports_global_latents = False
    serves_scaled_sites = True
    serves_all_values = True

    def __init__(self, alpha: float, *, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)
        if not math.isfinite(alpha):
            raise PpvaeError(f"RenyiELBO: expected a finite alpha, found {alpha}")
        if alpha == 1:
            raise PpvaeError(
                "RenyiELBO: alpha = 1 is the ELBO itself, and this formula divides by 1 - alpha"
                + try_one_of("TraceELBO()", "TraceMeanFieldELBO()", "an alpha other than 1")
            )
        self.alpha = float(alpha)
        self.is_lower_bound = alpha >= 0

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the Rényi bound for a batch; see :meth:`ELBO.terms`."""
        p = pathwise(pair, x, self.num_particles, num_data)
        order = 1.0 - self.alpha
        global_ = p.joint.global_.mean(0)
        return BoundTerms(
            local=p.log_mean_exp(order * p.log_w) / order,
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=p.log_mean_exp(order * p.tempered(kl_weight)) / order,
            objective_global=global_,
        )

    def __repr__(self) -> str:
        return f"RenyiELBO({self.alpha:g}, num_particles={self.num_particles})"
