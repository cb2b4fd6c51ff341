"""Likelihoods of counts p(x | z): Poisson, negative binomial, with extra zeros, multinomial."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from . import count_densities as densities
from .conditional import ConditionalDistribution, Head, declare_positive, independent, require_context
from ..core.errors import DataError, PpvaeError, try_one_of


def split_context(context: tuple[Tensor, ...], owner: nn.Module, last: str) -> tuple[tuple[Tensor, ...], Tensor]:
    """What goes to the trunk, and the last context, which is a number for every datum such as an exposure.

    Args:
        context: of a conditional distribution.
        owner: the distribution.
        last: what the last context is, as an error calls it.

    Raises:
        PpvaeError: no context beside the last.
        DataError: numbers that are negative or not finite, where Pyro validates.
    """
    others = require_context(context, owner)[:-1]
    if not others:
        raise PpvaeError(
            f"{type(owner).__name__}: expected contexts for its trunk and then {last}, found one context"
            + try_one_of(f'.given("z", "{last}")')
        )
    value = context[-1]
    # By value, and so never in a captured graph: the waist validates before it captures.
    if dist.is_validation_enabled() and not bool(((value >= 0) & value.isfinite()).all()):
        raise DataError(
            f"{last}: expected numbers that are finite and not negative, found from {value.min():g} to {value.max():g}"
            + try_one_of(f"totals of the data, x.sum(-1), as the {last}")
        )
    return others, value


def for_each_datum(value: Tensor, batch_shape: torch.Size, what: str) -> Tensor:
    """A number for each datum, [*S] or [*S, 1], as a tensor that broadcasts with [*S].

    Raises:
        DataError: another shape.
    """
    rank, found = len(batch_shape), value
    if value.dim() and value.shape[-1] == 1 and (value.dim() > rank or batch_shape[-1:] != (1,)):
        value = value[..., 0]
    pairs = zip(reversed(value.shape), reversed(batch_shape), strict=False)
    if value.dim() > rank or any(1 not in (one, other) and one != other for one, other in pairs):
        raise DataError(
            f"{what}: expected one number for each datum, {[*batch_shape]} or {[*batch_shape, 1]}, "
            f"found {list(found.shape)}" + try_one_of("x.sum(-1), the totals of the data [B, D]")
        )
    return value


class _Counts(ConditionalDistribution):
    r"""Counts of mean $\mu_i = t\,e^{h_i(z)}$, with the exposure t of each datum."""

    def __init__(self, trunk: nn.Module, event_shape: int | Sequence[int], parameters: int, exposure: bool) -> None:
        super().__init__(event_shape)
        self.exposure = exposure
        self.head = Head(trunk, self.event_shape, parameters)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event] and, with an exposure, that of each datum, [*S]."""
        if not self.exposure:
            log_mean, *others = self.head(*require_context(context, self))
        else:
            given, exposure = split_context(context, self, "exposure")
            log_mean, *others = self.head(*given)
            batch_shape = log_mean.shape[: log_mean.dim() - len(self.event_shape)]
            exposure = for_each_datum(exposure, batch_shape, "exposure")
            log_mean = log_mean + exposure.log().reshape(*exposure.shape, *(1,) * len(self.event_shape))
        return independent(self.counts(log_mean, *others), self.event_shape)

    @abstractmethod
    def counts(self, log_mean: Tensor, *others: Tensor) -> Any:
        """The distribution of each element, from the logarithm of its mean and what else the head gives."""


class Poisson(_Counts):
    r"""$x_i \mid z \sim \mathrm{Poisson}(t\,e^{h_i(z)})$ with the head's output h and the exposure t.

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape.
        exposure: the last context is t, a number for each datum, [*S] or [*S, 1], such as the total count of a cell
            (its library size), a duration or an area; False for t = 1.

    >>> import torch
    >>> from ppvae.networks import MLP
    >>> likelihood = Poisson(MLP(2, []), 3, exposure=True)
    >>> z, exposure = torch.zeros(4, 2), torch.tensor([1.0, 10.0, 100.0, 1000.0])
    >>> rate = likelihood(z, exposure).mean
    >>> torch.allclose(rate[3], 1000 * rate[0])
    True
    """

    def __init__(self, trunk: nn.Module, event_shape: int | Sequence[int], *, exposure: bool = False) -> None:
        super().__init__(trunk, event_shape, 1, exposure)

    def counts(self, log_mean: Tensor, *others: Tensor) -> Any:
        """Poisson of this mean."""
        return densities.Poisson(log_mean)


