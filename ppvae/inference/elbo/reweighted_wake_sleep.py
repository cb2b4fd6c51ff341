"""Reweighted wake-sleep: the guide learns to cover the posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .base import ELBO, BoundTerms
from .particles import log_mean_exp, score_particles
from ...core import Data, ModelGuidePair, PairError, PpvaeError, log_guide, simulate, structure
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


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
    def check(self, pair: ModelGuidePair, x: Data) -> None:
        """As :meth:`ELBO.check`; with a sleep update, each observed site must match an entry of the batch."""
        super().check(pair, x)
        if self.sleep:
            _places(pair, x)

    def terms(
        self, pair: ModelGuidePair, x: Data, num_data: int | None = None, *, kl_weight: Tensor | float = 1.0
    ) -> BoundTerms:
        """The terms of the importance-weighted bound with wake and sleep gradients; see :meth:`ELBO.terms`."""
        p = score_particles(pair, x, self.num_particles, num_data)
        weights = p.tempered(kl_weight).detach().softmax(0)
        log_p = p.joint.observed + kl_weight * (p.joint.local - p.joint.observed)
        of_guide = (1 - self.sleep) * (weights * p.log_q).sum(0)
        if self.sleep:
            of_guide = of_guide + self.sleep * self._dream(pair, x, num_data)
        global_ = p.joint.global_.mean(0)
        return BoundTerms(
            local=log_mean_exp(p.log_w),
            global_=global_,
            reconstruction=p.reconstruction,
            kl=p.kl,
            objective_local=(weights * log_p).sum(0) + of_guide,
            objective_global=global_,
        )

    def _dream(self, pair: ModelGuidePair, x: Data, num_data: int | None) -> Tensor:
        r"""$\log q_\phi(z' \mid x')$ of one dream for every datum, [B]."""
        with torch.no_grad():
            dream = simulate(pair, x, num_data)
        leaves, spec = pytree.tree_flatten(_plain(x))
        for name, index in _places(pair, x).items():
            leaves[index] = dream.observed[name].to(leaves[index].dtype).reshape(leaves[index].shape)
        log_q, _ = log_guide(pair, pytree.tree_unflatten(leaves, spec), dream.latents, num_data)
        return log_q

    def __repr__(self) -> str:
        return f"ReweightedWakeSleep({self.num_particles}, sleep={self.sleep:g})"


def _plain(x: Any) -> Any:
    return dict(x) if isinstance(x, Mapping) else x


def _places(pair: ModelGuidePair, x: Data) -> dict[str, int]:
    """The entry of the batch for each observed site: the one of its name, else the only one of its shape.

    Raises:
        PairError: no entry fits, or several do.
    """
    shape = structure(pair, x)
    paths, _ = pytree.tree_flatten_with_path(_plain(x))
    places = {}
    for info in shape.observed:
        size = (shape.batch, *info.shape)
        by_name = [i for i, (path, _) in enumerate(paths) if path and getattr(path[-1], "key", None) == info.name]
        by_shape = [i for i, (_, v) in enumerate(paths) if isinstance(v, Tensor) and tuple(v.shape) == size]
        if not by_name and not by_shape:
            by_shape = [i for i, (_, v) in enumerate(paths) if isinstance(v, Tensor) and v.shape.numel() == _size(size)]
        matches = by_name or by_shape
        if len(matches) != 1:
            raise PairError(
                f"ReweightedWakeSleep dreams of observed site {info.name!r}, of shape {list(size)}, but "
                f"{len(matches) or 'no'} entries of the batch fit"
                + try_one_of(
                    f"a mapping batch with a key {info.name!r}", "sleep=0, which needs no dreams", "elbo.VIMCO"
                )
            )
        places[info.name] = matches[0]
    return places


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
