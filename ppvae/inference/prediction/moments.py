"""Predictions under a posterior over weights: variance from noise of the data, and from uncertainty of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..evidence.global_latents import weight_draws
from ..execution.arguments import choose_name
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, predict, structure
from ...core.conditioning import at_values
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


@dataclass(frozen=True, eq=False)
class PredictiveMoments:
    r"""Mean and variance of new data under the posterior of weights and latents, by the law of total variance.

    Attributes:
        mean: $\mathrm{E}[x^*]$, [N, *event].
        aleatoric: $\mathrm{E}_w \mathrm{Var}[x^* \mid w]$: noise of the likelihood and variance of the latents,
            which more training data would not reduce; variances, [N, *event].
        epistemic: $\mathrm{Var}_w \mathrm{E}[x^* \mid w]$: from the uncertainty of the weights. An unbiased
            estimate: it may be slightly negative where it is small.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @property
    def total(self) -> Tensor:
        """Variance of new data, [N, *event]."""
        return self.aleatoric + self.epistemic


@in_evaluation_mode
def predictive_moments(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_weights: int = 30,
    num_latents: int = 30,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 100,
    device: str = "auto",
    compile: Compile = "auto",
) -> PredictiveMoments:
    r"""Predictive mean and variance of every datum, over weights $w \sim q(w)$ and latents $z \sim q(z \mid x_b, w)$.

    $$\mathrm{Var}[x^*] = \underbrace{\mathrm{E}_w \mathrm{Var}[x^* \mid w]}_\text{aleatoric}
      + \underbrace{\mathrm{Var}_w \mathrm{E}[x^* \mid w]}_\text{epistemic}$$

    Other observed sites that this one depends on keep the datum's values.
    The noise of the finite number of latents is subtracted from the variance over weights, so that both parts are
    unbiased.

    Args:
        pair: a pair with global latents.
        data: the data, [N, *event].
        num_weights: draws of the weights, at least 2.
        num_latents: draws of the latents for each, at least 2 (1 where the pair has no local latents).
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: no global latents; an unknown site, or several and none named.
        PpvaeError: too few draws.
    """
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile)
    few = work.example
    shape = structure(pair, few)
    name = choose_name([info.name for info in shape.observed], site, "observed site")
    if not shape.global_latents:
        raise PairError(
            "the pair has no global latent, so nothing is unknown of its weights"
            + try_one_of("bayesianise(pair)", "ppvae.inference.reconstruct for the mean alone")
        )
    latents = num_latents if shape.local_latents else 1
    if num_weights < 2 or num_latents < (2 if shape.local_latents else 1):
        raise PpvaeError(
            "predictive_moments: expected at least 2 draws of weights and of latents, found "
            f"{num_weights} and {num_latents}"
        )
    values: dict[str, Tensor] = {}
    conditioned = at_values(pair, values)

    def at_weights(x: Data, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        values.update(weights)
        z = draw(conditioned, x, latents).latents
        local = {info.name: z[info.name] for info in shape.local_latents}
        mean = predict(conditioned, x, local, kind="mean", sites=(name,))[name]
        noise = predict(conditioned, x, local, kind="variance", sites=(name,))[name]
        if not local:
            return mean, noise, torch.zeros_like(noise)
        between = mean.var(0)
        return mean.mean(0), noise.mean(0) + between, between / latents

    draws = weight_draws(pair, few, num_weights, seed)
    call = work.capture(at_weights, name="prediction", calls=num_weights * work.num_chunks)

    def moments(x: Data) -> dict[str, Tensor]:
        means, inner, noise = zip(*(call(x, weights) for weights in draws), strict=True)
        mean = torch.stack(means)
        epistemic = mean.var(0) - torch.stack(noise).mean(0)
        return {"mean": mean.mean(0), "aleatoric": torch.stack(inner).mean(0), "epistemic": epistemic}

    return PredictiveMoments(**work.run(moments))
