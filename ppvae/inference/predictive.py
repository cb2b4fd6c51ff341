"""What a trained pair says: embed, reconstruct, decode, generate, denoise, inpaint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from .arguments import require_literal
from .asking import GuideMean, Work, observed_site, one_of, positive, rows_like
from .inpainting import inpaint
from .placement import Compile, choose_device, dtype_of
from ..core.modes import in_evaluation_mode
from ..core import (
    Data,
    ModelGuidePair,
    PairError,
    draw,
    predict,
    simulate,
    structure,
)
from ..core.errors import try_one_of

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

    Exact where the guide has one latent site whose distribution knows its mean; otherwise an average over draws (of
    conditional means where they are known). Global latents are held at the guide's mean, here and below.

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
    work = Work(pair, data, device)
    name = one_of([i.name for i in structure(work.pair, work.few).local_latents], site, "local latent site")
    means = GuideMean(work, num_samples)
    found = work.run(lambda x: {"mean": means(x)[name]}, seed, chunk_size, compile, means.passes, prepare=means.prepare)
    return found["mean"]


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
    r"""What the model makes of every datum's latents: $\mathrm{E}[x \mid \bar z_b]$ at the guide's mean, [N, *event].

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
        PairError: an unknown site, several and none named, or discrete latents without ``num_samples``.
    """
    work = Work(pair, data, device)
    shape = structure(work.pair, work.few)
    name = observed_site(work, site)
    if num_samples is not None:
        positive("num_samples", num_samples)

        def average(x: Data) -> dict[str, Tensor]:
            return {"x": predict(work.pair, x, draw(work.pair, x, 1).latents)[name][0]}

        return work.run(average, seed, chunk_size, compile, num_samples)["x"]
    for info in shape.model_latents:
        if info.is_discrete:
            raise PairError(
                f"site {info.name!r} is discrete: its mean is no value of it" + try_one_of("num_samples=100")
            )
    means = GuideMean(work, 100)
    latents = work.run(means, seed, chunk_size, compile, means.passes, prepare=means.prepare)
    return decode(pair, latents, like=data, site=name, chunk_size=chunk_size, device=device, compile=compile)


@in_evaluation_mode
def denoise(
    pair: ModelGuidePair,
    data: Any,
    *,
    num_samples: int = 32,
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""A corrupted datum as the model sees it: $\mathrm{E}_{q(z \mid \tilde x_b)} \mathrm{E}[x \mid z]$, [N, *event].

    Kingma & Welling 2013 (arXiv 1312.6114, section 2.1) name denoising as a use of the model; this is
    :func:`reconstruct`, averaged over the posterior. Arguments as there.
    """
    return reconstruct(
        pair,
        data,
        num_samples=num_samples,
        site=site,
        seed=seed,
        chunk_size=chunk_size,
        device=device,
        compile=compile,
    )


@in_evaluation_mode
def decode(
    pair: ModelGuidePair,
    latents: Tensor | Mapping[str, Tensor],
    *,
    like: Any,
    kind: Kind = "mean",
    site: str | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
) -> Tensor:
    r"""The mean of $p(x \mid z_m)$, or a draw from it, at given latents, [M, *event].

    Args:
        pair: the pair.
        latents: [M, *event] where there is one local latent site, or a mapping of a value for each.
        like: data of the right shape; their values matter only as covariates (row m of M, round and round).
        kind: "mean" or "sample".
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: latents at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
    """
    require_literal("kind", kind, Kind)
    where = choose_device(device)
    first = next(iter(latents.values())) if isinstance(latents, Mapping) else latents
    work = Work(pair, rows_like(like, len(first), dtype_of(pair)), device)
    shape = structure(work.pair, work.few)
    if isinstance(latents, Tensor):
        latents = {one_of([info.name for info in shape.local_latents], None, "local latent site"): latents}
    values = {key: value.to(where, work.dtype) for key, value in latents.items()}
    name = observed_site(work, site)

    def outcome(x: Data, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"x": predict(work.pair, x, z, kind=kind)[name]}

    return work.run(outcome, seed, chunk_size, compile, beside=values)["x"]


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

    Args:
        pair: the pair.
        num: how many.
        like: data of the right shape, see :func:`decode`.
        kind: "mean" or "sample".
        site: an observed site; None where there is one only.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
    """
    positive("num", num)
    require_literal("kind", kind, Kind)
    work = Work(pair, rows_like(like, num, dtype_of(pair)), device)
    name = observed_site(work, site)

    simulator = work.simulator
    local = [info.name for info in structure(work.pair, work.few).local_latents]

    def outcome(x: Data) -> dict[str, Tensor]:
        drawn = simulate(simulator, x)
        if kind == "sample":
            return {"x": drawn.observed[name]}
        return {"x": predict(work.pair, x, {key: drawn.latents[key] for key in local})[name]}

    def prepare(x: Data) -> None:
        structure(simulator, x)

    return work.run(outcome, seed, chunk_size, compile, prepare=prepare)["x"]


__all__ = ["decode", "denoise", "embed", "generate", "inpaint", "reconstruct"]
