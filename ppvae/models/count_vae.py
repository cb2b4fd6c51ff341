"""A VAE of counts whose sizes differ from datum to datum, such as cells of single-cell sequencing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from .latent_model import LatentModel
from .posteriors import PosteriorMaker, diagonal
from .requirements import part, require_latents, require_rows, require_word
from .variables import Covariate, Exposure, Latent, Observed, Variable
from ..core.errors import PpvaeError
from ..distributions import NegativeBinomial, StandardNormal, ZeroInflatedNegativeBinomial
from ..networks import Initializer, JoinedMLP, LogCounts

LibrarySize = Literal["total", "given", "none"]
"""Where the size of a datum comes from."""


def count_vae(
    event_shape: int | Sequence[int],
    *,
    latent_dim: int = 10,
    hidden: Sequence[int] = (128,),
    activation: str = "relu",
    init: Initializer | None = None,
    size: LibrarySize = "total",
    num_batches: int = 0,
    zero_inflated: bool = False,
    dispersion: Literal["per-dimension", "shared", "conditional"] | float = "per-dimension",
    posterior: PosteriorMaker | None = None,
) -> LatentModel:
    r"""A VAE of counts, negative binomial with or without extra zeros, given each datum's size and its batch.

    $$z_b \sim \mathcal{N}(0, I),\qquad
      x_{bd} \mid z_b \sim \mathrm{NB}(\text{mean}\ t_b\,e^{h_d(z_b, s_b)},\ \text{dispersion}\ \alpha_d)$$

    After Lopez et al. 2018 (scVI, Nature Methods 15), of which this is the model with an observed library size; their
    $e^h$ is a softmax, here it starts as one of equal shares and is free.

    ======================  ==========================================  ============================
    symbol                  meaning                                     name in code
    ======================  ==========================================  ============================
    $z_b$, [Z]              state of one datum                          site ``"z"``
    $t_b$                   its size, such as the depth of sequencing   variable ``"size"``
    $s_b$, [K]              its batch, as a row of 0 and 1              member ``"batch"``
    $x_b$, [D]              its counts                                  site ``"x"``
    $\alpha$, [D]           dispersion                                  ``likelihood_x.log_dispersion``
    ======================  ==========================================  ============================

    The evidence is that of the counts given size and batch. Where the size is the counts' own total, the model does not
    know that it is: p(x | size) has mass on counts of other totals, and is neither p(x) nor that of x given its total.
    It compares with models that are given the same size.

    Limitations: what a batch changes is learnt, not removed: z may still depend on it; counts are independent given z.

    Args:
        event_shape: number of counts D.
        latent_dim: Z.
        hidden: units of the hidden layers of the encoder; the decoder has them in reverse.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer; None for PyTorch's own.
        size: "total": the sum of the counts; "given": the member ``"size"``, positive; "none": all are 1.
        num_batches: K; 0 for no batches. They are the labels of the data, or a member ``"batch"`` [B, K].
        zero_inflated: counts drop out besides, see :class:`ppvae.distributions.ZeroInflatedNegativeBinomial`.
        dispersion: see :class:`ppvae.distributions.NegativeBinomial`.
        posterior: one of :mod:`ppvae.models.posteriors`; None for a diagonal normal.

    Raises:
        PpvaeError: counts of several axes, fewer than one latent dimension, a negative number of batches, an unknown
            size or dispersion.

    >>> print(count_vae(2000, num_batches=3))
    p(x, z | size, batch) = p(z) p(x | z, batch, size)
    q(z | batch, x) = q(z | x, batch)
    <BLANKLINE>
    size: exposure
    batch: covariate [3]
    z: latent [10], prior StandardNormal, posterior DiagonalNormal
    x: observed [2000], likelihood NegativeBinomial
    """
    num_counts = require_rows(event_shape, "count_vae")
    require_latents(latent_dim)
    require_word("size", size, get_args(LibrarySize))
    if num_batches < 0:
        raise PpvaeError(f"num_batches: expected at least 0, found {num_batches}")
    batch = [num_batches] if num_batches else []
    encoder = LogCounts(JoinedMLP([num_counts, *batch], hidden, activation=activation, init=init))
    decoder = JoinedMLP([latent_dim, *batch], hidden[::-1], activation=activation, init=init)
    family = ZeroInflatedNegativeBinomial if zero_inflated else NegativeBinomial
    likelihood = family(decoder, num_counts, dispersion=dispersion, exposure=size != "none")
    variables: dict[str, Variable] = {}
    if size != "none":
        variables["size"] = Exposure(total_of="x" if size == "total" else None)
        log_mean = likelihood.head.layers[0]
        assert isinstance(log_mean, nn.Linear)
        with torch.no_grad():  # all counts together are of the size
            log_mean.bias.sub_(math.log(num_counts))
    if num_batches:
        variables["batch"] = Covariate(num_batches)
    given = [name for name in ("batch", "size") if name in variables]
    return LatentModel(
        **variables,
        z=Latent(
            StandardNormal(latent_dim),
            posterior=part("posterior", posterior, diagonal())(encoder, latent_dim).given("x", *given[: len(batch)]),
        ),
        x=Observed(likelihood.given("z", *given)),
    )
