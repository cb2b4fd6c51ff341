"""What a mixture and a chain of hidden states share: the distribution of a datum given the component that it is of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import numpy as np
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from ..core.errors import DataError, PairError, try_one_of
from ..distributions.conditional import ConditionalDistribution, independent

Values: TypeAlias = Tensor | np.ndarray | float | Sequence["Values"]
"""Numbers, in whatever holds them."""


def factor_posterior(loading: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    r"""The gain $G = \Lambda^{-1} W^\top \Psi^{-1}$ and the Cholesky factor $L$ of $\Lambda^{-1}$.

    With $\Lambda = I + W^\top \Psi^{-1} W$ they give $p(z \mid x) = \mathcal{N}(G (x - \mu), L L^\top)$ of a factor
    analysis.

    Args:
        loading: W, [*S, D, Z].
        scale: noise standard deviation, [*S, D].

    Returns:
        the gain [*S, Z, D] and the factor [*S, Z, Z].
    """
    weighted = (loading / scale.square()[..., None]).mT
    eye = torch.eye(loading.shape[-1], dtype=loading.dtype, device=loading.device)
    covariance = torch.cholesky_inverse(torch.linalg.cholesky(eye + weighted @ loading))
    return covariance @ weighted, torch.linalg.cholesky(covariance)


class FactorAnalysers(nn.Module):
    r"""$x \mid y, z \sim \mathcal{N}(\mu_y + W_y z, \mathrm{diag}\,\sigma_y^2)$ with $z \sim \mathcal{N}(0, I_Z)$.

    Args:
        num_components: K.
        data_dim: D.
        latent_dim: Z; 0 for normals without a latent.
    """

    loading: nn.Parameter | None

    def __init__(self, num_components: int, data_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(num_components, data_dim))  # K means alike would stay alike
        loading = torch.randn(num_components, data_dim, latent_dim) / math.sqrt(max(latent_dim, 1))
        self.loading = nn.Parameter(loading) if latent_dim else None
        self.log_scale = nn.Parameter(torch.zeros(num_components, data_dim))
        self.latent_dim, self.event_shape = latent_dim, (data_dim,)

    @staticmethod
    def from_parameters(loc: Tensor, loading: Tensor | None, scale: Tensor) -> FactorAnalysers:
        """Components of given loc [K, D], loading [K, D, Z] (None: no latent) and scale [K, D].

        Raises:
            PairError: shapes that do not fit, or a scale that is not positive.
        """
        fits = loc.dim() == 2 and scale.shape == loc.shape and 0 not in loc.shape
        if loading is not None:
            fits = fits and loading.dim() == 3 and loading.shape[:2] == loc.shape and loading.shape[2] > 0
        if not fits:
            shapes = [None if value is None else list(value.shape) for value in (loc, loading, scale)]
            raise PairError(
                "expected loc [K, D], loading [K, D, Z] and scale [K, D], found {}, {} and {}".format(*shapes)
            )
        if not bool((scale > 0).all()):
            raise PairError(f"expected a positive scale (a standard deviation), found a minimum of {scale.min():g}")
        num_components, data_dim = loc.shape
        components = FactorAnalysers(num_components, data_dim, 0 if loading is None else loading.shape[2])
        components.loc.data, components.log_scale.data = loc.clone(), scale.log()
        if components.loading is not None and loading is not None:
            components.loading.data = loading.clone()
        return components

    @property
    def scale(self) -> Tensor:
        """Noise standard deviation, [K, D]."""
        return self.log_scale.exp()

    def marginal(self) -> dist.TorchDistribution:
        """p(x | y) of every component, the latent integrated out: batch shape [K], event shape [D]."""
        if self.loading is None:
            return independent(dist.Normal(self.loc, self.scale), self.event_shape)
        return dist.LowRankMultivariateNormal(self.loc, self.loading, self.scale.square())

    def given(self, y: Tensor, z: Tensor | None) -> dist.TorchDistribution:
        """p(x | y, z) at y [*S] and z [*S, Z], broadcasting: event shape [D]."""
        loading = None if self.loading is None else Vindex(self.loading)[..., y, :, :]
        return self._given(Vindex(self.loc)[..., y, :], loading, Vindex(self.scale)[..., y, :], z)

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """p(z | y, x) of every component at x [*S, D]: batch shape [*S, K], event shape [Z]."""
        assert self.loading is not None
        gain, scale_tril = factor_posterior(self.loading, self.scale)
        loc = (gain @ (x[..., None, :] - self.loc)[..., None])[..., 0]
        return dist.MultivariateNormal(loc, scale_tril=scale_tril.expand(*loc.shape, -1))

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x | y) of every component, [*S, K], in nats, at x [*S, D]."""
        log_prob: Tensor = self.marginal().log_prob(x[..., None, :])
        return log_prob

    def log_given(self, x: Tensor, z: Tensor | None) -> Tensor:
        """log p(x | y, z) of every component, [*S, K], in nats, at x [*S, D] and z [*S, Z], broadcasting."""
        every = self._given(self.loc, self.loading, self.scale, None if z is None else z[..., None, :])
        log_prob: Tensor = every.log_prob(x[..., None, :])
        return log_prob

    def _given(self, loc: Tensor, loading: Tensor | None, scale: Tensor, z: Tensor | None) -> dist.TorchDistribution:
        if loading is not None:
            assert z is not None
            loc = loc + (loading @ z[..., None])[..., 0]
        return independent(dist.Normal(loc, scale), self.event_shape)

    def check(self, x: Tensor, axes: str) -> None:
        """Data of these axes, such as "[B, T, D]".

        Raises:
            DataError: other data.
        """
        check_axes(x, axes, self.event_shape)


