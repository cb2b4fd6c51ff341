"""A variational auto-encoder of images, with convolutions in both networks."""

from __future__ import annotations

from collections.abc import Sequence

from .likelihoods import LikelihoodMaker, bernoulli, numbers_per_element
from .posteriors import PosteriorMaker
from .presets import compose
from .priors import PriorMaker
from .requirements import require_latents
from .vae import VAE
from ..networks import ConvDecoder, ConvEncoder, Initializer


def convolutional_vae(
    event_shape: int | Sequence[int],
    image_shape: Sequence[int],
    *,
    latent_dim: int = 20,
    channels: Sequence[int] = (32, 64),
    hidden: int = 256,
    activation: str = "relu",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> VAE:
    r"""A VAE of images: convolutions that halve the sides in the encoder, and double them back in the decoder.

    $$z_b \sim p(z),\qquad x_{bi} \mid z_b \sim p(x_i \mid \eta_i(z_b)),\qquad q_\phi(z_b \mid x_b)$$

    where the decoder's last feature maps are the parameters $\eta_i$ of pixel i.

    ======================  ============================  ====================
    symbol                  meaning                       name in code
    ======================  ============================  ====================
    $z_b$, [Z]              latent of one image           site ``"z"``
    $x_b$, [*event]         one image                     site ``"x"``
    $\eta(z)$               :class:`ConvDecoder`          ``likelihood``
    $q_\phi(z \mid x)$      :class:`ConvEncoder`          ``posterior``
    ======================  ============================  ====================

    Limitations: given z the pixels are independent, so that samples are smooth; one layer of latents; no normalisation
    over a batch, under which the bound of a datum would depend on the others.

    Args:
        event_shape: of a datum as it is stored: a row, or an image.
        image_shape: (height, width) or (channels, height, width), what a datum is as an image.
        latent_dim: Z.
        channels: of the encoder's convolutions, from the image up; the decoder has them in reverse.
        hidden: units of the layer between the encoder's last convolution and the latent.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for PyTorch's own.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.
        prior: one of :mod:`ppvae.models.priors`; None for the standard normal.
        posterior: one of :mod:`ppvae.models.posteriors`; None for a diagonal normal.

    Raises:
        PpvaeError: fewer than one latent dimension, a layer without units, or no image of this shape.

    >>> print(convolutional_vae(64, (8, 8), latent_dim=2))
    p(x, z) = p(z) p(x | z)
    q(z | x) = q(z | x)
    <BLANKLINE>
    z: latent [2], prior StandardNormal, posterior DiagonalNormal
    x: observed [64], likelihood Bernoulli
    """
    require_latents(latent_dim)
    likelihood = likelihood or bernoulli()
    encoder = ConvEncoder(image_shape, channels, hidden, in_shape=event_shape, activation=activation, init=init)
    decoder = ConvDecoder(
        latent_dim,
        image_shape,
        channels[::-1],
        outputs_per_pixel=numbers_per_element(likelihood),
        activation=activation,
        init=init,
    )
    return compose((encoder, decoder), likelihood, event_shape, latent_dim, prior, posterior)
