"""M2, the semi-supervised variational auto-encoder."""

from __future__ import annotations

from collections.abc import Sequence

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli
from .requirements import require_latents, require_rows
from .variables import Label, Latent, Observed
from ..distributions import DiagonalNormal, OneHotCategorical, StandardNormal
from ..networks import MLP, Initializer, JoinedMLP, paper
from ..networks.initialization import initialize


def semi_supervised_vae(
    event_shape: int | Sequence[int],
    num_classes: int,
    *,
    latent_dim: int = 50,
    hidden: Sequence[int] = (500,),
    activation: str = "softplus",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
) -> LatentModel:
    r"""A VAE of data of which few have labels: a class, known or summed out, and a style (M2).

    $$y_b \sim \mathrm{Cat}(1/K),\qquad z_b \sim \mathcal{N}(0, I),\qquad x_b \sim p_\theta(x \mid z_b, y_b)$$

    with the guide $q_\phi(y \mid x)\, q_\phi(z \mid x, y)$ (Kingma, Rezende, Mohamed & Welling 2014, arXiv 1406.5298,
    equations 6 and 7). Where a label is given it is observed; where it is a gap, -1, its expectation under
    $q_\phi(y \mid x)$ is taken exactly.

    ======================  ====================================  ===========================
    symbol                  meaning                               name in code
    ======================  ====================================  ===========================
    $y_b$                   class of a datum, -1 where unknown    variable ``"label"``
    $z_b$, [Z]              what varies within a class            site ``"z"``
    $x_b$, [D]              one datum                             site ``"x"``
    $q_\phi(y \mid x)$      the classifier                        ``posterior_label``
    ======================  ====================================  ===========================

    Limitations: labels enter the classifier only through what the model learns of p(x | z, y); with few of them it
    learns much sooner with :class:`ppvae.inference.elbo.WithClassifier`.

    Args:
        event_shape: number of entries D.
        num_classes: K.
        latent_dim: Z.
        hidden: units of the hidden layers of the classifier and the encoder; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for N(0, 1e-6) in hidden layers, so that at first no class differs from another and
            the labels name them, and PyTorch's own in the layers above them, without which learning starts late.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.

    Raises:
        PpvaeError: fewer than one latent dimension, data of several axes.

    >>> print(semi_supervised_vae(64, 10, latent_dim=2, hidden=(30,)))
    p(x, label, z) = p(label) p(z) p(x | z, label)
    q(label, z | x) = q(label | x) q(z | x, label)
    <BLANKLINE>
    label: label [10], prior OneHotCategorical, posterior OneHotCategorical
    z: latent [2], prior StandardNormal, posterior DiagonalNormal
    x: observed [64], likelihood Bernoulli
    """
    size = require_rows(event_shape, "semi_supervised_vae")
    require_latents(latent_dim)
    classifier = MLP(size, hidden, activation=activation, init=init)
    encoder = JoinedMLP([size, num_classes], hidden, activation=activation, init=init)
    decoder = JoinedMLP([latent_dim, num_classes], hidden[::-1], activation=activation, init=init)
    if init is None:
        for trunk in (classifier, encoder, decoder):
            initialize(trunk, paper(1e-3))
    return LatentModel(
        label=Label(
            OneHotCategorical(None, num_classes).requires_grad_(False),  # every class as probable as any other
            posterior=OneHotCategorical(classifier, num_classes).given("x"),
        ),
        z=Latent(StandardNormal(latent_dim), posterior=DiagonalNormal(encoder, latent_dim).given("x", "label")),
        x=Observed((likelihood or bernoulli())(decoder, size).given("z", "label")),
    )
