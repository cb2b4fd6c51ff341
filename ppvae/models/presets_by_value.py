"""Presets for data that AEVB had none of: counts, real values far out, levels. Networks as in its appendix C."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from .likelihoods import Spread, discretised_logistic, student_t
from .posteriors import PosteriorMaker
from .presets import compose, trunks
from .priors import PriorMaker
from .requirements import require_rows
from .vae import VAE
from ..distributions import Multinomial, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from ..networks import Initializer


def poisson_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> VAE:
    """A VAE for counts: Gaussian encoder of log(1 + x), Poisson decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.

    Raises:
        PpvaeError: fewer than one latent dimension.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    return compose(networks, Poisson, event_shape, latent_dim, prior, posterior)


def multinomial_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> VAE:
    """A VAE for the words of documents, each given its own total: Gaussian encoder of log(1 + x), multinomial decoder.

    The total of a document is the sum of its counts, and no part of the model: the evidence is that of the words given
    how many there are, and a new document has the total of one of the data.

    Args:
        event_shape: number of words V.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.

    Raises:
        PpvaeError: fewer than one latent dimension, or counts of several axes.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    num_words = require_rows(event_shape, "multinomial_vae")
    return compose(networks, lambda trunk, _: Multinomial(trunk, num_words), num_words, latent_dim, prior, posterior)


def negative_binomial_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
    dispersion: Literal["per-dimension", "shared", "conditional"] | float = "per-dimension",
    zero_inflated: bool = False,
) -> VAE:
    """A VAE for counts that vary more than a Poisson's: Gaussian encoder of log(1 + x), negative binomial decoder.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.
        dispersion: the likelihood's, see :class:`ppvae.distributions.NegativeBinomial`.
        zero_inflated: counts that drop out, see :class:`ppvae.distributions.ZeroInflatedNegativeBinomial`.

    Raises:
        PpvaeError: fewer than one latent dimension, an unknown dispersion, or one that is not positive.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    family = ZeroInflatedNegativeBinomial if zero_inflated else NegativeBinomial
    likelihood = partial(family, dispersion=dispersion)
    return compose(networks, likelihood, event_shape, latent_dim, prior, posterior)


def student_t_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
    df: Literal["shared"] | float = 5.0,
    scale: Spread = "conditional",
) -> VAE:
    """A VAE for real data with values far out: Gaussian encoder, Student t decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.
        df: the likelihood's degrees of freedom, see :class:`ppvae.distributions.StudentT`.
        scale: the likelihood's scale, see :class:`ppvae.distributions.StudentT`.

    Raises:
        PpvaeError: fewer than one latent dimension, an unknown df or scale, or one that is not positive.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    return compose(networks, student_t(df, scale), event_shape, latent_dim, prior, posterior)


def discretised_logistic_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
    num_levels: int = 256,
    scale: Spread = "conditional",
) -> VAE:
    """A VAE for levels, such as bytes: Gaussian encoder, discretised logistic decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        prior: see :func:`bernoulli_vae`.
        posterior: see :func:`bernoulli_vae`.
        num_levels: L; the data are 0, 1 / (L - 1), ..., 1, as bytes are when :mod:`ppvae.data` has read them.
        scale: the likelihood's scale, see :class:`ppvae.distributions.DiscretisedLogistic`.

    Raises:
        PpvaeError: fewer than one latent dimension or two levels, an unknown scale, or one that is not positive.
    """
    networks = trunks(event_shape, latent_dim, hidden, activation, init)
    likelihood = discretised_logistic(num_levels, scale)
    return compose(networks, likelihood, event_shape, latent_dim, prior, posterior)
