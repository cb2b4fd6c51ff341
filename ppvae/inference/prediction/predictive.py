"""Predictions of a trained pair: embed, reconstruct, decode, generate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor
from torch.distributions import Categorical

from .guide_mean import GuideMean, latent_site, observed_site
from .joint import require_mean
from ..execution.arguments import choose_name, require_integer, require_literal
from ..execution.over_data import OverData, rows_like
from ..execution.placement import Compile, to
from ...core import (
    Data,
    ModelGuidePair,
    PairError,
    draw,
    predict,
    simulate,
    structure,
)
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable

Kind = Literal["mean", "sample"]


@in_evaluation_mode
def embed(
    pair: ModelGuidePair,
    data: Any,
    *,
    site: str | None = None,
    num_samples: int = 100,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""The mean of the guide, $\mathrm{E}_{q(z \mid x_b)}[z]$, of every datum, [N, *event].

    Exact where the guide has one latent site whose distribution has a known mean; otherwise an average over draws (of
    conditional means where they are known). Global latents are fixed at the guide's mean, here and below.

    Args:
        pair: the pair.
        data: a Dataset, tensor, array or mapping, [N, *event].
        site: a local latent site; None where there is one only.
        num_samples: draws, where the mean is not known in closed form.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site, or several and none named.

    >>> import torch
    >>> from ppvae.models import FactorAnalysis
    >>> pair, x = FactorAnalysis(4, 2), torch.randn(3, 4)
    >>> bool(torch.allclose(embed(pair, x), pair.posterior(x).mean, atol=1e-5))
    True
    """
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    shape = structure(work.pair, work.example)
    name = latent_site(shape, site)
    if shape.site(name).is_a(Categorical):
        raise PairError(
            f"site {name!r} is Categorical, and its classes are names: expected a latent that has a mean"
            + try_one_of("OneHotCategorical, whose mean is the classes' probabilities")
        )
    means = GuideMean(work, num_samples)
    result = work.average(lambda x: {"mean": means(x)[name]}, passes=means.passes)
    return result["mean"]


@in_evaluation_mode
def reconstruct(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_samples: int | None = None,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""The mean of x at every datum's latents: $\mathrm{E}[x \mid \bar z_b]$ at the guide's mean, [N, *event].

    Where the site depends on other observed sites, these keep the values of the datum:
    $\mathrm{E}[x \mid \bar z_b, x_b^\text{other}]$.

    Args:
        pair: the pair.
        data: the data.
        num_samples: None for the guide's mean; or K, for the average of $\mathrm{E}[x \mid z]$ over K draws of the
            guide (the only way with discrete latents).
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site, several and none named, discrete latents without ``num_samples``, or a site whose
            distribution has no mean.
    """
    work = OverData(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    shape = structure(work.pair, work.example)
    name = observed_site(work, site)
    require_mean(work.pair, work.example, name, None)
    if num_samples is not None:
        require_integer("num_samples", num_samples, 1)

        def average(x: Data) -> dict[str, Tensor]:
            return {"x": predict(work.pair, x, draw(work.pair, x, 1).latents, sites=(name,), num_draws=1)[name][0]}

        return work.average(average, passes=num_samples)["x"]
    for info in shape.model_latents:
        if info.is_discrete:
            raise PairError(
                f"site {info.name!r} is discrete: its mean is no value of it" + try_one_of("num_samples=100")
            )
    means = GuideMean(work, 100)
    latents = work.average(means, passes=means.passes)
    beside = to(latents, work.device)

    def prediction(x: Data, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"x": predict(work.pair, x, z, sites=(name,))[name]}

    return work.average(prediction, beside=beside)["x"]


@in_evaluation_mode
def decode(
    pair: ModelGuidePair,
    latents: Tensor | Mapping[str, Tensor],
    *,
    like: Any,
    kind: Kind = "mean",
    given: Mapping[str, Tensor] | None = None,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""The mean of $p(x \mid z_m)$, or a draw from it, at given latents, [M, *event].

    Other observed sites that it depends on are drawn with it, or have the values in ``given``; a mean that depends on
    such a draw is an error.

    Args:
        pair: the pair.
        latents: [M, *event] where there is one local latent site, or a mapping of a value for each.
        like: data of the right shape; their values matter only as covariates (rows repeated cyclically up to M).
        kind: "mean" or "sample".
        given: other observed sites' values, site to [M, *event].
        site: an observed site; None where one is not given.
        seed: of the draws.
        chunk_size: latents at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: an unknown site, several and none named; a model that cannot be simulated; a mean that the site does
            not have, or that depends on another observed site.
    """
    require_literal("kind", kind, Kind)
    if isinstance(latents, Mapping) and not latents:
        raise PairError(
            "latents: expected a value for every local latent site, found none"
            + try_one_of("generate, where the pair has no local latent site", "embed, for latents of data")
        )
    first = next(iter(latents.values())) if isinstance(latents, Mapping) else latents
    rows = rows_like(like, len(first), pair)
    work = OverData(pair, rows, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    shape = structure(work.pair, work.example)
    if isinstance(latents, Tensor):
        latents = {choose_name([info.name for info in shape.local_latents], None, "local latent site"): latents}
    values, conditions = (to(part, work.device, work.dtype) for part in (latents, given or {}))
    name = observed_site(work, site, exclude=conditions)
    require_simulable(work.pair, work.example)
    if kind == "mean":
        size = shape.batch
        require_mean(work.pair, work.example, name, {key: value[:size] for key, value in conditions.items()})

    def prediction(x: Data, beside: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {"x": predict(work.pair, x, beside["z"], kind=kind, given=beside["given"], sites=(name,))[name]}

    return work.average(prediction, beside={"z": values, "given": conditions})["x"]


@in_evaluation_mode
def generate(
    pair: ModelGuidePair,
    num: int,
    *,
    like: Any,
    kind: Kind = "mean",
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""New data: $z \sim p(z)$, then the mean of $p(x \mid z)$ or a draw from it, [num, *event].

    A draw is joint with all other observed sites. A mean that depends on another observed site is an error: draw them
    together with ``kind="sample"``, or fix that site by :func:`~ppvae.inference.predict_given`.

    Args:
        pair: the pair.
        num: number of draws.
        like: data of the right shape, see :func:`decode`.
        kind: "mean" or "sample".
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.

    Raises:
        PairError: as for :func:`decode`.
    """
    require_integer("num", num, 1)
    require_literal("kind", kind, Kind)
    rows = rows_like(like, num, pair)
    work = OverData(pair, rows, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    name = observed_site(work, site)
    require_simulable(work.pair, work.example)
    if kind == "mean":
        require_mean(work.pair, work.example, name, {})

    def prediction(x: Data) -> dict[str, Tensor]:
        sample = simulate(work.pair, x)
        if kind == "sample":
            return {"x": sample.observed[name]}
        return {"x": predict(work.pair, x, sample.latents, given={}, sites=(name,))[name]}

    return work.average(prediction)["x"]
