"""Draws with their log weights, the start of every estimator."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core import Data, LogTerms, ModelGuidePair, draw, draw_all_values, log_guide, log_joint, structure


class Particles(NamedTuple):
    r"""K draws for every datum, $\log w_{kb} = \log p(x_b, z_{kb}) - \log q(z_{kb} \mid x_b)$.

    Attributes:
        joint: $\log p(x, z, w)$ at the draws; its parts are [K, B] and [K].
        log_q: $\log q(z \mid x)$ of the local latents, [K, B].
        global_log_q: $\log q(w)$ of the global latents, [K].
        tilt: contribution of the programs' own scales (``poutine.scale``) to the objective, [K, B]; None for none.
        log_share: log of each draw's weight in a mean over K, [K, B], where the guide's discrete sites take all of
            their values (:func:`ppvae.core.draw_all_values`); None where all count alike.
    """

    joint: LogTerms
    log_q: Tensor
    global_log_q: Tensor
    tilt: Tensor | None = None
    log_share: Tensor | None = None

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the draws, [B], of a value [K, B]."""
        return (value if self.log_share is None else self.log_share.exp() * value).mean(0)

    def log_mean_exp(self, log_value: Tensor) -> Tensor:
        """The log of the mean over the draws, [B], of the exponential of a value [K, B]."""
        return log_mean_exp(log_value if self.log_share is None else log_value + self.log_share)

    @property
    def log_w(self) -> Tensor:
        """Log weights of the local latents, [K, B]."""
        return self.joint.local - self.log_q

    @property
    def global_log_w(self) -> Tensor:
        """Log weights of the global latents, [K]."""
        return self.joint.global_ - self.global_log_q

    def tempered(self, kl_weight: Tensor | float) -> Tensor:
        r"""$\log p(x \mid z) + \beta (\log p(z) - \log q(z \mid x))$, [K, B], plus the tilt: the objective during KL
        warm-up."""
        terms = self.joint.observed + kl_weight * (self.joint.local - self.joint.observed - self.log_q)
        return terms if self.tilt is None else terms + self.tilt

    @property
    def reconstruction(self) -> Tensor:
        r"""Estimate of $\mathrm{E}_q \log p(x \mid z)$, [B]."""
        return self.mean(self.joint.observed)

    @property
    def kl(self) -> Tensor:
        r"""Estimate of $\mathrm{KL}(q(z \mid x) \| p(z))$, [B]."""
        return self.mean(self.log_q - (self.joint.local - self.joint.observed))


def pathwise(pair: ModelGuidePair, x: Data, num_particles: int, num_data: int | None) -> Particles:
    """Draws through which gradients flow; all values of discrete sites that the guide marks to be enumerated."""
    marked = structure(pair, x).guide_enumerated
    draws = (draw_all_values if marked else draw)(pair, x, num_particles, num_data)
    joint = log_joint(pair, x, draws.latents, num_data, num_draws=num_particles)
    tilt = joint.tilt
    if draws.tilt is not None:
        tilt = -draws.tilt if tilt is None else tilt - draws.tilt
    return Particles(joint, draws.log_q, draws.global_log_q, tilt, draws.log_share)


def score_particles(
    pair: ModelGuidePair, x: Data, num_particles: int, num_data: int | None, *, score: bool = True
) -> Particles:
    r"""Draws without a path gradient: the gradient of ``log_q`` is the score, that of ``joint`` the model's alone.

    Args:
        pair: the pair.
        x: the batch, [B, *event].
        num_particles: K.
        num_data: N, an argument of the programs.
        score: False where no gradient of ``log_q`` is wanted: the guide then runs once.
    """
    if not score:
        with torch.no_grad():
            draws = draw(pair, x, num_particles, num_data)
        latents, log_q, global_log_q = draws.latents, draws.log_q, draws.global_log_q
    elif any(info.has_rsample for info in structure(pair, x).guide_latents):
        with torch.no_grad():
            latents = draw(pair, x, num_particles, num_data).latents
        log_q, global_log_q = log_guide(pair, x, latents, num_data, num_draws=num_particles)
    else:  # no gradient flows through such draws anyway
        draws = draw(pair, x, num_particles, num_data)
        latents, log_q, global_log_q = draws.latents, draws.log_q, draws.global_log_q
    return Particles(log_joint(pair, x, latents, num_data, num_draws=num_particles), log_q, global_log_q)


def log_mean_exp(log_w: Tensor) -> Tensor:
    r"""$\log \frac{1}{K} \sum_k w_k$ over axis 0."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])
