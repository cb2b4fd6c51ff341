"""The deep Markov model, of sequences of several lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli
from .requirements import require_latents, require_word
from .variables import Latent, Lengths, Observed
from ..core.errors import PpvaeError, try_one_of
from ..distributions import (
    ConditionalDistribution,
    DiagonalNormal,
    EachStep,
    GatedTransition,
    MarkovNormal,
    StepwiseNormal,
)
from ..networks import MLP, Combiner, Recurrent

SequenceGuide = Literal["backward", "both", "mean-field"]
"""What the guide of a state reads, and whether it knows the state before."""


def deep_markov_model(
    event_shape: Sequence[int],
    *,
    latent_dim: int = 100,
    hidden: Sequence[int] = (100, 100),
    activation: str = "relu",
    transition_hidden: int = 200,
    recurrent_hidden: int = 600,
    cell: Literal["gru", "tanh", "relu"] = "gru",
    guide: SequenceGuide = "backward",
    likelihood: LikelihoodMaker | None = None,
) -> LatentModel:
    r"""A chain of latents with a gated transition, and what is seen of each: the deep Markov model.

    $$z_1 \sim p_\theta(z \mid z_0),\qquad z_t \sim p_\theta(z \mid z_{t-1}),\qquad
      x_t \sim p_\theta(x \mid z_t),\qquad t = 1, \ldots, L_b$$

    with the transition of :class:`ppvae.distributions.GatedTransition` (Krishnan, Shalit & Sontag 2016, arXiv
    1609.09869) and one of three guides, in their names:

    - ``"backward"``, DKS: $q(z_t \mid z_{t-1}, x_{t:L})$, which is the form of the exact posterior;
    - ``"both"``, ST-LR: $q(z_t \mid z_{t-1}, x_{1:L})$;
    - ``"mean-field"``, MF-LR: $q(z_t \mid x_{1:L})$, which draws all states at once.

    ===========================  =====================================  ===============================
    symbol                       meaning                                name in code
    ===========================  =====================================  ===============================
    $z$, [T, Z]                  states of one sequence                 site ``"z"``
    $z_0$, [Z]                   what is before the first, a parameter  ``prior_z.start``
    $x$, [T, D]                  one sequence                           site ``"x"``
    $L_b$                        how many steps it has, 1, ..., T       member ``"lengths"``
    $p_\theta(z \mid z_{t-1})$   the transition                         ``prior_z.transition``
    $p_\theta(x \mid z_t)$       the emission                           ``likelihood_x.likelihood``
    ===========================  =====================================  ===============================

    Steps from $L_b$ on are padding, whatever stands there: they change neither the evidence nor a gradient.

    Limitations: normal steps; nothing but the state carries from a step to the next; the longest sequence that it takes
    is T.

    Args:
        event_shape: (T, D), steps of the longest sequence and entries of each.
        latent_dim: Z.
        hidden: units of the hidden layers of the emission.
        activation: of the emission, see :class:`ppvae.networks.MLP`.
        transition_hidden: units of the hidden layers of the transition.
        recurrent_hidden: units of the guide's recurrent network, for each direction.
        cell: of the recurrent network, see :class:`ppvae.networks.Recurrent`.
        guide: "backward", "both" or "mean-field".
        likelihood: of one step, one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.

    Raises:
        PpvaeError: fewer than one latent dimension, data that are no sequences, an unknown guide.

    >>> print(deep_markov_model((160, 88)))
    p(x, z | lengths) = p(z | lengths) p(x | z)
    q(z | lengths, x) = q(z | x, lengths)
    <BLANKLINE>
    lengths: lengths
    z: latent [160, 100], prior MarkovNormal, posterior MarkovNormal
    x: observed [160, 88], likelihood EachStep, gaps by lengths
    """
    shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
    if len(shape) != 2:
        raise PpvaeError(
            f"deep_markov_model: expected sequences of T steps of D entries, found data of shape {shape}"
            + try_one_of('load("jsb-chorales")', 'load("japanese-vowels")', "an .npz of x [N, T, D] and lengths [N]")
        )
    require_word("guide", guide, get_args(SequenceGuide))
    require_latents(latent_dim)
    num_steps, size = shape
    reader = Recurrent(size, recurrent_hidden, cell=cell, direction="backward" if guide == "backward" else "both")
    posterior: ConditionalDistribution
    if guide == "mean-field":
        posterior = StepwiseNormal(reader, (num_steps, latent_dim), lengths=True)
    else:
        step = DiagonalNormal(Combiner(latent_dim, reader.out_features), latent_dim)
        posterior = MarkovNormal(step, num_steps, trunk=reader, lengths=True)
    prior = MarkovNormal(GatedTransition(latent_dim, hidden=transition_hidden), num_steps, lengths=True)
    emission = (likelihood or bernoulli())(MLP(latent_dim, hidden, activation=activation), size)
    return LatentModel(
        lengths=Lengths(),
        z=Latent(prior.given("lengths"), posterior=posterior.given("x", "lengths")),
        x=Observed(EachStep(emission, num_steps).given("z"), lengths="lengths"),
    )
