"""The doubly reparameterised gradient of the importance-weighted bound, DReG."""

from __future__ import annotations

from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import Particles, log_mean_exp
from ...core import Data, ModelGuidePair, draw, log_guide, log_joint


class DoublyReparameterizedELBO(ELBO):
    r"""The importance-weighted bound with DReG gradients (Tucker et al. 2018, arXiv 1810.04152, eq. 8).

    $$\nabla_\phi \mathcal{L}_K = \sum_k \tilde w_k^2 \frac{\partial \log w_k}{\partial z_k}
      \frac{\partial z_k}{\partial \phi},\qquad
      \nabla_\theta \mathcal{L}_K = \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k),\qquad
      \tilde w_k = \frac{w_k}{\sum_j w_j}$$

    Under a KL weight $\beta$ only the part of the score in $\log w_k$ is reparameterised a second time, and
    $\tilde w_k^2$ becomes $(1 - \beta) \tilde w_k + \beta \tilde w_k^2$. The value is that of
    :class:`ImportanceWeightedELBO`, draw for draw; the guide's signal-to-noise ratio does not fall with K. K = 1 is
    :class:`StickingTheLandingELBO`.

    Args:
        num_particles: K, draws per datum.
    """

    is_lower_bound = True
    needs_rsample = True
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True
    supports_global_latents = False

    def __init__(self, num_particles: int = 5) -> None:
        super().__init__(num_particles=num_particles)

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the importance-weighted bound with DReG gradients; see :meth:`ELBO.terms`."""
        draws = draw(pair, x, self.num_particles, num_data)
        weights: list[Tensor] = []
        latents = {name: _scale_gradient(value, weights) for name, value in draws.latents.items()}
        constants = {name: value.detach() for name, value in draws.latents.items()}
        joint = log_joint(pair, x, latents, num_data, num_draws=self.num_particles)
        log_q, global_log_q = log_guide(pair, x, latents, num_data, num_draws=self.num_particles)
        score, _ = log_guide(pair, x, constants, num_data, num_draws=self.num_particles)
        # As in sticking the landing: the remaining gradient of log q goes through the draws.
        p = Particles(joint, log_q - (score - score.detach()), global_log_q)
        objective = p.tempered(kl_weight)
        shares = objective.detach().softmax(
            0
        )  # a second factor, in the backward pass; the first is in the objective's own gradient
        weights.append(1 - kl_weight + kl_weight * shares)
        global_ = joint.global_.mean(0)
        return BoundTerms(
            local=log_mean_exp(p.log_w),
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=log_mean_exp(objective),
            objective_global=global_,
        )


def _scale_gradient(value: Tensor, weights: list[Tensor]) -> Tensor:
    """The draws [K, B, *event], whose gradient in the backward pass is multiplied by ``weights[0]`` [K, B]."""
    value = value.view_as(value)
    if value.requires_grad:
        value.register_hook(
            lambda gradient: gradient * weights[0].reshape(*weights[0].shape, *(1,) * (value.dim() - 2))
        )
    return value
