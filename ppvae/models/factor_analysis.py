"""Factor analysis and probabilistic PCA: the linear Gaussian model, where everything is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .components import check_event_shape, factor_posterior
from ..core.errors import DataError, PairError
from ..core.pair import ModelGuidePair
from ..distributions.conditional import ConditionalDistribution
from ..distributions.normals import FullCovarianceNormal
from ..networks.mlp import MLP


class FactorAnalysis(ModelGuidePair):
    r"""Factor analysis: the tuning fork, against which every estimator of this suite is tested.

    $$z_b \sim \mathcal{N}(0, I_Z),\qquad x_b \sim \mathcal{N}(\mu + W z_b, \Psi),
      \qquad \Psi = \mathrm{diag}\,\sigma^2$$
    $$\log p(x) = \log \mathcal{N}(x; \mu, W W^\top + \Psi),\qquad
      p(z \mid x) = \mathcal{N}(\Lambda^{-1} W^\top \Psi^{-1} (x - \mu), \Lambda^{-1}),\quad
      \Lambda = I + W^\top \Psi^{-1} W$$

    Bishop 2006, section 12.2 (probabilistic PCA: Tipping & Bishop 1999, where all $\sigma_i$ are one).

    ====================  ================================  ==================
    symbol                meaning                           name in code
    ====================  ================================  ==================
    $z_b$, [Z]            factors of one datum              site ``"z"``
    $x_b$, [D]            one datum                         site ``"x"``
    $\mu$, [D]            mean                              ``loc``
    $W$, [D, Z]           loading                           ``loading``
    $\sigma$, [D]         noise standard deviation          ``scale``
    ====================  ================================  ==================

    Limitations: linear and Gaussian; the loading is determined up to a rotation of the factors.

    Args:
        data_dim: D.
        latent_dim: Z.
        isotropic: one noise scale for all dimensions (probabilistic PCA).
        posterior: a guide with parameters of its own; None for the exact posterior.

    Raises:
        PairError: a dimension below 1, or a posterior of another event shape.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dim: int,
        *,
        isotropic: bool = False,
        posterior: ConditionalDistribution | None = None,
    ) -> None:
        super().__init__()
        if data_dim < 1 or latent_dim < 1:
            raise PairError(f"expected data_dim and latent_dim of at least 1, found {data_dim} and {latent_dim}")
        self.data_dim, self.latent_dim, self.isotropic = data_dim, latent_dim, isotropic
        self.loc = nn.Parameter(torch.zeros(data_dim))
        self.loading = nn.Parameter(torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(()) if isotropic else torch.zeros(data_dim))
        self.guide_shift, self.guide_stretch = 0.0, 1.0
        self._set_posterior(posterior)

    @staticmethod
    def from_parameters(
        loc: Tensor | Sequence[float],
        loading: Tensor | Sequence[Sequence[float]],
        scale: Tensor | Sequence[float],
    ) -> FactorAnalysis:
        """Factor analysis with given parameters.

        Args:
            loc: mean, [D].
            loading: W, [D, Z].
            scale: noise standard deviation, [D], or a scalar for probabilistic PCA; positive.

        Raises:
            PairError: shapes that do not fit, or a scale that is not positive.
        """
        loc, loading, scale = (torch.as_tensor(value) for value in (loc, loading, scale))
        if loading.dim() != 2 or loc.shape != loading.shape[:1] or scale.shape not in (torch.Size(), loc.shape):
            raise PairError(
                "expected loc [D], loading [D, Z] and scale [D] or a scalar, found "
                f"{list(loc.shape)}, {list(loading.shape)} and {list(scale.shape)}"
            )
        if not bool((scale > 0).all()):
            raise PairError(f"expected a positive scale (a standard deviation), found a minimum of {scale.min():g}")
        pair = FactorAnalysis(*loading.shape, isotropic=scale.dim() == 0)
        for name, value in (("loc", loc), ("loading", loading), ("log_scale", scale.log())):
            getattr(pair, name).data = value.detach().clone()
        return pair

    @staticmethod
    def maximum_likelihood(
        x: Tensor | np.ndarray, latent_dim: int, *, isotropic: bool = False, tolerance: float = 1e-6
    ) -> FactorAnalysis:
        """Parameters of maximum likelihood by scikit-learn: EM, or the closed form where isotropic (whose
        variances are divided by N - 1, and so larger by 1 / N than those of maximum likelihood).

        Args:
            x: data, [N, D].
            latent_dim: Z.
            isotropic: probabilistic PCA.
            tolerance: EM stops when the log-likelihood gains less than this, in nats; scales are kept above 1e-3
                of the largest, because a constant column would make its own zero.

        Raises:
            DataError: data that are not [N, D] with N > 1, or fewer dimensions than factors.
        """
        from sklearn import decomposition

        values = np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, dtype=np.float64)
        if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < latent_dim:
            raise DataError(f"expected data [N, D] with N > 1 and D >= latent_dim = {latent_dim}, found {values.shape}")
        if isotropic:
            pca = decomposition.PCA(latent_dim).fit(values)
            noise = float(pca.noise_variance_)
            loading = pca.components_.T * np.sqrt(np.maximum(pca.explained_variance_ - noise, 0.0))
            loc, scale = pca.mean_, np.sqrt(noise)
        else:
            analysis = decomposition.FactorAnalysis(latent_dim, svd_method="lapack", tol=tolerance, max_iter=10_000)
            analysis.fit(values)
            loc, loading, scale = analysis.mean_, analysis.components_.T, np.sqrt(analysis.noise_variance_)
            scale = np.maximum(scale, 1e-3 * scale.max())
        dtype = torch.get_default_dtype()
        return FactorAnalysis.from_parameters(*(torch.as_tensor(value, dtype=dtype) for value in (loc, loading, scale)))

    @property
    def scale(self) -> Tensor:
        """Noise standard deviation, [D]."""
        return self.log_scale.exp().expand(self.data_dim)

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) of every datum, [B], in nats, at x [B, D]."""
        log_evidence: Tensor = self.marginal().log_prob(x)
        return log_evidence

    def marginal(self) -> dist.LowRankMultivariateNormal:
        """p(x), a normal of covariance W W^T + Psi."""
        return dist.LowRankMultivariateNormal(self.loc, self.loading, self.scale.square())

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """The exact p(z | x), of batch shape [B] and event shape [Z], at x [B, D]."""
        loc, scale_tril = self._posterior_moments(x)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)

    def with_posterior(self, posterior: ConditionalDistribution | None) -> FactorAnalysis:
        """This model (the same parameters, shared) with another guide; None for the exact posterior."""
        other = FactorAnalysis(self.data_dim, self.latent_dim, isotropic=self.isotropic, posterior=posterior)
        other.loc, other.loading, other.log_scale = self.loc, self.loading, self.log_scale
        return other

    def with_wrong_guide(self, *, shift: float = 0.5, stretch: float = 1.3) -> FactorAnalysis:
        r"""This model with a guide that is wrong by a known amount, for tests.

        $$q(z \mid x) = \mathcal{N}(m + L\,\text{shift}\,\mathbf{1},\; \text{stretch}^2 L L^\top)
          \quad\text{where}\quad p(z \mid x) = \mathcal{N}(m, L L^\top)$$

        Args:
            shift: displacement along every axis, in posterior standard deviations.
            stretch: factor on the posterior's standard deviations.
        """
        other = self.with_posterior(None)
        other.guide_shift, other.guide_stretch = shift, stretch
        return other

    def guide_divergence(self) -> float:
        r"""$\mathrm{KL}(q \| p(z \mid x))$ of the guide in nats: zero, unless :meth:`with_wrong_guide` made it wrong.

        Raises:
            PairError: the guide has parameters of its own, so that no closed form is known.
        """
        if self.encoder is not None:
            raise PairError("guide_divergence is known for the exact and the wrong guide only")
        square = self.guide_stretch**2
        return 0.5 * self.latent_dim * (square - 1 - math.log(square) + self.guide_shift**2)

    def exact_encoder(self) -> FullCovarianceNormal:
        """A guide with parameters of its own that start at the exact posterior, which is linear in x."""
        encoder = FullCovarianceNormal(MLP(self.data_dim, []), self.latent_dim).to(self.loc)
        with torch.no_grad():
            gain, scale_tril = factor_posterior(self.loading, self.scale)
            loc, log_diagonal = encoder.head.layers
            for layer, weight, bias in (
                (loc, gain, -gain @ self.loc),
                (log_diagonal, 0.0, scale_tril.diagonal().log()),
                (encoder.below, 0.0, scale_tril.flatten()[encoder.flat_index]),
            ):
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.as_tensor(weight).expand_as(layer.weight))
                    layer.bias.copy_(bias)
        return encoder

    def model(self, x: Tensor, num_data: int | None = None) -> None:
        """p(z) p(x | z) of a batch x [B, D]."""
        loc, loading, scale = self.loc, self.loading, self.scale
        eye = torch.eye(self.latent_dim, dtype=loc.dtype, device=loc.device)
        with self.data_plate(x, num_data):
            # Multivariate on both sides: PyTorch has no closed-form KL between it and an independent normal.
            z = pyro.sample("z", dist.MultivariateNormal(loc.new_zeros(self.latent_dim), scale_tril=eye))
            pyro.sample("x", dist.Normal(loc + z @ loading.mT, scale).to_event(1), obs=x)

    def guide(self, x: Tensor, num_data: int | None = None) -> None:
        """q(z | x) of a batch x [B, D]."""
        with self.data_plate(x, num_data):
            if self.encoder is not None:
                pyro.sample("z", self.encoder(x))
                return
            loc, scale_tril = self._posterior_moments(x)
            loc = loc + self.guide_shift * scale_tril.sum(-1)
            pyro.sample("z", dist.MultivariateNormal(loc, scale_tril=self.guide_stretch * scale_tril))

    def _posterior_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, Z] and Cholesky factor of the covariance [Z, Z]."""
        gain, scale_tril = factor_posterior(self.loading, self.scale)
        return (x - self.loc) @ gain.mT, scale_tril

    def _set_posterior(self, posterior: ConditionalDistribution | None) -> None:
        check_event_shape(posterior, (self.latent_dim,))
        self.encoder = posterior
