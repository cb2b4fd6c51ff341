"""Predictions under a posterior over weights: what is noise of the data, and what is not known of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from .evidence import Evidence, log_evidence
from .evidence.base import EvidenceMethod
from .evidence.rewired import Rewired
from .evidence.run import chunk_seed
from .placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..core import Data, ModelGuidePair, PairError, PpvaeError, draw, predict, structure
from ..core.compile import bind, capture, state_of
from ..core.errors import did_you_mean, try_one_of
from ..data import as_dataset, chunks


@dataclass(frozen=True, eq=False)
class PredictiveMoments:
    r"""Mean and variance of new data under the posterior of weights and latents, by the law of total variance.

    Attributes:
        mean: $\mathrm{E}[x^*]$, [N, *event].
        aleatoric: $\mathrm{E}_w \mathrm{Var}[x^* \mid w]$: noise of the likelihood and spread of the latents,
            which more training data would not take away; variances, [N, *event].
        epistemic: $\mathrm{Var}_w \mathrm{E}[x^* \mid w]$: what is not known of the weights. An unbiased
            estimate: it may be slightly negative where it is small.
    """

    mean: Tensor
    aleatoric: Tensor
    epistemic: Tensor

    @property
    def total(self) -> Tensor:
        """Variance of new data, [N, *event]."""
        return self.aleatoric + self.epistemic


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
    r"""What the model makes of every datum, averaged over weights $w \sim q(w)$ and latents $z \sim q(z \mid x_b, w)$.

    $$\mathrm{Var}[x^*] = \underbrace{\mathrm{E}_w \mathrm{Var}[x^* \mid w]}_\text{aleatoric}
      + \underbrace{\mathrm{Var}_w \mathrm{E}[x^* \mid w]}_\text{epistemic}$$

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
    where = choose_device(device)
    pair.to(where)
    dataset = as_dataset(data).to(where)
    dtype = dtype_of(pair)

    def batch(index: Tensor) -> Data:
        return like_pair(dataset.batch(index, torch.Generator(device=where).manual_seed(0), dtype=dtype), dtype)

    few = batch(torch.arange(min(2, len(dataset)), device=where))
    shape = structure(pair, few)
    name = _observed([info.name for info in shape.observed], site)
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
    holder: dict[str, Tensor] = {}
    # One pair for all draws: its structure is found once, and the weights are arguments of what is captured.
    fixed = Rewired(
        pair,
        model=lambda x, n: pyro.condition(pair.model, data=holder)(x, n),
        guide=lambda x, n: pyro.condition(pair.guide, data=holder)(x, n),
    )

    def given_weights(x: Data, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        holder.update(weights)
        z = draw(fixed, x, latents).latents
        local = {info.name: z[info.name] for info in shape.local_latents}
        mean = predict(fixed, x, local, kind="mean")[name]
        noise = predict(fixed, x, local, kind="variance")[name]
        if not local:
            return mean, noise, torch.zeros_like(noise)
        spread = mean.var(0)
        return mean.mean(0), noise.mean(0) + spread, spread / latents

    found: list[list[Tensor]] = [[], [], []]
    parts = list(chunks(len(dataset), chunk_size, where))
    mode = choose_mode(compile, num_weights * len(parts))
    run = capture(bind(pair, lambda _, *args: given_weights(*args)), mode=mode, name="prediction")
    state = state_of(pair)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = _weight_draws(pair, few, num_weights)
        for number, (index, valid) in enumerate(parts):
            torch.manual_seed(chunk_seed(seed, number))
            x = batch(index)
            holder.update({key: value[0] for key, value in drawn.items()})
            structure(fixed, x)
            means, inner, noise = zip(
                *(run(state, x, {key: value[k] for key, value in drawn.items()}) for k in range(num_weights)),
                strict=True,
            )
            mean = torch.stack(means)
            columns = (mean.mean(0), torch.stack(inner).mean(0), mean.var(0) - torch.stack(noise).mean(0))
            for column, value in zip(found, columns, strict=True):
                column.append(value[:valid].cpu())
    return PredictiveMoments(*(torch.cat(column) for column in found))


def evidence_over_weights(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_weights: int = 10,
    method: EvidenceMethod | None = None,
    seed: int = 0,
    **options: Any,
) -> Evidence:
    r"""The posterior predictive density of every datum, averaged over draws of the weights.

    $$\log p(x_b \mid \mathcal{D}) \approx \log \frac{1}{S} \sum_{s=1}^{S} \hat p(x_b \mid w_s),\qquad w_s \sim q(w)$$

    It is a lower bound in expectation on $\log \mathrm{E}_{q(w)}[p(x_b \mid w)]$ where the method's own estimate is
    (Jensen), and grows with S. It is about data that q(w) was not fitted on; for training data it is no evidence of
    the model, which has integrated the weights out over the *prior*.

    Args:
        pair: a pair with global latents.
        data: held-out data.
        num_weights: S.
        method: as for :func:`log_evidence`.
        seed: of the weights and of the method.
        **options: as for :func:`log_evidence` (``device``, ``compile``, ``memory_budget``, ``progress``).

    Returns:
        Evidence whose standard error adds up that of the method and that of the choice of weights (delta method).
    """
    if num_weights < 1:
        raise PpvaeError(f"num_weights: expected at least 1, found {num_weights}")
    if "global_sites" in options:
        raise PpvaeError("evidence_over_weights draws the global sites itself: leave global_sites out")
    dataset = as_dataset(data)
    where = next((p.device for p in pair.parameters()), torch.device("cpu"))
    first = like_pair(dataset.batch(torch.arange(1), torch.Generator().manual_seed(0)), dtype_of(pair))
    few = first.to(where) if isinstance(first, Tensor) else {key: value.to(where) for key, value in first.items()}
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        drawn = _weight_draws(pair, few, num_weights)
    parts = [
        log_evidence(
            pair,
            data,
            method=method,
            seed=chunk_seed(seed, k),
            global_sites={key: value[k] for key, value in drawn.items()},
            **options,
        )
        for k in range(num_weights)
    ]
    logs = torch.stack([part.log_evidence for part in parts])
    average = logs.logsumexp(0) - math.log(num_weights)
    relative = (logs - average).exp()  # p(x | w_s) over their mean
    within = torch.stack([(relative[k] * part.standard_error).square() for k, part in enumerate(parts)]).sum(0)
    between = relative.var(0) / num_weights if num_weights > 1 else torch.zeros_like(average)
    error = (within.nan_to_num() / num_weights**2 + between).sqrt()
    bound = parts[0].bound
    return replace(
        parts[0],
        log_evidence=average,
        standard_error=error,
        effective_sample_size=torch.stack([part.effective_sample_size for part in parts]).sum(0),
        pareto_k=torch.stack([part.pareto_k for part in parts]).amax(0),
        bound="lower" if bound in ("exact", "lower") else "consistent",
        outcome=torch.stack([part.outcome for part in parts]).amax(0),
        seconds=sum(part.seconds for part in parts),
        info={**parts[0].info, "seed": seed, "global_sites": f"{num_weights} draws"},
    )


def _weight_draws(pair: ModelGuidePair, x: Data, count: int) -> dict[str, Tensor]:
    names = [info.name for info in structure(pair, x).global_latents]
    if not names:
        raise PairError("the pair has no global latent" + try_one_of("bayesianise(pair)", "log_evidence"))
    one = x[:1] if isinstance(x, Tensor) else {key: value[:1] for key, value in x.items()}
    latents = draw(pair, one, count).latents
    return {name: latents[name] for name in names}


def _observed(names: list[str], asked: str | None) -> str:
    if asked is not None and asked not in names:
        raise PairError(f"no observed site {asked!r}: {did_you_mean(asked, names)}")
    if asked is None and len(names) != 1:
        raise PairError(f"the pair has {len(names)} observed sites" + try_one_of(*(f"site={name!r}" for name in names)))
    return asked or names[0]