class Categories(nn.Module):
    r"""$x \mid y \sim \mathrm{Categorical}(\rho_y)$, without a latent.

    Args:
        num_components: K.
        num_categories: C.
    """

    latent_dim = 0
    event_shape = ()

    def __init__(self, num_components: int, num_categories: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(num_components, num_categories))  # K alike would stay alike

    @staticmethod
    def from_parameters(probs: Tensor) -> Categories:
        """Components of given probabilities of the categories, [K, C].

        Raises:
            PairError: another shape, or no probabilities.
        """
        if probs.dim() != 2 or 0 in probs.shape:
            raise PairError(f"expected probs [K, C], found {list(probs.shape)}")
        components = Categories(*probs.shape)
        components.logits.data = log_probabilities("probs", probs)
        return components

    @property
    def probs(self) -> Tensor:
        """Probabilities of the categories, [K, C]."""
        return self.logits.softmax(-1)

    def marginal(self) -> dist.TorchDistribution:
        """p(x | y) of every component: batch shape [K]."""
        return dist.Categorical(logits=self.logits)

    def given(self, y: Tensor, z: Tensor | None) -> dist.TorchDistribution:
        """p(x | y) at y [*S]; there is no z."""
        return dist.Categorical(logits=Vindex(self.logits)[..., y, :])

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x | y) of every component, [*S, K], in nats, at x [*S]."""
        log_prob: Tensor = self.marginal().log_prob(x[..., None])
        return log_prob

    def log_given(self, x: Tensor, z: Tensor | None) -> Tensor:
        """The same; there is no z."""
        return self.log_marginal(x)

    def check(self, x: Tensor, axes: str) -> None:
        """Data of these axes, such as "[B, T]", whole numbers from 0 to C - 1.

        Raises:
            DataError: other data.
        """
        check_axes(x, axes, self.event_shape)
        outside = (x < 0) | (x >= self.logits.shape[-1]) | (x != x.long())
        if bool(outside.any()):
            place = torch.nonzero(outside)[0].tolist()
            found, last = x[tuple(place)].item(), self.logits.shape[-1] - 1
            raise DataError(f"expected categories 0, 1, ..., {last}, found {found:g} at {place}")


class StateLikelihood(nn.Module):
    r"""$x \mid y \sim p(x \mid e_y)$ with any likelihood, given the state as a row of 0 and 1; without a latent.

    Args:
        num_components: K.
        likelihood: of one context [*S, K].
    """

    latent_dim = 0
    states: Tensor

    def __init__(self, num_components: int, likelihood: ConditionalDistribution) -> None:
        super().__init__()
        self.likelihood, self.event_shape = likelihood, likelihood.event_shape
        self.register_buffer("states", torch.eye(num_components), persistent=False)

    def marginal(self) -> dist.TorchDistribution:
        """p(x | y) of every component: batch shape [K]."""
        return cast(dist.TorchDistribution, self.likelihood(self.states))

    def given(self, y: Tensor, z: Tensor | None) -> dist.TorchDistribution:
        """p(x | y) at y [*S]; there is no z."""
        return cast(dist.TorchDistribution, self.likelihood(self.states[y]))

    def log_marginal(self, x: Tensor) -> Tensor:
        """log p(x | y) of every component, [*S, K], in nats, at x [*S, *event]."""
        log_prob: Tensor = self.marginal().log_prob(x.unsqueeze(-1 - len(self.event_shape)))
        return log_prob

    def log_given(self, x: Tensor, z: Tensor | None) -> Tensor:
        """The same; there is no z."""
        return self.log_marginal(x)

    def check(self, x: Tensor, axes: str) -> None:
        """Data of these axes, such as "[B, T, D]".

        Raises:
            DataError: other data.
        """
        check_axes(x, axes, self.event_shape)


def as_floats(*values: Values) -> list[Tensor]:
    """Tensors of one floating dtype, the widest of them; torch's default where there is none."""
    tensors = [torch.as_tensor(value) for value in values]
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    dtype = floating[0] if floating else torch.get_default_dtype()
    for other in floating[1:]:
        dtype = torch.promote_types(dtype, other)
    return [tensor.detach().to(dtype) for tensor in tensors]


