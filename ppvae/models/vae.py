"""The variational auto-encoder."""

from __future__ import annotations

import pyro
from torch import Tensor

from ..core.errors import PairError
from ..core.pair import ModelGuidePair
from ..distributions.conditional import ConditionalDistribution


class VAE(ModelGuidePair):
    r"""A variational auto-encoder (Kingma & Welling 2013, arXiv 1312.6114), composed of three distributions.

    $$z_b \sim p_\theta(z),\qquad x_b \sim p_\theta(x \mid z_b),\qquad q_\phi(z_b \mid x_b)$$

    ======================  ==========================  ====================
    symbol                  meaning                     name in code
    ======================  ==========================  ====================
    $z_b$, [Z]              latent of one datum         site ``"z"``
    $x_b$, [*event]         one datum                   site ``"x"``
    $p_\theta(z)$           prior                       ``prior``
    $p_\theta(x \mid z)$    likelihood (the decoder)    ``likelihood``
    $q_\phi(z \mid x)$      posterior (the encoder)     ``posterior``
    ======================  ==========================  ====================

    Limitations: one layer of latents; the posterior is amortised, so the bound has an amortisation gap beside the
    gap of its family; a decoder that can model x alone may ignore z.

    Args:
        prior: a distribution without context.
        likelihood: a distribution given z.
        posterior: a distribution given x, of the prior's event shape.

    Raises:
        PairError: prior and posterior differ in event shape.
    """

    def __init__(
        self,
        prior: ConditionalDistribution,
        likelihood: ConditionalDistribution,
        posterior: ConditionalDistribution,
    ) -> None:
        super().__init__()
        if prior.event_shape != posterior.event_shape:
            raise PairError(
                f"site 'z': expected the posterior's event shape to be the prior's {prior.event_shape}, "
                f"found {posterior.event_shape}"
            )
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        """p(z) p(x | z) of a batch x [B, *event]."""
        with self.data_plate(x, num_data):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(z), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        """q(z | x) of a batch x [B, *event]."""
        with self.data_plate(x, num_data):
            pyro.sample("z", self.posterior(x))
