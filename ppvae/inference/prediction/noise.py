"""Noise that data went through: channels p(y | x), independent over entries, of which p(x | z, y) is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.distributions as td
from torch import Tensor

from ...core import DataError, PairError, SiteInfo
from ...core.errors import try_one_of
from ...core.wrappers import unwrap


@dataclass(frozen=True)
class Flips:
    r"""Every entry of binary data is flipped with probability $\epsilon$, whatever the others are.

    $$\Pr(x_i = 1 \mid z, y_i) = \frac{\theta_i\, \epsilon^{1 - y_i} (1 - \epsilon)^{y_i}}
      {\theta_i\, \epsilon^{1 - y_i} (1 - \epsilon)^{y_i} + (1 - \theta_i)\, \epsilon^{y_i} (1 - \epsilon)^{1 - y_i}}$$

    for $x_i \sim \mathrm{Bernoulli}(\theta_i(z))$: the logit of $\theta_i$ moves by
    $\pm \log((1 - \epsilon) / \epsilon)$.

    Args:
        probability: $\epsilon$, strictly between 0 and 1.

    Raises:
        DataError: another probability.

    >>> Flips(0.1).corrupt(torch.tensor([[0.0, 1.0, 1.0, 0.0]]), seed=3).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    """

    probability: float
    families: ClassVar[tuple[type[Any], ...]] = (td.Bernoulli,)
    binary: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise DataError(
                f"Flips: expected a probability strictly between 0 and 1, found {self.probability}"
                + try_one_of("inpaint, where what is seen is exact")
            )

    def corrupt(self, x: Tensor, seed: int = 0) -> Tensor:
        """y ~ p(y | x), of the shape of x."""
        flipped = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < self.probability
        return torch.where(flipped.to(x.device), 1 - x, x)

    def marginal(self, fn: Any) -> Any:
        r"""p(y | z) of every entry: a coin of $\epsilon + (1 - 2 \epsilon)\, \theta_i$."""
        return dist.Bernoulli(probs=self.probability + (1 - 2 * self.probability) * fn.probs)

    def posterior(self, fn: Any, value: Tensor, seen: Tensor) -> Any:
        """p(x | z, y) of every entry, y where it is seen."""
        odds = math.log((1 - self.probability) / self.probability)
        logits: Tensor = unwrap(fn).logits + (2 * value - 1) * odds * seen
        return dist.Bernoulli(logits=logits)


@dataclass(frozen=True)
class AdditiveNormal:
    r"""$y_i = x_i + \mathcal{N}(0, s^2)$ for every entry of real data.

    $$x_i \mid z, y_i \sim \mathcal{N}\Bigl(\frac{\mu_i / \sigma_i^2 + y_i / s^2}{1 / \sigma_i^2 + 1 / s^2},\
      \frac{1}{1 / \sigma_i^2 + 1 / s^2}\Bigr)$$

    for $x_i \sim \mathcal{N}(\mu_i(z), \sigma_i(z)^2)$.

    Args:
        scale: the standard deviation s, positive and finite, in the unit of the data.

    Raises:
        DataError: another scale.
    """

    scale: float
    families: ClassVar[tuple[type[Any], ...]] = (td.Normal,)
    binary: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise DataError(
                f"AdditiveNormal: expected a positive, finite scale (a standard deviation), found {self.scale}"
                + try_one_of("inpaint, where what is seen is exact")
            )

    def corrupt(self, x: Tensor, seed: int = 0) -> Tensor:
        """y ~ p(y | x), of the shape of x."""
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
        return x + self.scale * noise.to(x.device)

    def marginal(self, fn: Any) -> Any:
        r"""p(y | z) of every entry: $\mathcal{N}(\mu_i, \sigma_i^2 + s^2)$."""
        return dist.Normal(fn.loc, (fn.scale.square() + self.scale**2).sqrt())

    def posterior(self, fn: Any, value: Tensor, seen: Tensor) -> Any:
        """p(x | z, y) of every entry, y where it is seen."""
        normal = unwrap(fn)
        variance = normal.scale.square()
        gain = variance / (variance + self.scale**2) * seen  # 0 where nothing is seen
        return dist.Normal(normal.loc + gain * (value - normal.loc), (variance * (1 - gain)).sqrt())


Noise = Flips | AdditiveNormal


def require_channel(noise: Noise, info: SiteInfo) -> None:
    """Raise a PairError where p(x | z, y) of a site is not known in closed form."""
    if not isinstance(noise, Flips | AdditiveNormal):
        raise DataError(f"noise: expected a channel, found {noise!r}" + try_one_of("Flips(0.1)", "AdditiveNormal(0.5)"))
    if not info.is_a(*noise.families):
        expected = " or ".join(family.__name__ for family in noise.families)
        raise PairError(
            f"site {info.name!r}: {type(noise).__name__} is exact for a {expected}, found {info.family_name}, whose "
            "p(x | z, y) is not known in closed form"
            + try_one_of(
                "Flips(probability) for a Bernoulli",
                "AdditiveNormal(scale) for a Normal",
                "inpaint without noise, for any likelihood whose entries are independent",
            )
        )


def noise_of(sites: Sequence[SiteInfo], amount: float) -> tuple[Noise, str]:
    """The noise that is exact for an observed site, and what it does: flips for a Bernoulli, an added normal else.

    Raises:
        PairError: no such noise for this likelihood.
        DataError: an amount out of range.
    """
    if len(sites) == 1 and sites[0].is_a(*Flips.families):
        return Flips(amount), f"each entry flipped with probability {amount:g}"
    noise = AdditiveNormal(amount)
    for site in sites:
        require_channel(noise, site)
    return noise, f"noise of standard deviation {amount:g} added"
