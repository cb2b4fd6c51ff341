"""Layers of binary latents: the sigmoid belief network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from .latent_model import LatentModel
from .likelihoods import LikelihoodMaker, bernoulli
from .requirements import require_layers, require_rows
from .variables import Latent, Observed, Variable
from ..distributions import Bernoulli, ConditionalDistribution, RelaxedBernoulli
from ..networks import MLP, Initializer, Signs, paper


def sigmoid_belief_network(
    event_shape: int | Sequence[int],
    *,
    latent_dims: Sequence[int] = (200,),
    hidden: Sequence[int] = (),
    activation: str = "tanh",
    init: Initializer | None = None,
    signs: bool = False,
    temperature: float | None = None,
    likelihood: LikelihoodMaker | None = None,
) -> LatentModel:
    r"""A VAE whose latents are coins, in one or more layers (Neal 1992; Mnih & Gregor 2014, arXiv 1402.0030).

    $$z_{L,b} \sim \mathrm{Bern}(\pi),\qquad z_{l,b} \sim \mathrm{Bern}(\mathrm{sigmoid}\,f_l(z_{l+1,b})),\qquad
      x_b \sim p(x \mid f_0(z_{1,b}))$$

    with a guide that goes the other way, $q(z_1 \mid x)\, q(z_2 \mid z_1) \cdots$, and each $f_l$ a linear map, or a
    perceptron between neighbouring layers. Coins have no pathwise gradient: train it with
    :class:`~ppvae.inference.elbo.VIMCO` or :class:`~ppvae.inference.elbo.ReweightedWakeSleep`.

    With a ``temperature`` every coin, of model and guide, is the binary Concrete of Maddison, Mnih & Teh 2016 (arXiv
    1611.00712), which every estimator serves. That is another model: its bound and its evidence are those of the
    relaxed model, not of the one with coins.

    ======================  ==========================================  =======================================
    symbol                  meaning                                     name in code
    ======================  ==========================================  =======================================
    $z_{l,b}$, [Z_l]        layer l, l = 1 next to the data             site ``"z1"``, ``"z2"``, ...; ``"z"`` if one
    $x_b$, [D]              one datum                                   site ``"x"``
    $\pi$                   of the top layer, free                      ``prior_z``
    ======================  ==========================================  =======================================

    Limitations: what needs gradients by the latents (HMC, AIS, bridge sampling) serves the relaxed model alone; the
    evidence of the one with coins comes from importance sampling.

    Args:
        event_shape: number of entries D.
        latent_dims: Z_1, ..., Z_L, from the data upwards.
        hidden: units of the layers of each map, none for a linear one. The Concrete paper's 200H-784V is
            ``latent_dims=(200,)``, its 200H~784V that with ``hidden=(200, 200)``.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for N(0, 0.01).
        signs: what reads a layer reads -1 and 1 instead of 0 and 1, as in the Concrete paper.
        temperature: of the relaxation, see :class:`ppvae.distributions.RelaxedBernoulli`; None for coins.
        likelihood: one of :mod:`ppvae.models.likelihoods`; None for a Bernoulli.

    Raises:
        PpvaeError: no layer, a layer without latents, data of several axes, a temperature that is not positive.

    >>> print(sigmoid_belief_network(6, latent_dims=(3, 2)))
    p(x, z2, z1) = p(z2) p(z1 | z2) p(x | z1)
    q(z2, z1 | x) = q(z1 | x) q(z2 | z1)
    <BLANKLINE>
    z2: latent [2], prior Bernoulli, posterior Bernoulli
    z1: latent [3], prior Bernoulli, posterior Bernoulli
    x: observed [6], likelihood Bernoulli
    """
    size = require_rows(event_shape, "sigmoid_belief_network")
    require_layers(latent_dims)
    init = init or paper()

    def trunk(inputs: int, of_units: bool = True) -> nn.Module:
        network = MLP(inputs, hidden, activation=activation, init=init)
        return Signs(network) if signs and of_units else network

    def coins(network: nn.Module | None, units: int) -> ConditionalDistribution:
        if temperature is None:
            return Bernoulli(network, units)
        return RelaxedBernoulli(network, units, temperature=temperature)

    names = [f"z{layer}" for layer in range(1, len(latent_dims) + 1)] if len(latent_dims) > 1 else ["z"]
    variables: dict[str, Variable] = {}
    prior = coins(None, latent_dims[-1]).given()
    below = [("x", size), *zip(names, latent_dims, strict=True)]
    for (under, inputs), (name, units) in reversed(list(itertools.pairwise(below))):
        posterior = coins(trunk(inputs, under != "x"), units).given(under)
        variables[name] = Latent(prior, posterior=posterior)
        made = (likelihood or bernoulli())(trunk(units), size) if under == "x" else coins(trunk(units), inputs)
        prior = made.given(name)
    return LatentModel(**variables, x=Observed(prior))
