"""A variational auto-encoder of data given their class."""

from __future__ import annotations

from collections.abc import Sequence

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli, range_of, reading
from .posteriors import PosteriorMaker, diagonal
from .priors import PriorMaker, standard
from .requirements import part, require_latents, require_rows
from .variables import Covariate, Latent, Observed, Part
from ..core.errors import PpvaeError, try_one_of
from ..distributions import DiagonalNormal
from ..networks import MLP, Initializer, JoinedMLP


def conditional_vae(
    event_shape: int | Sequence[int],
    num_classes: int,
    *,
    latent_dim: int = 20,
    hidden: Sequence[int] = (500,),
    conditional_prior: bool = False,
    activation: str = "tanh",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    prior: PriorMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> LatentModel:
    r"""A VAE of data given covariates, such as their class: what it generates is of the class that is asked for.

    $$z_b \sim p(z)\ \text{or}\ p_\theta(z \mid c_b),\qquad x_b \sim p_\theta(x \mid z_b, c_b),\qquad
      q_\phi(z_b \mid x_b, c_b)$$

    Sohn, Lee & Yan 2015 (Learning structured output representation using deep conditional generative models), whose
    prior is conditional; Kingma et al. 2014 (arXiv 1406.5298, M2 with all labels), whose prior is not. The evidence is
    $\log p(x_b \mid c_b)$: no density of the covariates is part of it.

    ==============================  ==============================  =======================
    symbol                          meaning                         name in code
    ==============================  ==============================  =======================
    $c_b$, [K]                      covariates, rows of 0 and 1     covariate ``"label"``
    $z_b$, [Z]                      latent of a datum               site ``"z"``
    $x_b$, [D]                      one datum                       site ``"x"``
    ==============================  ==============================  =======================

    Limitations: the covariates of every datum are known, also of those whose evidence is asked for; for labels with
    gaps see :func:`semi_supervised_vae`. A decoder that finds all in the covariates leaves z unused.

    Args:
        event_shape: number of entries D.
        num_classes: K, the number of covariates: rows of 0 and 1 for the labels of data, but any numbers will do.
        latent_dim: Z.
        hidden: units of the hidden layers of the encoder and of a conditional prior; the decoder has them in reverse.
        conditional_prior: p(z | c), a diagonal normal by a network, in the place of ``prior``.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer of the hidden layers; None for PyTorch's own.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.
        prior: one of :mod:`ppvae.models.priors` but for the VampPrior, whose posterior reads data alone; None for the
            standard normal.
        posterior: one of :mod:`ppvae.models.posteriors`; None for a diagonal normal.

    Raises:
        PpvaeError: fewer than one latent dimension, data of several axes, two priors, or one that reads the posterior.

    >>> print(conditional_vae(64, 10, latent_dim=2, hidden=(30,), conditional_prior=True))
    p(x, z | label) = p(z | label) p(x | z, label)
    q(z | label, x) = q(z | x, label)
    <BLANKLINE>
    label: covariate [10]
    z: latent [2], prior DiagonalNormal, posterior DiagonalNormal
    x: observed [64], likelihood Bernoulli
    """
    size = require_rows(event_shape, "conditional_vae")
    require_latents(latent_dim)
    if conditional_prior and prior is not None:
        raise PpvaeError("conditional_prior: there is another prior" + try_one_of("prior=None"))
    likelihood = likelihood or bernoulli()
    encoder = reading(JoinedMLP([size, num_classes], hidden, activation=activation, init=init), likelihood)
    decoder = JoinedMLP([latent_dim, num_classes], hidden[::-1], activation=activation, init=init)
    guide = part("posterior", posterior, diagonal())(encoder, latent_dim)
    observed = likelihood(decoder, size)
    top: Part
    if conditional_prior:
        top = DiagonalNormal(MLP(num_classes, hidden, activation=activation, init=init), latent_dim).given("label")
    else:
        top = part("prior", prior, standard())(guide, size, range_of(observed))
    return LatentModel(
        label=Covariate(num_classes),
        z=Latent(top, posterior=guide.given("x", "label")),
        x=Observed(observed.given("z", "label")),
    )
