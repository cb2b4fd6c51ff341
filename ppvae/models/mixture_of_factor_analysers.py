"""The mixture of factor analysers: a discrete and a continuous latent, where everything is exact."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .components import FactorAnalysers, Values, as_floats, check_event_shape, log_probabilities
from ..core.errors import PairError
from ..core.pair import ModelGuidePair
from ..distributions.conditional import ConditionalDistribution


class MixtureOfFactorAnalysers(ModelGuidePair):
    r"""A mixture of factor analysers: the tuning fork for a discrete latent that is summed out.

    $$y_b \sim \mathrm{Categorical}(\pi),\qquad z_b \sim \mathcal{N}(0, I_Z),\qquad
      x_b \mid y_b, z_b \sim \mathcal{N}(\mu_{y_b} + W_{y_b} z_b, \Psi_{y_b}),\qquad
      \Psi_k = \mathrm{diag}\,\sigma_k^2$$
    $$\log p(x) = \log \sum_k \pi_k\, \mathcal{N}(x; \mu_k, W_k W_k^\top + \Psi_k),\qquad
      p(y = k \mid x) \propto \pi_k\, \mathcal{N}(x; \mu_k, W_k W_k^\top + \Psi_k)$$
    $$p(z \mid x) = \sum_k p(y = k \mid x)\, \mathcal{N}(z; \Lambda_k^{-1} W_k^\top \Psi_k^{-1} (x - \mu_k),
      \Lambda_k^{-1}),\qquad \Lambda_k = I + W_k^\top \Psi_k^{-1} W_k$$

    Ghahramani & Hinton 1996 (The EM algorithm for mixtures of factor analyzers, CRG-TR-96-1): there one $\Psi$.

    ====================  ================================  ==========================
    symbol                meaning                           name in code
    ====================  ================================  ==========================
    $y_b$                 component of one datum            site ``"y"``, model only
    $z_b$, [Z]            factors of one datum              site ``"z"``
    $x_b$, [D]            one datum                         site ``"x"``
    $\pi$, [K]            probabilities of the components   ``probs``
    $\mu$, [K, D]         means                             ``loc``
    $W$, [K, D, Z]        loadings                          ``loading``
    $\sigma$, [K, D]      noise standard deviations         ``scale``
    ====================  ================================  ==========================

    The guide does not draw y: the site is marked ``infer={"enumerate": "parallel"}``, and summed out of p(x, y, z).

    Limitations: the exact posterior, which is the guide unless one is given, is a mixture of normals, which has no
    reparameterised draws: estimators of the bound that need them refuse it. Each loading is determined up to a
    rotation, the components up to their order. The likelihood has no maximum: that of a component on one datum grows
    without bound as its scale goes to zero.

    Args:
        num_components: K.
        data_dim: D.
        latent_dim: Z.
        posterior: a guide with parameters of its own; None for the exact posterior.

    Raises:
        PairError: a dimension below 1, or a posterior of another event shape.

    >>> import torch
    >>> from ppvae.models import MixtureOfFactorAnalysers
    >>> pair = MixtureOfFactorAnalysers.from_parameters(
    ...     probs=[0.3, 0.7], loc=[[-2.0, 0.0], [2.0, 1.0]], loading=[[[1.0], [0.5]], [[-1.0], [1.0]]],
    ...     scale=[[0.5, 0.5], [1.0, 0.5]],
    ... )
    >>> x = torch.tensor([[-2.0, 0.0], [0.5, 0.5]])
    >>> [round(p, 3) for p in pair.log_evidence(x).tolist()]
    [-2.551, -3.794]
    >>> [round(p, 3) for p in pair.discrete_posterior(x)[:, 1].tolist()]
    [0.0, 0.813]
    """

    def __init__(
        self,
        num_components: int,
        data_dim: int,
        latent_dim: int,
        *,
        posterior: ConditionalDistribution | None = None,
    ) -> None:
        super().__init__()
        if min(num_components, data_dim, latent_dim) < 1:
            raise PairError(
                "expected num_components, data_dim and latent_dim of at least 1, found "
                f"{num_components}, {data_dim} and {latent_dim}"
            )
        check_event_shape(posterior, (latent_dim,))
        self.num_components, self.data_dim, self.latent_dim = num_components, data_dim, latent_dim
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.components = FactorAnalysers(num_components, data_dim, latent_dim)
        self.encoder = posterior

    @staticmethod
    def from_parameters(probs: Values, loc: Values, loading: Values, scale: Values) -> MixtureOfFactorAnalysers:
        """A mixture with given parameters.

        Args:
            probs: pi, probabilities of the components, [K]; positive.
            loc: means, [K, D].
            loading: W, [K, D, Z].
            scale: noise standard deviations, [K, D]; positive.

        Raises:
            PairError: shapes that do not fit, no probabilities, or a scale that is not positive.
        """
        probs, loc, loading, scale = as_floats(probs, loc, loading, scale)
        components = FactorAnalysers.from_parameters(loc, loading, scale)
        if probs.shape != loc.shape[:1]:
            raise PairError(f"expected probs [K] with K = {loc.shape[0]} as in loc, found {list(probs.shape)}")
        pair = MixtureOfFactorAnalysers(*loading.shape)
        pair.logits.data, pair.components = log_probabilities("probs", probs), components
        return pair

    @property
    def probs(self) -> Tensor:
        """Probabilities of the components, [K]."""
        return self.logits.softmax(-1)

    @property
    def loc(self) -> Tensor:
        """Means, [K, D]."""
        return self.components.loc

    @property
    def loading(self) -> Tensor:
        """Loadings, [K, D, Z]."""
        assert self.components.loading is not None
        return self.components.loading

    @property
    def scale(self) -> Tensor:
        """Noise standard deviations, [K, D]."""
        return self.components.scale

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of every datum, [B], in nats, at x [B, D]."""
        return self._log_terms(x).logsumexp(-1)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x, z) with y summed out, [*S, B], in nats, at x [B, D] and z [*S, B, Z]."""
        prior: Tensor = dist.Normal(torch.zeros_like(z), 1).log_prob(z).sum(-1)
        return prior + self._log_terms(x, z).logsumexp(-1)

    def marginal(self) -> dist.MixtureSameFamily:
        """p(x), a mixture of normals of covariance W W^T + Psi."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self.components.marginal())

    def posterior(self, x: Tensor) -> dist.MixtureSameFamily:
        """The exact p(z | x), a mixture of normals, of batch shape [B] and event shape [Z], at x [B, D]."""
        weights = dist.Categorical(logits=self._log_terms(x))
        return dist.MixtureSameFamily(weights, self.components.posterior(x))

    def discrete_posterior(self, x: Tensor) -> Tensor:
        """p(y | x), [B, K], at x [B, D]."""
        return self._log_terms(x).softmax(-1)

    def discrete_conditional(self, x: Tensor, z: Tensor) -> Tensor:
        """p(y | x, z), [*S, B, K], at x [B, D] and z [*S, B, Z]."""
        return self._log_terms(x, z).softmax(-1)

    def with_posterior(self, posterior: ConditionalDistribution | None) -> MixtureOfFactorAnalysers:
        """This model (the same parameters, shared) with another guide; None for the exact posterior."""
        sizes = self.num_components, self.data_dim, self.latent_dim
        other = MixtureOfFactorAnalysers(*sizes, posterior=posterior)
        other.logits, other.components = self.logits, self.components
        return other

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        """p(y) p(z) p(x | y, z) of a batch x [B, D]."""
        zero = self.logits.new_zeros(self.latent_dim)
        eye = torch.eye(self.latent_dim, dtype=zero.dtype, device=zero.device)
        with self.data_plate(x, num_data):
            y = pyro.sample("y", dist.Categorical(logits=self.logits), infer={"enumerate": "parallel"})
            # Multivariate, as the posterior: PyTorch has no closed-form KL between it and an independent normal.
            z = pyro.sample("z", dist.MultivariateNormal(zero, scale_tril=eye))
            # Under enumeration y is [K, 1, ..., 1], with an axis on the left for each plate and the sum.
            pyro.sample("x", self.components.given(y, z), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        """q(z | x) of a batch x [B, D]."""
        with self.data_plate(x, num_data):
            pyro.sample("z", self.posterior(x) if self.encoder is None else self.encoder(x))

    def _log_terms(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """log p(y, x), or log p(y, x | z), up to log p(z), for every y: [*S, B, K]."""
        self.components.check(x, "[B, D]")
        components = self.components.log_marginal(x) if z is None else self.components.log_given(x, z)
        return self.logits.log_softmax(-1) + components
