"""Presets: the architectures of AEVB, appendix C, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from .likelihoods import LikelihoodMaker, Spread, bernoulli, gaussian, range_of, reading
from .posteriors import PosteriorMaker, diagonal
from .priors import PriorMaker, standard
from .requirements import part, require_latents
from .vae import VAE
from ..distributions import Multinomial
from ..networks import MLP, Initializer, paper


def bernoulli_vae(
    event_shape: int | Sequence[int] = 784,
    *,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    activation: str = "tanh",
    init: Initializer | None = None,
    allow_grey: bool = False,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> VAE:
    """A VAE for binary data: Gaussian encoder, Bernoulli decoder, both MLPs (AEVB appendix C).

    Args:
        event_shape: number of pixels D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        allow_grey: accept grey values in [0, 1], as the paper does (a cross-entropy, not a density of x).
        prior: one of :mod:`ppvae.models.priors`, such as ``priors.vamp(500)``; None for the standard normal.
        posterior: one of :mod:`ppvae.models.posteriors`, such as ``posteriors.iaf()``; None for a diagonal normal.

    Raises:
        PpvaeError: fewer than one latent dimension.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    return compose(networks, bernoulli(allow_grey), event_shape, latent_dim, prior, posterior)


def gaussian_vae(
    event_shape: int | Sequence[int] = 560,
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    scale: Spread = "conditional",
    mean: Literal["identity", "sigmoid"] = "sigmoid",
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> VAE:
    """A VAE for real data: Gaussian encoder, Gaussian decoder, both MLPs (AEVB appendix C; Frey faces).

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        scale: the likelihood's standard deviation, see :class:`ppvae.distributions.Normal`.
        mean: "sigmoid" for data in (0, 1), as the paper; "identity" for any real data.
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.

    Raises:
        PpvaeError: fewer than one latent dimension.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    return compose(networks, gaussian(scale, mean), event_shape, latent_dim, prior, posterior)


def trunks(
    event_shape: int | Sequence[int],
    latent_dim: int,
    hidden: Sequence[int],
    activation: str,
    init: Initializer | None,
) -> tuple[MLP, MLP]:
    """The networks of an encoder and of a decoder, each other's mirror image, for the arguments of a preset."""
    require_latents(latent_dim)
    init = init or paper()
    encoder = MLP(event_shape, hidden, activation=activation, init=init)
    return encoder, MLP(latent_dim, hidden[::-1], activation=activation, init=init)


def compose(
    networks: tuple[nn.Module, nn.Module],
    likelihood: LikelihoodMaker,
    event_shape: int | Sequence[int],
    latent_dim: int,
    prior: PriorMaker | None,
    posterior: PosteriorMaker | None,
) -> VAE:
    """A VAE of the parts that a preset names, on the networks of its encoder and decoder.

    Args:
        networks: trunks of the encoder and of the decoder.
        likelihood: of the data; a multinomial is given the total of each datum.
        event_shape: of a datum.
        latent_dim: Z.
        prior: None for the standard normal.
        posterior: None for a diagonal normal.
    """
    trunk, decoder = networks
    encoder = part("posterior", posterior, diagonal())(reading(trunk, likelihood), latent_dim)
    observed = likelihood(decoder, event_shape)
    top = part("prior", prior, standard())(encoder, event_shape, range_of(observed))
    return VAE(top, observed, encoder, total=isinstance(observed, Multinomial))
