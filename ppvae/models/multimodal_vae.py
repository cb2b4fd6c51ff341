"""A VAE of several views of a datum, any of which may be missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli
from .requirements import require_latents, require_rows
from .variables import Latent, Mask, Observed
from ..core.errors import PpvaeError, try_one_of
from ..distributions import ConditionalDistribution, DiagonalNormal, OneHotCategorical, ProductOfExperts, StandardNormal
from ..networks import MLP, Initializer, paper


def multimodal_vae(
    event_shape: int | Sequence[int],
    num_classes: int,
    *,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    activation: str = "tanh",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    others: Mapping[str, tuple[int, LikelihoodMaker]] | None = None,
) -> LatentModel:
    r"""A VAE of a datum and its label, and of further views of it, whose encoders are multiplied (MVAE).

    $$z_b \sim \mathcal{N}(0, I),\qquad x_{b,m} \sim p_\theta(x_m \mid z_b)\ \text{for each view } m,$$
    $$q_\phi(z \mid x) \propto \mathcal{N}(z; 0, I)
      \prod_{m\ \mathrm{there}} \mathcal{N}(z; \mu_m(x_m), \sigma_m^2(x_m))$$

    (Wu & Goodman 2018, arXiv 1802.05335). A view that a datum lacks is left out of both products: its evidence is that
    of the views that it has, and :func:`~ppvae.inference.inpaint` gives the others.

    ======================  ==============================================  ===================================
    symbol                  meaning                                         name in code
    ======================  ==============================================  ===================================
    $z_b$, [Z]              what the views have in common                   site ``"z"``
    $x_{b,1}$, [D]          one datum                                       site ``"x"``
    $x_{b,2}$, [K]          its label, a row of 0 and one 1                 site ``"label"``
    ..                      which data have them, [B], 1 or True            ``"has_x"``, ``"has_label"``
    ======================  ==============================================  ===================================

    Limitations: the guide of a datum without some view is trained on such data alone. Where all training data have all
    views, show them with views hidden as well, as in the paper, whose objective is the sum of the bounds: here a data
    set of several copies. Given the views, dimensions of z are independent under the guide.

    Args:
        event_shape: number of entries D.
        num_classes: K.
        latent_dim: Z.
        hidden: units of the hidden layers of every encoder; the decoders have them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for N(0, 0.01).
        likelihood: of x, one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.
        others: further views by name: number of entries and likelihood; their masks are ``has_`` and the name.

    Raises:
        PpvaeError: fewer than one latent dimension, data of several axes, a name that is taken.

    >>> print(multimodal_vae(6, 3, latent_dim=2))
    p(x, label, z) = p(z) p(x | z) p(label | z)
    q(z | has_x, has_label, x, label) = q(z | x, label, has_x, has_label)
    <BLANKLINE>
    has_x: mask
    has_label: mask
    z: latent [2], prior StandardNormal, posterior ProductOfExperts
    x: observed [6], likelihood Bernoulli, gaps by has_x
    label: observed [3], likelihood OneHotCategorical, gaps by has_label
    """
    size = require_rows(event_shape, "multimodal_vae")
    require_latents(latent_dim)
    init = init or paper()

    def classes(trunk: nn.Module, _: int | Sequence[int]) -> ConditionalDistribution:
        return OneHotCategorical(trunk, num_classes)

    views = {"x": (size, likelihood or bernoulli()), "label": (num_classes, classes)}
    taken = {"z", *views, *(f"has_{name}" for name in (*views, *(others or {})))} & set(others or {})
    if taken:
        raise PpvaeError(f"others: the name {min(taken)!r} is taken" + try_one_of("another name"))
    views |= others or {}
    experts, seen = [], {}
    for name, (entries, of_view) in views.items():
        encoder = MLP(entries, hidden, activation=activation, init=init)
        decoder = MLP(latent_dim, hidden[::-1], activation=activation, init=init)
        experts.append(DiagonalNormal(encoder, latent_dim))
        seen[name] = Observed(of_view(decoder, entries).given("z"), mask=f"has_{name}")
    masks = {f"has_{name}": Mask(per_datum=True) for name in views}
    posterior = ProductOfExperts(experts).given(*views, *masks)
    return LatentModel(**masks, z=Latent(StandardNormal(latent_dim), posterior=posterior), **seen)
