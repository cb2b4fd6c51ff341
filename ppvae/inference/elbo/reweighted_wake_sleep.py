"""Reweighted wake-sleep: the guide learns to cover the posterior."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import ELBO, BoundTerms
from .particles import log_mean_exp, score_particles
from ...core import Data, ModelGuidePair, PairError, PpvaeError, log_guide, structure
from ...core.errors import also_try, try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable, simulate_batch

_NO_DREAMS = ("sleep=0, which needs no dreams", "elbo.VIMCO")


class ReweightedWakeSleep(ELBO):
    r"""Reweighted wake-sleep (Bornschein & Bengio 2015, arXiv 1406.2751; Le et al. 2019, arXiv 1805.10469).

    $$g_\theta = \sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)$$
    $$g_\phi = (1 - s) \sum_k \tilde w_k \nabla_\phi \log q_\phi(z_k \mid x) + s\, \nabla_\phi \log q_\phi(z' \mid x')$$

    with $z_k \sim q_\phi(z \mid x)$, $\tilde w_k = w_k / \sum_j w_j$ and dreams $z', x' \sim p_\theta$. The model
    ascends the importance-weighted bound, which is also reported. The guide does not: it descends
    $\mathrm{KL}(p(z \mid x) \| q(z \mid x))$, with x from the data (wake, s = 0) or from the model (sleep, s = 1).
    Needs no reparameterisation; works on minibatches.

    Args:
        num_particles: K, draws per datum.
        sleep: s, the weight of the sleep update of the guide, in [0, 1].

    Raises:
        PpvaeError: sleep out of range.
    """

    is_lower_bound = True
    needs_rsample = False
    tight_when_guide_exact = True
    zero_variance_when_guide_exact = True
    unbiased_gradient = False
    supports_global_latents = False

    def __init__(self, num_particles: int = 5, *, sleep: float = 0.0) -> None:
        super().__init__(num_particles=num_particles)
        if not 0 <= sleep <= 1:
            raise PpvaeError(f"ReweightedWakeSleep: expected sleep in [0, 1], found {sleep}")
        self.sleep = float(sleep)

    @in_evaluation_mode
    def check(self, pair: ModelGuidePair, x: Data, *, trains: bool = True) -> None:
        """As :meth:`ELBO.check`; with a sleep update, the model must observe what it could have drawn."""
        if self.sleep:
            for info in structure(pair, x).observed:
                if info.scope == "global":
                    raise PairError(
                        f"ReweightedWakeSleep dreams of data, but observed site {info.name!r} stands outside the plate "
                        "over data, where no dream of a datum reaches it" + try_one_of(*_NO_DREAMS)
                    )
            try:
                require_simulable(pair, x, batches=True)
            except PairError as error:
                message = also_try(error, *_NO_DREAMS)
                raise PairError(f"ReweightedWakeSleep dreams of data: {message}") from error
        super().check(pair, x, trains=trains)

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the importance-weighted bound with wake and sleep gradients; see :meth:`ELBO.terms`."""
        # Sleep alone leaves the guide's gradient to the dreams.
        p = score_particles(pair, x, self.num_particles, num_data, score=self.sleep < 1)
        weights = p.tempered(kl_weight).detach().softmax(0)
        log_p = p.joint.observed + kl_weight * (p.joint.local - p.joint.observed)
        objective = (weights * log_p).sum(0)
        if self.sleep < 1:
            objective = objective + (1 - self.sleep) * (weights * p.log_q).sum(0)
        if self.sleep:
            objective = objective + self.sleep * self._dream(pair, x, num_data)
        global_ = p.joint.global_.mean(0)
        return BoundTerms(
            local=log_mean_exp(p.log_w),
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=objective,
            objective_global=global_,
        )

    def _dream(self, pair: ModelGuidePair, x: Data, num_data: int | None) -> Tensor:
        r"""$\log q_\phi(z' \mid x')$ of one dream for every datum, [B]."""
        with torch.no_grad():
            dream, batch = simulate_batch(pair, x, num_data)
        log_q, _ = log_guide(pair, batch, dream.latents, num_data)
        return log_q

    def __repr__(self) -> str:
        return f"ReweightedWakeSleep({self.num_particles}, sleep={self.sleep:g})"
