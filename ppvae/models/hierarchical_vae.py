"""A variational auto-encoder of several layers of latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli, range_of, reading
from .posteriors import PosteriorMaker, diagonal
from .priors import PriorMaker, standard
from .requirements import part, require_layers, require_word
from .variables import Latent, Observed
from ..distributions import DiagonalNormal
from ..networks import Branches, Initializer, he

_LOG_SCALES = (-3.0, 1.0)


def hierarchical_vae(
    event_shape: int | Sequence[int] = 784,
    *,
    latent_dims: Sequence[int] = (40, 40),
    hidden: Sequence[int] = (300, 300),
    links: Literal["all", "chain"] = "all",
    activation: str = "gated",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> LatentModel:
    r"""A VAE of L layers of latents, z1 next to the data and zL on top, with any prior there.

    With ``links="all"`` every variable depends on all above it, and the guide goes down from the top, as in the
    two-level VampPrior model (Tomczak & Welling 2018, arXiv 1705.07120, section 4):

    $$p(x, z_{1:L}) = p(z_L) \prod_{l < L} p(z_l \mid z_{l+1:L})\ p(x \mid z_{1:L}),\qquad
      q(z_{1:L} \mid x) = q(z_L \mid x) \prod_{l < L} q(z_l \mid x, z_{l+1:L})$$

    With ``links="chain"`` every variable depends on the next one alone, and the guide goes up from the data (Burda et
    al. 2015, arXiv 1509.00519, section 2):

    $$p(x, z_{1:L}) = p(z_L) \prod_{l < L} p(z_l \mid z_{l+1})\ p(x \mid z_1),\qquad
      q(z_{1:L} \mid x) = q(z_1 \mid x) \prod_{l > 1} q(z_l \mid z_{l-1})$$

    ============================  ============================  =====================================
    symbol                        meaning                       name in code
    ============================  ============================  =====================================
    $z_1$, ..., $z_L$             layers, from the data up      sites ``"z1"``, ``"z2"``, ...
    $x$, [*event]                 one datum                     site ``"x"``
    $p(z_L)$                      prior on top                  ``prior_z2``, for two layers
    $q(z_l \mid \ldots)$          of each layer                 ``posterior_z1``, ``posterior_z2``, ...
    ============================  ============================  =====================================

    A network of several inputs has a first layer apart for each (:class:`ppvae.networks.Branches`). The default is that
    of the VampPrior paper's experiments: two gated layers of 300, He's initialisation, latents of 40, log-variances cut
    off at -6 and 2.

    Limitations: upper layers are often not used, which the report of sites shows; no layer is convolutional.

    Args:
        event_shape: number of entries D, or a shape.
        latent_dims: dimensions of each layer, from the data up; the last is the top.
        hidden: units of the hidden layers of every network of the guide; those of the model have them in reverse.
        links: "all" or "chain", see above.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for :func:`ppvae.networks.he`.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.
        prior: of the top, one of :mod:`ppvae.models.priors`; None for the standard normal. With "chain" a VampPrior's
            pseudo-inputs are values of the layer below the top, since that is what the top's posterior reads.
        posterior: of every layer, one of :mod:`ppvae.models.posteriors`; None for diagonal normals of bounded scales.

    Raises:
        PpvaeError: no layer, one without dimensions, or another word for the links.

    >>> print(hierarchical_vae(64, latent_dims=(4, 2), hidden=(30, 30)))
    p(x, z2, z1) = p(z2) p(z1 | z2) p(x | z1, z2)
    q(z2, z1 | x) = q(z2 | x) q(z1 | x, z2)
    <BLANKLINE>
    z2: latent [2], prior StandardNormal, posterior DiagonalNormal
    z1: latent [4], prior DiagonalNormal, posterior DiagonalNormal
    x: observed [64], likelihood Bernoulli
    """
    require_layers(latent_dims)
    require_word("links", links, ("all", "chain"))
    init = init or he()
    names = [f"z{level}" for level in range(1, len(latent_dims) + 1)]  # from the data up
    shapes = {"x": event_shape, **dict(zip(names, latent_dims, strict=True))}

    def network(parents: Sequence[str], units: Sequence[int]) -> Branches:
        return Branches([shapes[parent] for parent in parents], units, activation=activation, init=init)

    def above(level: int) -> list[str]:
        return names[level:] if links == "all" else names[level : level + 1]

    likelihood = likelihood or bernoulli()
    observed = likelihood(network(above(0), hidden[::-1]), event_shape)
    layers: dict[str, Latent] = {}
    for level in range(len(names), 0, -1):
        name, dim = names[level - 1], latent_dims[level - 1]
        read = ["x", *above(level)] if links == "all" else [("x", *names)[level - 1]]
        trunk: nn.Module = network(read, hidden)
        if read[0] == "x":
            trunk = reading(trunk, likelihood)
        encoder = part("posterior", posterior, diagonal(_LOG_SCALES))(trunk, dim)
        if above(level):
            generated = DiagonalNormal(network(above(level), hidden[::-1]), dim, log_scale_range=_LOG_SCALES)
            layers[name] = Latent(generated.given(*above(level)), posterior=encoder.given(*read))
        else:
            bounds = range_of(observed) if read == ["x"] else None
            top = part("prior", prior, standard())(encoder, shapes[read[0]], bounds)
            layers[name] = Latent(top, posterior=encoder.given(*read))
    return LatentModel(**layers, x=Observed(observed.given(*above(0))))
