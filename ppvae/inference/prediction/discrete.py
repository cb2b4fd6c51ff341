"""Discrete latents that are summed out, asked for: their posterior of every datum, and draws of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from .classes import DiscretePosterior
from .guide_average import WeightedMean, Weights, at_draws_of_guide, blocks_of, in_blocks
from ..evidence.outcome import Outcome
from ..evidence.weights import from_weights, mean_of_series
from ..execution.arguments import choose_name, require_integer, require_literal
from ..execution.over_data import OverData
from ..execution.placement import Compile, to
from ..hmc.draws import PosteriorDraws
from ...core import (
    Data,
    ModelGuidePair,
    PpvaeError,
    SiteInfo,
    batch_size,
    discrete_marginals,
    discrete_sites,
    draw,
    draw_discrete,
    structure,
)
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...data import as_dataset


@in_evaluation_mode
def discrete_posterior(
    pair: ModelGuidePair,
    data: Any,
    *,
    draws: PosteriorDraws | None = None,
    num_samples: int = 100,
    weights: Weights = "guide",
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> DiscretePosterior:
    r"""The posterior probability of every value of the discrete latents of every datum, $p(y \mid x_b)$.

    For a site of the model that is summed out, averaged over the other latents. With ``weights="guide"``,

    $$\mathrm{E}_{q(z \mid x)}\, p(y \mid x, z) \approx \frac{1}{S} \sum_s p(y \mid x, z_s),\qquad
      z_s \sim q(z \mid x)$$

    which is the posterior of $p(y \mid x, z)\, q(z \mid x)$: exact if the guide is, and otherwise that of the guide,
    however many draws are taken. With ``weights="importance"``, draws are weighted,

    $$p(y \mid x) = \frac{\mathrm{E}_q[w\, p(y \mid x, z)]}{\mathrm{E}_q[w]},\qquad
      w = \frac{p(x, z)}{q(z \mid x)}$$

    so that many draws reach the posterior of the model whatever the guide; in many dimensions a few draws have all the
    weight (:attr:`DiscretePosterior.outcome`). The guide is the default, because this is how a trained pair is used as
    a classifier: by its amortised posterior, as :func:`embed` and all other predictions use it, and with an error that
    is known at any dimension. With ``draws``, the average is over draws of HMC from the posterior of the model.

    A discrete site that the *guide* draws and marks ``infer={"enumerate": "parallel"}`` has the posterior
    $q(y \mid x)$; with ``weights="importance"`` that of the model as well, since all values of y are then weighted.

    Global latents are fixed at the guide's mean, or at those of ``draws``.

    Args:
        pair: the pair.
        data: a Dataset, tensor, array or mapping, [N, *event].
        draws: of :func:`sample_posterior`, of this pair and these data; all are used, save those of failed chains.
        num_samples: S, draws of the guide; one where there is nothing to average over, and the result is exact.
        weights: "guide" or "importance", how draws of the guide count.
        site: a discrete site; None for all.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: the pair has no such site, or none of this name; importance weights that are joint over the data.
        PpvaeError: draws of another pair, or of another number of data.

    >>> from ppvae.models import HiddenMarkovModel
    >>> pair = HiddenMarkovModel.from_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.7, 0.3], [0.1, 0.9]]
    ... )
    >>> x = torch.tensor([[0, 0, 1], [1, 1, 1]])
    >>> posterior = discrete_posterior(pair, x)
    >>> bool(torch.allclose(posterior.probabilities["y_2"], pair.discrete_posterior(x)[:, 2]))
    True
    >>> posterior.values["y_2"].tolist()
    [0, 1]
    """
    require_integer("num_samples", num_samples, 1)
    require_literal("weights", weights, Weights)
    if draws is not None:
        if weights != "guide":
            raise PpvaeError("weights: draws of the posterior need none" + try_one_of("no weights=", "no draws="))
        over = _over_draws(pair, data, draws, device, seed, chunk_size, compile)
        return _from_draws(over, draws, _chosen(over, site))
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    infos = _chosen(work, site)
    names, shape = [info.name for info in infos], structure(work.pair, work.example)
    if weights == "importance":
        shape.require_weights_per_datum('discrete_posterior(weights="importance")', 'weights="guide"')
    drawn = [info.name for info in shape.guide if info.kind != "observed"]
    # What stands first in the guide depends on no draw of it.
    exact = not drawn or (weights == "guide" and set(drawn[: len(names)]) == set(names))
    support = {name: discrete_sites(work.pair, work.example)[name].values for name in names}
    # All values of the guide's sites together are one draw.
    blocks = [1] if exact else [1] * num_samples if shape.guide_enumerated else blocks_of(work, num_samples)
    call = in_blocks(work, blocks, lambda x, size: at_draws_of_guide(work.pair, x, size, support, weights))

    def visit(x: Data) -> dict[str, Tensor]:
        totals, log_weights = {name: WeightedMean() for name in names}, []
        for log_w, values in call(x):
            log_weights.append(log_w)
            for name in names:
                totals[name].add(values[name], log_w)
        moments = {name: total.result() for name, total in totals.items()}
        return {"log_w": torch.cat(log_weights).mT, **_columns(work, x, infos, moments)}

    columns = work.run(visit)
    log_w = columns.pop("log_w").mT
    size, outcome = torch.full((len(work),), float(sum(blocks))), torch.zeros(len(work), dtype=torch.int64)
    if weights == "importance" and not exact:
        judged = from_weights(log_w)
        size, outcome = judged.effective_sample_size, judged.outcome
    if exact:
        for name in names:
            columns[f"error {name}"] = 0 * columns[f"mean {name}"]
    return _gathered(columns, support, weights, size, outcome, work.dtype)


@in_evaluation_mode
def sample_discrete(
    pair: ModelGuidePair,
    data: Any,
    *,
    draws: PosteriorDraws | None = None,
    num_samples: int = 100,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> dict[str, Tensor]:
    r"""Draws of every datum's discrete latents, joint over sites: $z \sim q(z \mid x_b)$, $y \sim p(y \mid x_b, z)$.

    A site that the guide draws and marks ``infer={"enumerate": "parallel"}`` is drawn from the guide.

    Args:
        pair: the pair; global latents are fixed as for :func:`discrete_posterior`.
        data: a Dataset, tensor, array or mapping, [N, *event].
        draws: of :func:`sample_posterior`, one draw of y for each of them: S is the number of chains times that of
            their draws, chain by chain. Those of failed chains are no draws of the posterior
            (:attr:`PosteriorDraws.ok`).
        num_samples: S, where there are no ``draws``.
        site: a discrete site; None for all.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Returns:
        site to values, [S, N, *nested, *event], on the CPU. Entries that are masked out (where a label is given) mean
        nothing.

    Raises:
        PairError, PpvaeError: as :func:`discrete_posterior`.

    >>> from ppvae.models import HiddenMarkovModel
    >>> pair = HiddenMarkovModel.from_parameters(
    ...     initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], probs=[[0.7, 0.3], [0.1, 0.9]]
    ... )
    >>> paths = sample_discrete(pair, torch.tensor([[0, 0, 1], [1, 1, 1]]), num_samples=5)
    >>> sorted(paths), paths["y_2"].shape
    (['y_0', 'y_1', 'y_2'], torch.Size([5, 2]))
    """
    require_integer("num_samples", num_samples, 1)
    if draws is not None:
        work = _over_draws(pair, data, draws, device, seed, chunk_size, compile)
        names = [info.name for info in _chosen(work, site)]
        return {k: v.movedim(0, 1) for k, v in _at_draws(work, draws, draw_discrete, names).items()}
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    names = [info.name for info in _chosen(work, site)]
    summed = bool(structure(work.pair, work.example).enumerated)

    def some(x: Data, size: int) -> dict[str, Tensor]:
        latents = draw(work.pair, x, size).latents
        values = {**latents, **(draw_discrete(work.pair, x, latents, num_draws=size) if summed else {})}
        return {name: values[name] for name in names}

    call = in_blocks(work, blocks_of(work, num_samples), some)

    def visit(x: Data) -> dict[str, Tensor]:
        parts = list(call(x))
        return {name: torch.cat([part[name] for part in parts]).movedim(0, 1) for name in names}

    return {name: value.movedim(0, 1) for name, value in work.run(visit).items()}


# --- below: what is averaged ------------------------------------------------------------------------------------------


def _chosen(work: OverData, site: str | None) -> list[SiteInfo]:
    """The sites asked for."""
    shape, names = structure(work.pair, work.example), list(discrete_sites(work.pair, work.example))
    names = names if site is None else [choose_name(names, site, "discrete site")]
    return [info for info in (*shape.enumerated, *shape.guide_enumerated) if info.name in names]


def _columns(
    work: OverData, x: Data, infos: list[SiteInfo], moments: Mapping[str, tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Mean and error by name; NaN where a site is masked out."""
    sites = discrete_sites(work.pair, x) if any(info.masked for info in infos) else {}
    columns = {}
    for name, pair_of in moments.items():
        for kind, value in zip(("mean", "error"), pair_of, strict=True):
            present = sites[name].present[..., None] if name in sites else torch.tensor(True, device=value.device)
            columns[f"{kind} {name}"] = value.where(present, math.nan)
    return columns


