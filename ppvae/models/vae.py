"""The variational auto-encoder."""

from __future__ import annotations

from .latent_model import LatentModel
from .variables import Exposure, Latent, Observed
from ..distributions.conditional import ConditionalDistribution


class VAE(LatentModel):
    r"""A variational auto-encoder (Kingma & Welling 2013, arXiv 1312.6114), composed of three distributions:
    the simplest :class:`LatentModel`.

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
        total: give the likelihood the sum of each datum's entries as its last context, as a multinomial takes it.

    Raises:
        PairError: prior and posterior differ in event shape, or a network does not fit.
    """

    prior: ConditionalDistribution
    likelihood: ConditionalDistribution
    posterior: ConditionalDistribution

    def __init__(
        self,
        prior: ConditionalDistribution,
        likelihood: ConditionalDistribution,
        posterior: ConditionalDistribution,
        *,
        total: bool = False,
    ) -> None:
        z = Latent(prior, posterior=posterior.given("x"))
        if total:
            x = Observed(likelihood.given("z", "total"))
            super().__init__(z=z, total=Exposure(total_of="x"), x=x)
        else:
            super().__init__(z=z, x=Observed(likelihood.given("z")))

    @staticmethod
    def _attribute(name: str, role: str) -> str:
        return role