class _Dispersed(_Counts):
    """Counts with a dispersion; the head gives each element so many numbers, and one more if it is conditional."""

    log_dispersion: Tensor
    _num_parameters = 1

    def __init__(
        self,
        trunk: nn.Module,
        event_shape: int | Sequence[int],
        *,
        dispersion: Literal["per-dimension", "shared", "conditional"] | float = "per-dimension",
        exposure: bool = False,
    ) -> None:
        super().__init__(trunk, event_shape, self._num_parameters + (dispersion == "conditional"), exposure)
        declare_positive(self, "dispersion", dispersion, self.event_shape)


class NegativeBinomial(_Dispersed):
    r"""Counts of mean $\mu_i = t\,e^{h_i(z)}$ and variance $\mu_i + \alpha_i\,\mu_i^2$.

    $$p(x_i \mid z) = \frac{\Gamma(x_i + 1/\alpha_i)}{x_i!\,\Gamma(1/\alpha_i)}
      \frac{(\alpha_i\mu_i)^{x_i}}{(1 + \alpha_i\mu_i)^{x_i + 1/\alpha_i}}$$

    which is the Poisson's as the dispersion $\alpha$ goes to zero: a Poisson whose rate is $\mu_i$ times a Gamma of
    mean 1 and variance $\alpha_i$. PyTorch's ``total_count`` is $1/\alpha$, the inverse dispersion.

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape.
        dispersion: alpha: "per-dimension" (free, one an element), "shared" (free, one for all), "conditional" (a
            function of z, for every element), or a number (fixed).
        exposure: as for :class:`Poisson`.

    Raises:
        PpvaeError: an unknown dispersion, or one that is not positive.
    """

    def counts(self, log_mean: Tensor, *others: Tensor) -> Any:
        """Negative binomial of this mean; others: the logarithm of a conditional dispersion."""
        return _negative_binomial(log_mean, *(others or (self.log_dispersion,)))


class ZeroInflatedNegativeBinomial(_Dispersed):
    r"""$x_i \mid z$ is zero with probability $\pi_i(z)$, and else of :class:`NegativeBinomial`: counts that drop out.

    Its mean is $(1 - \pi_i)\,\mu_i$; the head gives h and $\mathrm{logit}\,\pi$.

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        event_shape: the number of dimensions, or a shape.
        dispersion: as for :class:`NegativeBinomial`.
        exposure: as for :class:`Poisson`.

    Raises:
        PpvaeError: an unknown dispersion, or one that is not positive.
    """

    _num_parameters = 2

    def counts(self, log_mean: Tensor, *others: Tensor) -> Any:
        """Of this mean where it has not dropped out; others: logits of dropping out, and a conditional dispersion."""
        gate_logits, *dispersion = others
        base = _negative_binomial(log_mean, *(dispersion or (self.log_dispersion,)))
        return densities.ZeroInflated(base, gate_logits=gate_logits)


class Multinomial(ConditionalDistribution):
    r"""Word counts of a document given its total, $x \mid z, n \sim \mathrm{Multinomial}(n, \mathrm{softmax}\,h(z))$.

    $$\log p(x \mid z, n) = \log n! - \sum_v \log x_v! + \sum_v x_v \log p_v(z)$$

    Counts of another total than n have probability zero. The total is no part of the model: it is given, by the data,
    for the density and for draws alike.

    Args:
        trunk: a network from the latent to features, with ``out_features``.
        num_words: V.
        total: None where the last context is n, a number for each datum, [*S] or [*S, 1]; or the total of all data.

    Raises:
        PpvaeError: a total below zero.
    """

    def __init__(self, trunk: nn.Module, num_words: int, *, total: int | None = None) -> None:
        super().__init__(num_words)
        if total is not None and total < 0:
            raise PpvaeError(f"Multinomial: expected a total of at least 0, found {total}")
        self.total = total
        self.head = Head(trunk, self.event_shape, 1)

    def forward(self, *context: Tensor) -> dist.TorchDistribution:
        """The distribution given latents [*S, *latent event] and the total of each datum, [*S], if it is not fixed."""
        if self.total is not None:
            (logits,) = self.head(*require_context(context, self))
            return densities.Multinomial(torch.full_like(logits[..., 0], self.total), logits)
        given, total = split_context(context, self, "total")
        (logits,) = self.head(*given)
        return densities.Multinomial(for_each_datum(total, logits.shape[:-1], "total"), logits)


def _negative_binomial(log_mean: Tensor, log_dispersion: Tensor) -> densities.NegativeBinomial:
    return densities.NegativeBinomial((-log_dispersion).exp(), logits=log_mean + log_dispersion)