def log_probabilities(name: str, value: Tensor) -> Tensor:
    """The logarithm of probabilities that are positive and sum to one over the last axis.

    Raises:
        PairError: they do not.
    """
    if not bool((value > 0).all()):  # the logarithm of zero is no parameter
        raise PairError(
            f"{name}: expected positive probabilities, found a minimum of {value.min():g}"
            + try_one_of("a small probability, such as 1e-6, in the place of zero")
        )
    total = value.sum(-1)
    if not bool(((total - 1).abs() < 1e-4).all()):
        raise PairError(
            f"{name}: expected probabilities that sum to one over the last axis, found sums from {total.min():g} "
            f"to {total.max():g}" + try_one_of(f"{name} / {name}.sum(-1, keepdims=True)")
        )
    return value.log()


def check_event_shape(posterior: ConditionalDistribution | None, expected: Sequence[int]) -> None:
    """A guide's distribution of site "z" has this event shape.

    Raises:
        PairError: it has another.
    """
    if posterior is not None and posterior.event_shape != tuple(expected):
        raise PairError(
            f"site 'z': expected the posterior's event shape to be {tuple(expected)}, found {posterior.event_shape}"
        )


def check_axes(x: Tensor, axes: str, event_shape: tuple[int, ...]) -> None:
    """Data of these axes, such as "[B, T, D]", of which the last are those of an event.

    Raises:
        DataError: other data.
    """
    if x.dim() != axes.count(",") + 1 or x.shape[x.dim() - len(event_shape) :] != event_shape or 0 in x.shape:
        size = f" with D = {event_shape[0]}" if event_shape else ""
        remedy = try_one_of('load("jsb-chorales")', "an .npz file with an array x [N, T, D]") if "T" in axes else ""
        raise DataError(f"expected x {axes}{size}, found {list(x.shape)}{remedy}")


def unpack_sequences(x: Any) -> tuple[Tensor, Tensor | None]:
    """Sequences [B, T, ...] and their lengths [B], None where all are whole, of a tensor or a mapping.

    Raises:
        DataError: a mapping without "x", or lengths that are not [B].
    """
    if isinstance(x, Tensor):
        return x, None
    if "x" not in x:
        raise DataError(f"expected sequences under the name 'x', found {sorted(x)}")
    sequences, lengths = x["x"], x.get("lengths")
    if lengths is not None and lengths.shape != sequences.shape[:1]:
        raise DataError(f"expected lengths [B] with B = {len(sequences)}, found {list(lengths.shape)}")
    return sequences, lengths


def check_lengths(sequences: Tensor, lengths: Tensor | None) -> None:
    """Lengths [B] of sequences [B, T, ...] are from 1 to T.

    Raises:
        DataError: one is not.
    """
    num_steps = sequences.shape[1]
    if lengths is not None and not bool(((lengths >= 1) & (lengths <= num_steps)).all()):
        raise DataError(f"expected lengths from 1 to T = {num_steps}, found {lengths.min():g} to {lengths.max():g}")
