"""Mixtures of normals as priors, with a log density that is two matrix products whatever the number of components."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import linear

from .conditional import ConditionalDistribution
from ..core.errors import PpvaeError, try_one_of

_NO_SHAPE = torch.Size()


class DiagonalNormalMixture(dist.TorchDistribution):
    r"""$p(z) = \sum_k \pi_k\, \mathcal{N}(z; \mu_k, \mathrm{diag}\,\sigma_k^2)$ over vectors.

    With $m_k = \mu_k - c$ and $y = z - c$, where $c$ is the mean of the $\mu_k$,

    $$\log \mathcal{N}(z; \mu_k, \sigma_k) = -\tfrac12 \bigl( y^2 \cdot \sigma_k^{-2} - 2\, y \cdot m_k \sigma_k^{-2}
      + \sum_d m_{kd}^2 \sigma_{kd}^{-2} \bigr) - \sum_d \log \sigma_{kd} - \tfrac{Z}{2} \log 2\pi,$$

    of which the terms in $y$ are one matrix product: no tensor holds draws, components and dimensions together. The
    differences cost digits: the error is about the rounding unit times $\sum_d (m_{kd}^2 + y_d^2) / \sigma_{kd}^2$ of
    the component that counts, in nats (in float32, where means spread over 2, scales are about 0.1 and Z is 40: 0.001
    on average, 0.008 at most in a thousand draws).

    Draws carry no gradient to the parameters: the component is discrete. A prior needs none.

    Args:
        logits: $\log \pi$ up to a constant, [K], or [*batch, K] where the weights differ from datum to datum.
        loc: $\mu$, [K, Z].
        scale: $\sigma$, standard deviations, [K, Z], positive.
    """

    arg_constraints = {  # noqa: RUF012 - as torch declares it
        "logits": constraints.real_vector,
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
    }
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None) -> None:
        if loc.dim() != 2 or scale.shape != loc.shape or logits.shape[-1:] != loc.shape[:1]:
            raise PpvaeError(
                "DiagonalNormalMixture: expected logits [*batch, K], loc [K, Z] and scale [K, Z], found "
                f"{list(logits.shape)}, {list(loc.shape)} and {list(scale.shape)}"
            )
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(logits.shape[:-1], loc.shape[1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same mixture for every entry of a batch."""
        new: Any = self._get_checked_instance(DiagonalNormalMixture, _instance)  # type: ignore[no-untyped-call]
        new.logits, new.loc, new.scale = self.logits, self.loc, self.scale
        if self.logits.dim() > 1:
            new.logits = self.logits.expand(*batch_shape, self.logits.shape[-1])
        super(DiagonalNormalMixture, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """The mean, [*batch, Z]."""
        return (self.logits.softmax(-1) @ self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """The variance of every dimension, [*batch, Z]."""
        weights = self.logits.softmax(-1)
        loc = self.loc - self.loc.mean(0)
        variance = weights @ (loc.square() + self.scale.square()) - (weights @ loc).square()
        return variance.expand(self._extended_shape())

    def sample(self, sample_shape: Any = _NO_SHAPE) -> Tensor:
        """Draws, [*sample_shape, *batch, Z]: a component, then its normal."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            weights = dist.Categorical(logits=self.logits)
            component = weights.sample(shape[:-1] if self.logits.dim() == 1 else torch.Size(sample_shape))
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self.loc[component] + self.scale[component] * noise

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) at z [*S, *batch, Z], in nats."""
        if self._validate_args:
            self._validate_sample(value)
        per_component = self.component_log_prob(value) + self.logits.log_softmax(-1)
        log_density: Tensor = per_component.logsumexp(-1)
        return log_density.expand(torch.broadcast_shapes(log_density.shape, self.batch_shape))

    def component_log_prob(self, value: Tensor) -> Tensor:
        """log N(z; mu_k, sigma_k) of every component, [*S, K], at z [*S, Z]."""
        centre = self.loc.detach().mean(0)  # any point will do, so it carries no gradient
        loc, centred = self.loc - centre, value - centre
        precision = self.scale.square().reciprocal()
        slope = loc * precision
        constant = -0.5 * (loc * slope).sum(-1) - self.scale.log().sum(-1)
        constant = constant - 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        return linear(torch.cat([centred.square(), centred], -1), torch.cat([-0.5 * precision, slope], -1), constant)


class MixtureOfNormals(ConditionalDistribution):
    r"""$p(z) = \sum_k \pi_k\, \mathcal{N}(z; \mu_k, \mathrm{diag}\,\sigma_k^2)$, a prior with free $\pi, \mu, \sigma$.

    At the start the weights are equal and the means are drawn such that the mixture has the mean and the variance of a
    standard normal. It has no closed-form KL: use ``TraceELBO`` or ``TraceMeanFieldELBO(on_missing_kl="sample")``.

    Args:
        num_components: K.
        event_shape: Z, the number of latent dimensions.

    Raises:
        PpvaeError: no component, or an event of several axes.
    """

    def __init__(self, num_components: int, event_shape: int | Sequence[int]) -> None:
        super().__init__(event_shape)
        if num_components < 1:
            raise PpvaeError(f"MixtureOfNormals: expected at least one component, found {num_components}")
        require_vector(self)
        half = math.sqrt(0.5)  # of the variance is between the means, half within the components
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(half * torch.randn(num_components, *self.event_shape))
        self.log_scale = nn.Parameter(torch.full((num_components, *self.event_shape), math.log(half)))

    @staticmethod
    def from_parameters(weights: Tensor, loc: Tensor, scale: Tensor, *, trainable: bool = False) -> MixtureOfNormals:
        """The mixture of these weights [K], means [K, Z] and standard deviations [K, Z].

        Args:
            weights: of the components; they need not sum to one.
            loc: means.
            scale: standard deviations.
            trainable: go on training from there.

        Raises:
            PpvaeError: shapes that do not fit, or weights or scales that are not positive.
        """
        DiagonalNormalMixture(weights, loc, scale, validate_args=False)  # refuses shapes that do not fit
        for name, value in {"weights": weights, "scale": scale}.items():
            if not bool((value > 0).all()):
                raise PpvaeError(
                    f"MixtureOfNormals: expected positive {name}, found a minimum of {float(value.min()):g}"
                    + (try_one_of("leave the component out") if name == "weights" else "")
                )
        mixture = MixtureOfNormals(*loc.shape)
        mixture.logits.data = (weights / weights.sum()).log()
        mixture.loc.data, mixture.log_scale.data = loc.clone(), scale.log()
        return mixture.requires_grad_(trainable)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The mixture, whatever the context."""
        return DiagonalNormalMixture(self.logits, self.loc, self.log_scale.exp())


def require_vector(owner: ConditionalDistribution) -> None:
    """Raise a PpvaeError unless the event is a vector."""
    if len(owner.event_shape) != 1:
        raise PpvaeError(
            f"{type(owner).__name__}: expected a vector, an event_shape of one number, found {owner.event_shape}"
        )
