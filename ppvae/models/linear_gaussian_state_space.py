"""The linear-Gaussian state space model, with lengths, where everything is exact."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .components import Values, as_floats, check_axes, check_event_shape, check_lengths, unpack_sequences
from ..core.errors import PairError, try_one_of
from ..core.lengths import present
from ..core.pair import ModelGuidePair
from ..distributions.conditional import ConditionalDistribution, independent
from ..distributions.normal_chain import NormalChain
from ..distributions.sequences import LinearTransition, padded


class LinearGaussianStateSpace(ModelGuidePair):
    r"""A linear-Gaussian state space model: the tuning fork for sequences of continuous latents.

    $$z_1 \sim \mathcal{N}(\mu_1, \mathrm{diag}\,\sigma_1^2),\qquad
      z_t \mid z_{t-1} \sim \mathcal{N}(A z_{t-1} + b, \mathrm{diag}\,q^2),\qquad
      x_t \mid z_t \sim \mathcal{N}(C z_t + d, \mathrm{diag}\,r^2)$$

    What is observed from a step on is Gaussian in its state. A filter that runs backwards (the information form of
    Kalman's) gives the evidence, and the posterior with it, which is a chain again:

    $$p(x_{t:L} \mid z_t) = \exp(c_t + h_t^\top z_t - \tfrac12 z_t^\top J_t z_t),\qquad
      p(x) = \int p(z_1)\, p(x_{1:L} \mid z_1)\, dz_1$$
    $$p(z \mid x) = p(z_1 \mid x) \prod_t p(z_t \mid z_{t-1}, x_{t:L})$$
    $$p(z_t \mid z_{t-1}, x_{t:L}) = \mathcal{N}(\Lambda_t^{-1} (Q^{-1} (A z_{t-1} + b) + h_t), \Lambda_t^{-1}),\qquad
      \Lambda_t = Q^{-1} + J_t,\quad Q = \mathrm{diag}\,q^2$$

    Bishop 2006, section 13.3; Kalman 1960.

    ====================  =======================================  ==========================================
    symbol                meaning                                  name in code
    ====================  =======================================  ==========================================
    $z$, [T, Z]           states of one sequence                   site ``"z"``
    $x$, [T, D]           one sequence                             site ``"x"``
    $\mu_1$, [Z]          mean of the first state                  ``initial_loc``
    $\sigma_1$, [Z]       its standard deviation                   ``initial_scale``
    $A$, [Z, Z]           transition                               ``transition.matrix``
    $b$, [Z]              drift                                    ``transition.loc``
    $q$, [Z]              standard deviation of a transition       ``transition.log_scale``, its logarithm
    $C$, [D, Z]           loading                                  ``loading``
    $d$, [D]              mean of what is observed, at z = 0       ``loc``
    $r$, [D]              noise standard deviation                 ``scale``
    ====================  =======================================  ==========================================

    A batch is [B, T, D], or a mapping of such an ``"x"`` and of ``"lengths"``, [B], for sequences of different lengths:
    steps from ``lengths`` on are padding, whose x has no density, whatever stands there, and whose states are standard
    normal and independent of all else, in model and posterior. The evidence is that of the sequence without padding.

    Limitations: linear and Gaussian, the same at every time; noise is independent between dimensions; states are
    determined up to a linear map. The filter is a loop over steps, each of which a recorded graph holds.

    Args:
        data_dim: D.
        latent_dim: Z.
        posterior: a guide with parameters of its own over z, of event shape (T, Z), whose contexts are x, and lengths
            where the batch has them; None for the exact posterior.

    Raises:
        PairError: a dimension below 1, or a posterior of another event shape.

    >>> import torch
    >>> from ppvae.models import LinearGaussianStateSpace
    >>> pair = LinearGaussianStateSpace.from_parameters(
    ...     initial_loc=[0.0], initial_scale=[1.0], transition=[[0.9]], transition_scale=[0.5],
    ...     loading=[[1.0], [-1.0]], loc=[0.0, 0.0], scale=[0.3, 0.4],
    ... )
    >>> x = torch.tensor([[[0.5, -0.2], [0.1, 0.3], [0.0, 0.0]]])
    >>> [round(v, 3) for v in pair.log_evidence(x).tolist()]
    [-3.186]
    >>> pair.posterior(x).event_shape
    torch.Size([3, 1])
    """

    def __init__(self, data_dim: int, latent_dim: int, *, posterior: ConditionalDistribution | None = None) -> None:
        super().__init__()
        if data_dim < 1 or latent_dim < 1:
            raise PairError(f"expected data_dim and latent_dim of at least 1, found {data_dim} and {latent_dim}")
        self.data_dim, self.latent_dim = data_dim, latent_dim
        self.initial_loc = nn.Parameter(torch.zeros(latent_dim))
        self.initial_log_scale = nn.Parameter(torch.zeros(latent_dim))
        self.transition = LinearTransition(latent_dim)
        self.loading = nn.Parameter(torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim))
        self.loc = nn.Parameter(torch.zeros(data_dim))
        self.log_scale = nn.Parameter(torch.zeros(data_dim))
        self.guide_shift, self.guide_stretch = 0.0, 1.0
        if posterior is not None:
            check_event_shape(posterior, (*posterior.event_shape[:1], latent_dim))
        self.encoder = posterior

    @staticmethod
    def from_parameters(
        initial_loc: Values,
        initial_scale: Values,
        transition: Values,
        transition_scale: Values,
        loading: Values,
        loc: Values,
        scale: Values,
        *,
        transition_loc: Values | None = None,
    ) -> LinearGaussianStateSpace:
        """A state space model with given parameters.

        Args:
            initial_loc: mean of the first state, [Z].
            initial_scale: its standard deviation, [Z]; positive.
            transition: A, [Z, Z].
            transition_scale: q, standard deviation of a transition, [Z]; positive.
            loading: C, [D, Z].
            loc: d, [D].
            scale: r, noise standard deviation, [D]; positive.
            transition_loc: b, [Z]; None for zero.

        Raises:
            PairError: shapes that do not fit, or a scale that is not positive.
        """
        drift = [0.0] * len(initial_loc) if transition_loc is None else transition_loc  # type: ignore[arg-type]
        given = {
            "initial_loc": initial_loc,
            "initial_scale": initial_scale,
            "transition": transition,
            "transition_loc": drift,
            "transition_scale": transition_scale,
            "loading": loading,
            "loc": loc,
            "scale": scale,
        }
        values = dict(zip(given, as_floats(*given.values()), strict=True))
        if values["loading"].dim() != 2:
            raise PairError(f"loading: expected [D, Z], found {list(values['loading'].shape)}")
        data_dim, latent_dim = values["loading"].shape
        for name, value in values.items():
            sizes = {"transition": [latent_dim] * 2, "loading": [data_dim, latent_dim]}
            expected = sizes.get(name, [data_dim] if name in ("loc", "scale") else [latent_dim])
            if list(value.shape) != expected:
                raise PairError(
                    f"{name}: expected {expected} as in a loading [D, Z] = [{data_dim}, {latent_dim}], "
                    f"found {list(value.shape)}"
                )
            if name.endswith("scale") and not bool((value > 0).all()):
                raise PairError(f"{name}: expected positive standard deviations, found a minimum of {value.min():g}")
        pair = LinearGaussianStateSpace(data_dim, latent_dim)
        pair.initial_loc.data, pair.initial_log_scale.data = values["initial_loc"], values["initial_scale"].log()
        pair.transition.matrix.data, pair.transition.loc.data = values["transition"], values["transition_loc"]
        pair.transition.log_scale.data = values["transition_scale"].log()
        pair.loading.data, pair.loc.data, pair.log_scale.data = values["loading"], values["loc"], values["scale"].log()
        return pair

    @property
    def initial_scale(self) -> Tensor:
        """Standard deviation of the first state, [Z]."""
        return self.initial_log_scale.exp()

    @property
    def scale(self) -> Tensor:
        """Noise standard deviation, [D]."""
        return self.log_scale.exp()

    def log_evidence(self, x: Any) -> Tensor:
        """log p(x) of every sequence, [B], in nats, at x [B, T, D], or a mapping with "lengths".

        Raises:
            DataError: another shape, or a length that is not 1, ..., T.
        """
        check_lengths(*unpack_sequences(x))
        return self._filter(x)[0]

    def marginal(self, num_steps: int) -> dist.GaussianHMM:
        """p(x) of sequences of this many steps, of event shape [T, D]."""
        drift, spread = self.transition.loc, self.transition.log_scale.exp()
        # The distribution's own initial state stands before its first transition, which forgets it.
        matrices = self.transition.matrix.mT.expand(num_steps, -1, -1).clone()
        matrices[0] = 0.0
        loc = torch.cat([self.initial_loc[None], drift.expand(num_steps - 1, -1)])
        scale = torch.cat([self.initial_scale[None], spread.expand(num_steps - 1, -1)])
        return dist.GaussianHMM(
            dist.Normal(torch.zeros_like(drift), 1.0).to_event(1),
            matrices,
            dist.Normal(loc, scale).to_event(1),
            self.loading.mT,
            dist.Normal(self.loc, self.scale).to_event(1),
            duration=num_steps,
        )

    def posterior(self, x: Any) -> NormalChain:
        """The exact p(z | x), of batch shape [B] and event shape [T, Z], whose draws are reparameterised."""
        return self._posterior_chain(x, 0.0, 1.0)

    def marginal_posterior(self, x: Any) -> dist.MultivariateNormal:
        """The exact p(z_t | x) of each time step (smoothing), of batch shape [B, T] and event shape [Z]."""
        _, gain, offset, scale_tril = self._filter(x)
        inside = self._inside(x)
        eye = torch.eye(self.latent_dim, dtype=offset.dtype, device=offset.device)
        loc, covariance = torch.zeros_like(offset[:, 0]), torch.zeros_like(eye)
        locs, covariances = [], []
        for t in range(offset.shape[-2]):
            forward, root = gain[..., t, :, :], scale_tril[..., t, :, :]
            loc = offset[:, t] + (forward @ loc[..., None])[..., 0]
            covariance = forward @ covariance @ forward.mT + root @ root.mT
            locs.append(loc)
            covariances.append(covariance.expand(len(loc), -1, -1))
        means, spreads = torch.stack(locs, 1), torch.stack(covariances, 1)
        if inside is not None:
            means, spreads = means.where(inside[..., None], 0.0), spreads.where(inside[..., None, None], eye)
        return dist.MultivariateNormal(means, spreads)

    def with_posterior(self, posterior: ConditionalDistribution | None) -> LinearGaussianStateSpace:
        """This model (the same parameters, shared) with another guide; None for the exact posterior."""
        other = LinearGaussianStateSpace(self.data_dim, self.latent_dim, posterior=posterior)
        for name in ("initial_loc", "initial_log_scale", "transition", "loading", "loc", "log_scale"):
            setattr(other, name, getattr(self, name))
        return other

    def with_wrong_guide(self, *, shift: float = 0.5, stretch: float = 1.3) -> LinearGaussianStateSpace:
        r"""This model with a guide that is wrong by a known amount at every step, for tests.

        $$q(z_t \mid z_{t-1}, x) = \mathcal{N}(m + L\,\text{shift}\,\mathbf{1},\; \text{stretch}^2 L L^\top)
          \quad\text{where}\quad p(z_t \mid z_{t-1}, x) = \mathcal{N}(m, L L^\top)$$

        Args:
            shift: displacement along every axis, in standard deviations of a step of the posterior.
            stretch: factor on these standard deviations.
        """
        other = self.with_posterior(None)
        other.guide_shift, other.guide_stretch = shift, stretch
        return other

    def guide_divergence(self, x: Any) -> Tensor:
        r"""$\mathrm{KL}(q \| p(z \mid x))$ of the guide in nats, [B]; zero of the exact posterior.

        Raises:
            PairError: the guide has parameters of its own, so that no closed form is known.
        """
        if self.encoder is not None:
            raise PairError(
                "guide_divergence is known for the exact and the wrong guide only"
                + try_one_of("with_posterior(None)", "with_wrong_guide(...)")
            )
        square = self.guide_stretch**2
        each = 0.5 * self.latent_dim * (square - 1 - math.log(square) + self.guide_shift**2)
        sequences, lengths = unpack_sequences(x)
        return each * (torch.full_like(sequences[:, 0, 0], sequences.shape[1]) if lengths is None else lengths)

    def model(self, x: Any, num_data: int | None = None) -> None:
        """p(z) p(x | z) of a batch x."""
        x, lengths = unpack_sequences(x)
        check_axes(x, "[B, T, D]", (self.data_dim,))
        inside = None if lengths is None else present(lengths, x.shape[1])
        initial = independent(dist.Normal(self.initial_loc, self.initial_scale), (self.latent_dim,))
        with self.data_plate(x, num_data):
            chain = NormalChain(initial, lambda z, _: self.transition(z), x.shape[1], present=inside)
            z = pyro.sample("z", chain)
            emission = independent(dist.Normal(z @ self.loading.mT + self.loc, self.scale), (self.data_dim,))
            pyro.sample("x", independent(emission if inside is None else padded(emission, inside), x.shape[1:2]), obs=x)

    def guide(self, x: Any, num_data: int | None = None) -> None:
        """q(z | x) of a batch x."""
        sequences, lengths = unpack_sequences(x)
        with self.data_plate(sequences, num_data):
            if self.encoder is not None:
                pyro.sample("z", self.encoder(sequences) if lengths is None else self.encoder(sequences, lengths))
            else:
                pyro.sample("z", self._posterior_chain(x, self.guide_shift, self.guide_stretch))

    def _posterior_chain(self, x: Any, shift: float, stretch: float) -> NormalChain:
        """The posterior, every step of which is shifted and stretched by so much."""
        _, gain, offset, scale_tril = self._filter(x)
        offset, scale_tril = offset + shift * scale_tril.sum(-1), stretch * scale_tril

        def step(previous: Tensor, index: int | slice) -> dist.TorchDistribution:
            loc = offset[..., index, :] + (gain[..., index, :, :] @ previous[..., None])[..., 0]
            return dist.MultivariateNormal(loc, scale_tril=scale_tril[..., index, :, :])

        initial = dist.MultivariateNormal(offset[..., 0, :], scale_tril=scale_tril[..., 0, :, :])
        return NormalChain(initial, step, offset.shape[-2], present=self._inside(x))

    def _inside(self, x: Any) -> Tensor | None:
        """Which time steps are no padding, [B, T]; None where all are."""
        sequences, lengths = unpack_sequences(x)
        return None if lengths is None else present(lengths, sequences.shape[1])

    def _filter(self, x: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The evidence [B], and the posterior's steps N(gain z + offset, L L^T).

        Returns:
            log p(x) [B]; gain [*, T, Z, Z], which is zero at the first step; offset [B, T, Z]; L [*, T, Z, Z], where *
            is [B] where there are lengths, and nothing else.
        """
        inside = self._inside(x)
        x, _ = unpack_sequences(x)
        check_axes(x, "[B, T, D]", (self.data_dim,))
        weighted = self.loading / self.scale[:, None]
        precision = weighted.mT @ weighted
        if inside is not None:
            x = x.where(inside[..., None], self.loc.detach())
            precision = precision * inside[..., None, None]
        else:
            precision = precision.expand(x.shape[1], -1, -1)
        shift = ((x - self.loc) / self.scale) @ weighted
        constant = dist.Normal(self.loc, self.scale).log_prob(x).sum(-1)
        if inside is not None:
            shift, constant = shift.where(inside[..., None], 0.0), constant.where(inside, 0.0)
        matrix, spread, drift = self.transition.matrix, self.transition.log_scale.exp(), self.transition.loc
        gains, offsets, roots = [], [], []
        later: tuple[Tensor | float, Tensor | float, Tensor | float] = (0.0, 0.0, 0.0)  # J, h, c of the steps after
        for t in range(x.shape[1] - 1, -1, -1):
            j, h, c = precision[..., t, :, :] + later[0], shift[:, t] + later[1], constant[:, t] + later[2]
            s, m = (spread, drift) if t else (self.initial_scale, self.initial_loc)
            keep, offset, root, rest, slope, log_mass = _meet(s, m, j, h)
            gains.append(keep @ matrix if t else torch.zeros_like(keep))
            offsets.append(offset)
            roots.append(root)
            later = (matrix.mT @ rest @ matrix, slope @ matrix, c + log_mass)
        return c + log_mass, torch.stack(gains[::-1], -3), torch.stack(offsets[::-1], -2), torch.stack(roots[::-1], -3)


def _meet(scale: Tensor, loc: Tensor, j: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    r"""A normal times the exponential of a quadratic form: as a normal in z, and its mass.

    $$\mathcal{N}(z; \text{loc} + u, \mathrm{diag}\,\text{scale}^2)\, \exp(h^\top z - \tfrac12 z^\top J z)$$

    Args:
        scale: [Z].
        loc: [Z].
        j: J, [*, Z, Z].
        h: [B, Z].

    Returns:
        keep [*, Z, Z], offset [B, Z] and L [*, Z, Z] of the normal N(keep u + offset, L L^T); R [*, Z, Z], g [B, Z] and
        e [B] of its log mass, e + g^T u - u^T R u / 2.
    """
    # In units of the scale, where no precision is a difference of large numbers.
    unit = scale[:, None] * j * scale
    cholesky = torch.linalg.cholesky(torch.eye(len(scale), dtype=unit.dtype, device=unit.device) + unit)
    covariance = torch.cholesky_inverse(cholesky)
    pull = (covariance @ (scale * h)[..., None])[..., 0]
    rest = covariance @ unit / (scale[:, None] * scale)
    rest = 0.5 * (rest + rest.mT)
    slope = pull / scale - rest @ loc
    keep = scale[:, None] * covariance / scale
    log_mass = 0.5 * (scale * h * pull + (pull / scale + slope) * loc).sum(-1)
    log_mass = log_mass - cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    root = scale[:, None] * torch.linalg.cholesky(covariance)
    return keep, scale * pull + keep @ loc, root, rest, slope, log_mass
