"""A VAE of data with gaps."""

from __future__ import annotations

from collections.abc import Sequence

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, gaussian
from .posteriors import PosteriorMaker, diagonal
from .requirements import part, require_latents, require_rows
from .variables import Latent, Mask, Observed
from ..distributions import StandardNormal
from ..networks import MLP, Initializer, JoinedMLP, paper


def missing_data_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (128,),
    activation: str = "tanh",
    init: Initializer | None = None,
    likelihood: LikelihoodMaker | None = None,
    posterior: PosteriorMaker | None = None,
) -> LatentModel:
    r"""A VAE of data of which some entries are missing: the likelihood is that of what is there.

    $$z_b \sim \mathcal{N}(0, I),\qquad x_{b,\mathrm{seen}} \sim \prod_{i\ \mathrm{seen}} p_\theta(x_{b,i} \mid z_b)$$

    with the guide $q_\phi(z \mid x_\mathrm{seen}, \mathrm{seen})$, whose network reads 0 in the gaps, and which entries
    are gaps (Nazabal et al. 2018, arXiv 1807.03653). The bound of MIWAE (Mattei & Frellsen 2019, arXiv 1812.02633) is
    that of :class:`~ppvae.inference.elbo.ImportanceWeightedELBO`. The evidence of a datum is $\log p(x_\mathrm{seen})$,
    its missing entries integrated out; :func:`~ppvae.inference.inpaint` gives them, given what is there.

    ====================  ====================================================  ========================
    symbol                meaning                                               name in code
    ====================  ====================================================  ========================
    $z_b$, [Z]            what the entries of a datum have in common            site ``"z"``
    $x_b$, [D]            one datum; in a gap anything may stand, NaN included  site ``"x"``
    seen, [D]             which entries are there, 1 or True                    member ``"seen"``
    ====================  ====================================================  ========================

    Limitations: which entries are missing must not depend on what would stand there (missing at random): a value
    that is missing because it is large is taken for an ordinary one, and what is filled in is too small. Evidence
    compares models on data with the same gaps alone: a datum with fewer entries has a higher one.

    Args:
        event_shape: number of entries D.
        latent_dim: Z.
        hidden: units of the hidden layers, encoder first to last; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for N(0, 0.01).
        likelihood: one of :mod:`ppvae.models.likelihoods`, in which entries are independent given z; None for a normal.
        posterior: one of :mod:`ppvae.models.posteriors`; None for a diagonal normal.

    Raises:
        PpvaeError: fewer than one latent dimension, data of several axes, no hidden layer.

    >>> print(missing_data_vae(6, latent_dim=2))
    p(x, z) = p(z) p(x | z)
    q(z | seen, x) = q(z | x, seen)
    <BLANKLINE>
    seen: mask
    z: latent [2], prior StandardNormal, posterior DiagonalNormal
    x: observed [6], likelihood Normal, gaps by seen
    """
    size = require_rows(event_shape, "missing_data_vae")
    require_latents(latent_dim)
    init = init or paper()
    encoder = JoinedMLP([size, size], hidden, activation=activation, init=init)
    decoder = MLP(latent_dim, hidden[::-1], activation=activation, init=init)
    return LatentModel(
        seen=Mask(),
        z=Latent(
            StandardNormal(latent_dim),
            posterior=part("posterior", posterior, diagonal())(encoder, latent_dim).given("x", "seen"),
        ),
        x=Observed((likelihood or gaussian())(decoder, size).given("z"), mask="seen"),
    )
