"""Randomised quantile residuals: is every single value as probable as the model says, given the datum's latents?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..execution.arguments import require_integer
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ..prediction.guide_mean import observed_site
from ..prediction.observed_values import observed_values
from ...core import Data, ModelGuidePair, PairError, draw, predict, structure
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


@dataclass(frozen=True, eq=False)
class QuantileResiduals:
    """Where every value stands among those that the model draws in its place.

    Attributes:
        site: the observed site.
        level: the quantile level of every value, in (0, 1), [N, *event], float64; NaN where it is masked out.
        location: the mean of the value and the draws in its place, [N, *event]: a choice of entries by it, such as
            those of which more than nothing is expected, leaves the levels uniform.
        num_replicates: R.
    """

    site: str
    level: Tensor
    location: Tensor
    num_replicates: int

    @property
    def normal(self) -> Tensor:
        r"""$\Phi^{-1}$ of the levels, standard normal under the right model and the right posterior, [N, *event]."""
        values: Tensor = torch.special.ndtri(self.level)
        return values

    def __repr__(self) -> str:
        known = self.normal[self.level.isfinite()]
        return (
            f"QuantileResiduals({self.site!r}, {known.numel()} values of {len(self.level)} data: "
            f"mean {float(known.mean()):.3f}, standard deviation {float(known.std()):.3f})"
        )


@in_evaluation_mode
def quantile_residuals(
    pair: ModelGuidePair,
    data: Any,
    *,
    site: str | None = None,
    num_replicates: int = 100,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> QuantileResiduals:
    r"""The quantile level of every value of the data among draws of the model at the datum's own latents.

    $$z_b \sim q(z \mid x_b),\qquad x_{br} \sim p(x \mid z_b),\ r = 1, \ldots, R,\qquad
      u_{bi} = \frac{\#\{r : x_{bri} < x_{bi}\} + U_{bi}\,(\#\{r : x_{bri} = x_{bi}\} + 1)}{R + 1}$$

    with $U_{bi}$ uniform: randomised quantile residuals (Dunn & Smyth 1996), whose distribution function is that of the
    draws, so that any likelihood has them. If the data are the model's and the guide is the exact posterior, then $x_b$
    and its replicates are exchangeable, and every $u_{bi}$ is uniform, for any R; those of one datum depend on each
    other. The same latents are drawn once for all replicates of a datum. Too many levels near 0 and 1 are counts that
    vary more than the model says; too many in the middle, less.

    Limitations: a guide that is not the posterior shows here as well as a wrong model. Levels resolve steps of
    1 / (R + 1).

    Args:
        pair: the pair; global latents are fixed at the guide's mean.
        data: the data, [N, *event].
        site: an observed site; None where there is one only. Other sites that it depends on keep the datum's values.
        num_replicates: R.
        seed: of all draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site; or discrete latents that are summed out, which every replicate would draw anew.

    >>> import torch
    >>> from ppvae.models import GammaPoisson
    >>> pair = GammaPoisson(3)  # its guide is the exact posterior
    >>> x = torch.poisson(torch.ones(200, 3), generator=torch.Generator().manual_seed(0))
    >>> quantile_residuals(pair, x).level.shape
    torch.Size([200, 3])
    """
    require_integer("num_replicates", num_replicates, 1)
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    name, shape = observed_site(work, site), structure(work.pair, work.example)
    if shape.enumerated:
        raise PairError(
            f"site {shape.enumerated[0].name!r} is summed out: a replicate would draw it anew, and would be closer to "
            "the datum than to the model" + try_one_of("posterior_checks(pair, data), which compares data sets")
        )
    values, present = observed_values(work, name)[1:]

    def latents_of(x: Data) -> dict[str, Tensor]:
        latents = draw(work.pair, x, 1).latents
        return {info.name: latents[info.name][0] for info in shape.local_latents}

    def replicate(x: Data, z: Mapping[str, Tensor]) -> Tensor:
        return predict(work.pair, x, z, kind="sample", sites=(name,))[name]

    start = work.capture(latents_of, name="latents", calls=work.num_chunks)
    call = work.capture(replicate, name="a replicate", calls=num_replicates * work.num_chunks)

    def visit(x: Data, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = beside["x"]
        less, equal, total = (torch.zeros_like(own, dtype=torch.float64) for _ in range(3))
        z = start(x)
        for _ in range(num_replicates):
            new = call(x, z)
            less += new < own
            equal += new == own
            total += new
        noise = torch.rand_like(less)
        return {"level": (less + noise * (equal + 1)) / (num_replicates + 1), "location": (total + own)}

    found = work.run(visit, beside={"x": values.to(work.device)})
    level = found["level"].clamp(2.0**-53, 1 - 2.0**-53)  # uniform draws may be 0
    if present is not None:
        level = level.where(present, torch.nan)
    return QuantileResiduals(name, level, found["location"] / (num_replicates + 1), num_replicates)
