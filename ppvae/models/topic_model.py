"""Topic models of documents: ProdLDA and the neural variational document model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from torch import nn

from .latent_model import LatentModel
from .requirements import require_latents, require_rows, require_word
from .variables import Exposure, Features, Latent, Observed
from ..core.errors import PpvaeError
from ..distributions import DiagonalNormal, FixedPrior, Multinomial, StandardNormal
from ..networks import MLP, Initializer, LogCounts

TopicKind = Literal["prodlda", "nvdm"]
"""Whether the weights of topics lie on the simplex."""


def topic_model(
    event_shape: int | Sequence[int],
    *,
    kind: TopicKind = "prodlda",
    num_topics: int = 50,
    concentration: float = 1.0,
    hidden: Sequence[int] = (500,),
    activation: str = "tanh",
    init: Initializer | None = None,
) -> LatentModel:
    r"""The words of documents, each given how many there are, from a few topics: ProdLDA, or NVDM.

    $$z_b \sim \mathcal{N}(0, s^2 I_K),\qquad
      x_b \mid z_b \sim \mathrm{Multinomial}(n_b, \mathrm{softmax}(\beta\,\theta(z_b) + c))$$

    - ``"prodlda"`` (Srivastava & Sutton 2017, arXiv 1703.01488): $\theta(z) = \mathrm{softmax}(z)$ are the document's
      shares of the topics, and $s^2 = (1 - 1/K)/\alpha$ is Laplace's approximation, in that basis, of
      $\theta \sim \mathrm{Dirichlet}(\alpha)$ (their equation 2). Topics are multiplied, not mixed: experts.
    - ``"nvdm"`` (Miao, Yu & Blunsom 2016, arXiv 1511.06038): $\theta(z) = z$ and $s = 1$.

    ======================  ==========================================  ============================
    symbol                  meaning                                     name in code
    ======================  ==========================================  ============================
    $z_b$, [K]              a document's place                          site ``"z"``
    $\theta_b$, [K]         its shares of the topics (ProdLDA)          variable ``"theta"``
    $n_b$                   how many words it has, found from x         variable ``"total"``
    $x_b$, [V]              how often it has each word                  site ``"x"``
    $\beta$, [V, K]         topics, as logits                           ``likelihood_x.head.layers.0.weight``
    $c$, [V]                logits of what all documents share          ``likelihood_x.head.layers.0.bias``
    ======================  ==========================================  ============================

    The evidence is that of the counts given their total. Published ones are of the words in their order, each drawn by
    itself, which is less by $\log(n_b! / \prod_v x_{bv}!)$ for each document, whatever the model.

    Limitations: without the batch normalisation of the published ProdLDA, under which a document's density would depend
    on the others of its batch, and without its dropout; the encoder reads $\log(1 + x)$, where both read x. The Laplace
    approximation is the model, no approximation of a posterior: there is no Dirichlet in it.

    Args:
        event_shape: number of words V.
        kind: "prodlda" or "nvdm".
        num_topics: K.
        concentration: $\alpha$ of ProdLDA.
        hidden: units of the hidden layers of the encoder.
        activation: of the encoder, see :class:`ppvae.networks.MLP`.
        init: an initializer of the encoder; None for PyTorch's own.

    Raises:
        PpvaeError: counts of several axes, fewer than one topic (two for ProdLDA), an unknown kind, or a concentration
            that is not positive.

    >>> print(topic_model(2000, num_topics=20))
    p(x, z | total) = p(z) p(x | theta, total)
    q(z | x) = q(z | x)
    <BLANKLINE>
    total: exposure
    z: latent [20], prior FixedPrior, posterior DiagonalNormal
    theta: features, Softmax of z
    x: observed [2000], likelihood Multinomial
    """
    size = require_rows(event_shape, "topic_model")
    require_word("kind", kind, get_args(TopicKind))
    require_latents(num_topics - (kind == "prodlda"), "num_topics")
    if not concentration > 0:
        raise PpvaeError(f"concentration: expected a positive number, found {concentration}")
    encoder = LogCounts(MLP(size, hidden, activation=activation, init=init))
    posterior = DiagonalNormal(encoder, num_topics).given("x")
    words = Multinomial(MLP(num_topics, []), size)
    if kind == "nvdm":
        return LatentModel(
            total=Exposure(total_of="x"),
            z=Latent(StandardNormal(num_topics), posterior=posterior),
            x=Observed(words.given("z", "total")),
        )
    scale = math.sqrt((1 - 1 / num_topics) / concentration)
    return LatentModel(
        total=Exposure(total_of="x"),
        z=Latent(FixedPrior("normal", num_topics, loc=0.0, scale=scale), posterior=posterior),
        theta=Features(nn.Softmax(-1)).given("z"),
        x=Observed(words.given("theta", "total")),
    )
