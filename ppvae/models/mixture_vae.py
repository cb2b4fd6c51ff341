"""A variational auto-encoder of classes without labels: a discrete latent beside a continuous one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli, reading
from .posteriors import PosteriorMaker, diagonal
from .requirements import part, require_latents, require_word
from .variables import Latent, Observed
from ..core.errors import PpvaeError
from ..distributions import DiagonalNormal, OneHotCategorical, StandardNormal
from ..networks import MLP, Initializer, JoinedMLP, paper


def mixture_vae(
    event_shape: int | Sequence[int],
    *,
    num_components: int = 10,
    latent_dim: int = 10,
    hidden: Sequence[int] = (500,),
    given_class: Literal["latent", "data", "both"] = "latent",
    activation: str = "softplus",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> LatentModel:
    r"""A VAE of data of K classes without labels: the class is summed out exactly, and no posterior of it is trained.

    $$y_b \sim \mathrm{Cat}(\pi),\qquad z_b \mid y_b \sim \mathcal{N}(\mu_{y_b}, \mathrm{diag}\,\sigma_{y_b}^2),\qquad
      x_b \sim p_\theta(x \mid z_b),\qquad q_\phi(z_b \mid x_b)$$
    $$p(x, z) = \sum_k \pi_k\, p(z \mid y = k)\, p_\theta(x \mid z, y = k),\qquad
      p(y = k \mid x, z) \propto \pi_k\, p(z \mid y = k)\, p_\theta(x \mid z, y = k)$$

    As written first, the class is of the latent, as in Jiang et al. 2017 (arXiv 1611.05148). With
    ``given_class="data"`` z is standard normal and the decoder reads the class, as in M2 without a label; with "both"
    it is behind both.

    ========================  ==================================  =======================
    symbol                    meaning                             name in code
    ========================  ==================================  =======================
    $y_b$, [K]                class of a datum, a row of 0 and 1  site ``"y"``, model only
    $z_b$, [Z]                latent of a datum                   site ``"z"``
    $x_b$, [*event]           one datum                           site ``"x"``
    $\mu_k$, $\sigma_k$, [Z]  where class k is                    ``prior_z``
    $\pi$, [K]                probabilities of the classes        ``prior_y``
    ========================  ==================================  =======================

    Limitations: classes are what helps to explain the data, which need not be what a person calls classes, and are
    known up to their order; some come out empty, above all with "latent", where one wide class can stand for several.
    The decoder runs K times where it reads the class. The guide has one mode for each datum, even where two classes
    explain it.

    Args:
        event_shape: number of entries D, or a shape.
        num_components: K.
        latent_dim: Z.
        hidden: units of the hidden layers of the encoder; the decoder has them in reverse.
        given_class: what depends on the class: "latent", "data" or "both".
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for PyTorch's own.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.
        posterior: one of :mod:`ppvae.models.posteriors`; None for a diagonal normal.

    Raises:
        PpvaeError: fewer than two components or one latent dimension, or another word for what depends on the class.

    >>> print(mixture_vae(64, num_components=10, latent_dim=2, hidden=(30,)))
    p(x, y, z) = p(y) p(z | y) p(x | z)
    q(z | x) = q(z | x)
    <BLANKLINE>
    y: latent [10], prior OneHotCategorical, summed out
    z: latent [2], prior DiagonalNormal, posterior DiagonalNormal
    x: observed [64], likelihood Bernoulli
    """
    require_latents(latent_dim)
    if num_components < 2:
        raise PpvaeError(f"num_components: expected at least two, found {num_components}")
    require_word("given_class", given_class, ("latent", "data", "both"))
    parents = {"z": latent_dim} if given_class == "latent" else {"z": latent_dim, "y": num_components}
    likelihood = likelihood or bernoulli()
    encoder = reading(MLP(event_shape, hidden, activation=activation, init=init), likelihood)
    decoder = JoinedMLP(list(parents.values()), hidden[::-1], activation=activation, init=init)
    # Means that differ from the start: K classes alike would stay alike.
    of_class = DiagonalNormal(MLP(num_components, (), init=paper(0.5)), latent_dim).given("y")
    return LatentModel(
        y=Latent(OneHotCategorical(None, num_components)),
        z=Latent(
            StandardNormal(latent_dim) if given_class == "data" else of_class,
            posterior=part("posterior", posterior, diagonal())(encoder, latent_dim).given("x"),
        ),
        x=Observed(likelihood(decoder, event_shape).given(*parents)),
    )
