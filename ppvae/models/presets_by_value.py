"""Presets for data that AEVB had none of: counts, real values far out, levels. Networks as in its appendix C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .presets import require_rows, trunks
from .vae import VAE
from ..distributions import (
    DiagonalNormal,
    DiscretisedLogistic,
    Multinomial,
    NegativeBinomial,
    Poisson,
    StandardNormal,
    StudentT,
    ZeroInflatedNegativeBinomial,
)
from ..networks import Initializer, LogCounts


def poisson_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
) -> VAE:
    """A VAE for counts: Gaussian encoder of log(1 + x), Poisson decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).

    Raises:
        PpvaeError: fewer than one latent dimension.
    """
    encoder, decoder = trunks(event_shape, latent_dim, hidden, activation, init)
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=Poisson(decoder, event_shape),
        posterior=DiagonalNormal(LogCounts(encoder), latent_dim),
    )


def multinomial_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
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

    Raises:
        PpvaeError: fewer than one latent dimension, or counts of several axes.
    """
    encoder, decoder = trunks(event_shape, latent_dim, hidden, activation, init)
    num_words = require_rows(event_shape, "multinomial_vae")
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=Multinomial(decoder, num_words),
        posterior=DiagonalNormal(LogCounts(encoder), latent_dim),
        total=True,
    )


def negative_binomial_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
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
        dispersion: the likelihood's, see :class:`ppvae.distributions.NegativeBinomial`.
        zero_inflated: counts that drop out, see :class:`ppvae.distributions.ZeroInflatedNegativeBinomial`.

    Raises:
        PpvaeError: fewer than one latent dimension, an unknown dispersion, or one that is not positive.
    """
    encoder, decoder = trunks(event_shape, latent_dim, hidden, activation, init)
    likelihood = ZeroInflatedNegativeBinomial if zero_inflated else NegativeBinomial
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=likelihood(decoder, event_shape, dispersion=dispersion),
        posterior=DiagonalNormal(LogCounts(encoder), latent_dim),
    )


def student_t_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    df: Literal["shared"] | float = 5.0,
    scale: Literal["conditional", "per-dimension", "shared"] | float = "conditional",
) -> VAE:
    """A VAE for real data with values far out: Gaussian encoder, Student t decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        df: the likelihood's degrees of freedom, see :class:`ppvae.distributions.StudentT`.
        scale: the likelihood's scale, see :class:`ppvae.distributions.StudentT`.

    Raises:
        PpvaeError: fewer than one latent dimension, an unknown df or scale, or one that is not positive.
    """
    encoder, decoder = trunks(event_shape, latent_dim, hidden, activation, init)
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=StudentT(decoder, event_shape, df=df, scale=scale),
        posterior=DiagonalNormal(encoder, latent_dim),
    )


def discretised_logistic_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
    num_levels: int = 256,
    scale: Literal["conditional", "per-dimension", "shared"] | float = "conditional",
) -> VAE:
    """A VAE for levels, such as bytes: Gaussian encoder, discretised logistic decoder, both MLPs.

    Args:
        event_shape: number of dimensions D, or a shape.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for the paper's N(0, 0.01).
        num_levels: L; the data are 0, 1 / (L - 1), ..., 1, as bytes are when :mod:`ppvae.data` has read them.
        scale: the likelihood's scale, see :class:`ppvae.distributions.DiscretisedLogistic`.

    Raises:
        PpvaeError: fewer than one latent dimension or two levels, an unknown scale, or one that is not positive.
    """
    encoder, decoder = trunks(event_shape, latent_dim, hidden, activation, init)
    return VAE(
        prior=StandardNormal(latent_dim),
        likelihood=DiscretisedLogistic(decoder, event_shape, num_levels=num_levels, scale=scale, unit=True),
        posterior=DiagonalNormal(encoder, latent_dim),
    )
