"""The sparse gamma deep exponential family, of counts."""

from __future__ import annotations

from collections.abc import Sequence

from .latent_model import LatentModel
from .requirements import require_layers, require_rows
from .variables import Features, Latent, Observed, Variable
from ..core.errors import PpvaeError
from ..distributions import FixedPrior, Gamma, Poisson
from ..networks import MLP, Initializer, LogCounts, LogPositiveLinear


def deep_exponential_family(
    event_shape: int | Sequence[int],
    *,
    latent_dims: Sequence[int] = (100, 40, 15),
    concentration: float = 0.1,
    hidden: Sequence[int] = (200,),
    activation: str = "tanh",
    init: Initializer | None = None,
) -> LatentModel:
    r"""Counts from layers of sparse positive latents, each the mean of the one below: a deep exponential family.

    $$z_L \sim \mathrm{Gamma}(\alpha, \alpha),\qquad
      z_l \mid z_{l+1} \sim \mathrm{Gamma}\left(\alpha, \frac{\alpha}{W_l z_{l+1}}\right),\qquad
      x \mid z_1 \sim \mathrm{Poisson}(W_0 z_1)$$

    Ranganath, Tang, Charlin & Blei 2015 (arXiv 1411.2581), with gamma layers; $\mathrm{Gamma}(\alpha, \beta)$ has mean
    $\alpha / \beta$, so that $W_l z_{l+1}$ is a mean. The guide is a product of gammas read from $\log(1 + x)$, which
    for one latent is the form of the exact posterior.

    ======================  ==========================================  ============================
    symbol                  meaning                                     name in code
    ======================  ==========================================  ============================
    $z_1, \ldots, z_L$      layers, the one next to the data first      sites ``"z1"``, ``"z2"``, ...
    $x$, [D]                counts of one datum                         site ``"x"``
    $W_0$, [D, K_1]         what each part adds to the counts           ``likelihood_x.head.trunk.weight``
    $W_l$, [K_l, K_{l+1}]   what each part adds to the layer below      ``prior_z1.head.trunk.weight``, ...
    ======================  ==========================================  ============================

    Limitations: weights are positive parameters, where the paper has gamma priors over them: its bound, which pays for
    the weights of all data, is another number. The guide is amortised and independent between latents, so that its gap
    grows with the width; draws of a small concentration have noisy gradients, so that training is slow. The sizes of
    the layers between top and data are determined up to a factor each.

    Args:
        event_shape: number of counts D.
        latent_dims: $K_1, \ldots, K_L$, the layer next to the data first.
        concentration: $\alpha$.
        hidden: units of the hidden layers of the guide's network, which all layers share.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer of that network; None for PyTorch's own.

    Raises:
        PpvaeError: counts of several axes, no layer, one without latents, or a concentration that is not positive.

    >>> print(deep_exponential_family(2000, latent_dims=(40, 15)))
    p(x, z2, z1) = p(z2) p(z1 | z2) p(x | z1)
    q(z2, z1 | x) = q(z2 | h) q(z1 | h)
    <BLANKLINE>
    h: features, LogCounts of x
    z2: latent [15], prior FixedPrior, posterior Gamma
    z1: latent [40], prior Gamma, posterior Gamma
    x: observed [2000], likelihood Poisson
    """
    size = require_rows(event_shape, "deep_exponential_family")
    require_layers(latent_dims)
    if not concentration > 0:
        raise PpvaeError(f"concentration: expected a positive number, found {concentration}")
    encoder = MLP(size, hidden, activation=activation, init=init)
    variables: dict[str, Variable] = {"h": Features(LogCounts(encoder)).given("x")}
    for layer in range(len(latent_dims), 0, -1):
        width = latent_dims[layer - 1]
        posterior = Gamma(MLP(encoder.out_features, []), width, concentration="conditional").given("h")
        if layer == len(latent_dims):
            prior = FixedPrior("gamma", width, concentration=concentration, rate=concentration)
            variables[f"z{layer}"] = Latent(prior, posterior=posterior)
        else:
            parts = LogPositiveLinear(latent_dims[layer], width)
            below = Gamma(parts, width, concentration=concentration).given(f"z{layer + 1}")
            variables[f"z{layer}"] = Latent(below, posterior=posterior)
    return LatentModel(**variables, x=Observed(Poisson(LogPositiveLinear(latent_dims[0], size), size).given("z1")))