def _gathered(
    columns: Mapping[str, Tensor],
    support: Mapping[str, Tensor],
    weights: Literal["guide", "importance", "draws"],
    size: Tensor,
    outcome: Tensor,
    dtype: torch.dtype,
) -> DiscretePosterior:
    means, errors = ({name: columns[f"{kind} {name}"].to(dtype) for name in support} for kind in ("mean", "error"))
    return DiscretePosterior(
        means, errors, {name: value.cpu() for name, value in support.items()}, weights, size.to(dtype), outcome
    )


# --- below: at draws of HMC -------------------------------------------------------------------------------------------


def _over_draws(
    pair: ModelGuidePair,
    data: Any,
    draws: PosteriorDraws,
    device: str,
    seed: int,
    chunk_size: int,
    compile: Compile,
) -> OverData:
    """The pair and the data of these draws."""
    if draws.pair is not pair and vars(draws.pair).get("_pair") is not pair:
        raise PpvaeError("draws: expected draws of this pair" + try_one_of("draws=sample_posterior(pair, data)"))
    found, expected = batch_size(draws.x), len(as_dataset(data))
    if found != expected:
        raise PpvaeError(
            f"draws: expected those of {expected} data, found {found}"
            + try_one_of("draws=sample_posterior(pair, data)")
        )
    return OverData(draws.pair, draws.x, device=device, seed=seed, chunk_size=chunk_size, compile=compile)


def _from_draws(work: OverData, draws: PosteriorDraws, infos: list[SiteInfo]) -> DiscretePosterior:
    chains, number = draws.unconstrained.shape[:2]
    support = {info.name: discrete_sites(work.pair, work.example)[info.name].values for info in infos}

    def reduce(x: Data, values: Mapping[str, Tensor], good: Tensor) -> dict[str, Tensor]:
        moments, sizes = {}, []
        for name, value in values.items():
            series = value.reshape(chains, number, *value.shape[1:]).double()
            mean, variance, size = mean_of_series(series, good)
            lost = ~good.any(0).reshape(-1, *(1,) * (mean.dim() - 1))
            moments[name] = mean.masked_fill(lost, math.nan), variance.sqrt().masked_fill(lost, math.nan)
            sizes.append(size.flatten(1).amin(1))
        return {"size": torch.stack(sizes).amin(0), **_columns(work, x, infos, moments)}

    columns = _at_draws(work, draws, discrete_marginals, list(support), reduce)
    lost = ~draws.ok.any(0).cpu()
    outcome = torch.where(lost, int(Outcome.DIVERGED), int(Outcome.OK))
    return _gathered(columns, support, "draws", columns["size"].masked_fill(lost, 0.0), outcome, work.dtype)


def _at_draws(
    work: OverData,
    draws: PosteriorDraws,
    function: Callable[[ModelGuidePair, Data, Mapping[str, Tensor]], dict[str, Tensor]],
    names: list[str],
    reduce: Callable[[Data, Mapping[str, Tensor], Tensor], dict[str, Tensor]] | None = None,
) -> dict[str, Tensor]:
    """``function(pair, x, latents)`` at all draws, [S, B, ...]: as [N, S, ...], or reduced for each chunk of data."""
    latents = {name: value.flatten(0, 1).movedim(0, 1) for name, value in draws.samples.items()}  # [N, S, *event]
    beside: dict[str, Any] = {"z": to(latents, work.device), "good": to({"good": draws.ok.mT}, work.device)}
    total = draws.unconstrained.shape[:2].numel()
    size = blocks_of(work, total)[0]
    call = work.capture(
        lambda x, z: {k: v for k, v in function(work.pair, x, z).items() if k in names},
        name="prediction",
        calls=math.ceil(total / size) * work.num_chunks,
    )

    def visit(x: Data, beside: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        parts = []
        for at in range(0, total, size):
            z = {name: value[:, at : at + size].movedim(0, 1) for name, value in beside["z"].items()}
            parts.append(call(x, z))
        values = {name: torch.cat([part[name] for part in parts]) for name in names}
        if reduce is None:
            return {name: value.movedim(0, 1) for name, value in values.items()}
        return reduce(x, values, beside["good"]["good"].mT)

    return work.run(visit, beside=beside)
