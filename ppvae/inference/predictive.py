"""What a trained pair says: embed, reconstruct, decode, generate, denoise, inpaint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from .evidence.rewired import Rewired, held
from .evidence.run import chunk_seed
from .placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..core import (
    Data,
    DataError,
    ModelGuidePair,
    PairError,
    PpvaeError,
    draw,
    log_joint,
    predict,
    simulate,
    structure,
)
from ..core.compile import bind, capture, state_of
from ..core.errors import did_you_mean, try_one_of
from ..core.structure import to_pyro
from ..data import Dataset, as_dataset, chunks

Kind = Literal["mean", "sample"]

_WORTH_RECORDING = 20


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
    work = _Work(pair, data, device)
    name = _one_of([i.name for i in structure(work.pair, work.few).local_latents], site, "local latent site")
    means = _GuideMean(work, num_samples)
    found = work.run(lambda x: {"mean": means(x)[name]}, seed, chunk_size, compile, means.passes, prepare=means.prepare)
    return found["mean"]


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
    work = _Work(pair, data, device)
    shape = structure(work.pair, work.few)
    name = _observed(work, site)
    if num_samples is not None:
        _positive("num_samples", num_samples)

        def average(x: Data) -> dict[str, Tensor]:
            return {"x": predict(work.pair, x, draw(work.pair, x, 1).latents)[name][0]}

        return work.run(average, seed, chunk_size, compile, num_samples)["x"]
    for info in shape.model_latents:
        if info.is_discrete:
            raise PairError(
                f"site {info.name!r} is discrete: its mean is no value of it" + try_one_of("num_samples=100")
            )
    means = _GuideMean(work, 100)
    latents = work.run(means, seed, chunk_size, compile, means.passes, prepare=means.prepare)
    return decode(pair, latents, like=data, site=name, chunk_size=chunk_size, device=device, compile=compile)


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
    where = choose_device(device)
    first = next(iter(latents.values())) if isinstance(latents, Mapping) else latents
    work = _Work(pair, _rows_like(like, len(first)), device)
    shape = structure(work.pair, work.few)
    if isinstance(latents, Tensor):
        latents = {_one_of([info.name for info in shape.local_latents], None, "local latent site"): latents}
    values = {key: value.to(where, work.dtype) for key, value in latents.items()}
    name = _observed(work, site)

    def outcome(x: Data, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"x": predict(work.pair, x, z, kind=kind)[name]}

    return work.run(outcome, seed, chunk_size, compile, beside=values)["x"]


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
    _positive("num", num)
    work = _Work(pair, _rows_like(like, num), device)
    name = _observed(work, site)

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


def inpaint(
    pair: ModelGuidePair,
    data: Any,
    mask: Tensor,
    *,
    num_steps: int = 200,
    num_burn_in: int = 50,
    correction: bool = True,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Tensor:
    r"""Fill in what is missing: $\mathrm{E}[x_\text{mis} \mid x_\text{obs}]$ by a Markov chain, [N, *event].

    $$z \sim q(z \mid x_\text{obs}, x_\text{mis}),\qquad x_\text{mis} \sim p(x_\text{mis} \mid z)$$

    in turn (Rezende, Mohamed & Wierstra 2014, arXiv 1401.4082, appendix F: pseudo-Gibbs, exact only where the guide
    is the posterior). With ``correction`` the draw of z is accepted with probability
    $\min(1, \frac{p(x, z')\, q(z \mid x)}{p(x, z)\, q(z' \mid x)})$ (Mattei & Frellsen 2018, arXiv 1802.04826), which
    makes the chain exact for any guide that covers the posterior.

    Args:
        pair: the pair; x given z must be independent over the entries of x.
        data: the data, [N, *event]; what is missing may hold any number, NaN among them.
        mask: True where observed, of the shape of the data or broadcasting to it.
        num_steps: steps of the chain, those of the burn-in among them.
        num_burn_in: steps before the average begins.
        correction: accept or refuse each draw of z.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal.

    Returns:
        the data with the missing entries replaced by the average of $\mathrm{E}[x \mid z]$ over the chain.
    """
    if not 0 <= num_burn_in < num_steps:
        raise PpvaeError(f"inpaint: expected 0 <= num_burn_in < num_steps, found {num_burn_in} and {num_steps}")
    members = dict(data) if isinstance(data, Mapping) else None
    given = data.tensor() if isinstance(data, Dataset) else data
    if isinstance(given, Mapping) or members is not None:
        raise DataError("inpaint: expected one tensor of data, found a mapping: condition on its members")
    values = torch.as_tensor(given)
    try:
        seen = mask.to(values.device).bool().expand_as(values)
    except RuntimeError as error:
        raise DataError(
            f"inpaint: the mask {list(mask.shape)} does not broadcast to the data {list(values.shape)}"
        ) from error
    work = _Work(pair, values.where(seen, torch.zeros_like(values)), device)
    name = _observed(work, None)
    guide, simulator = _density_of_guide(work.pair), work.simulator
    structure(guide, work.few)

    def log_weight(x: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        return (log_joint(work.pair, x, z).local - log_joint(guide, x, z).local)[0]

    def step(x: Tensor, observed: Tensor, z: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        new = draw(work.pair, x, 1).latents
        if correction:
            odds = log_weight(x, new) - log_weight(x, z)
            keep = torch.rand_like(odds).log() > odds
            new = {key: torch.where(_like(keep, z[key][0]), z[key], new[key]) for key in new}
        drawn = predict(work.pair, x, new, kind="sample")[name][0]
        return torch.where(observed, x, drawn), predict(work.pair, x, new)[name][0], new

    mode = choose_mode(compile, num_steps * math.ceil(len(values) / chunk_size))
    run = capture(bind(pair, lambda _, *args: step(*args)), mode=mode, name="a step of inpainting")
    parts = []
    with torch.no_grad(), torch.random.fork_rng():
        for number, (index, valid) in enumerate(chunks(len(values), chunk_size, work.data.device)):
            torch.manual_seed(chunk_seed(seed, number))
            x = work.batch(index)
            assert isinstance(x, Tensor)
            observed = seen.to(x.device)[index]
            structure(guide, x)
            x = torch.where(observed, x, simulate(simulator, x).observed[name])
            z = draw(work.pair, x, 1).latents
            total = torch.zeros_like(x)
            for count in tqdm(range(num_steps), desc="inpaint", disable=None if progress else True):
                x, mean, z = run(work.state, x, observed, z)
                if count >= num_burn_in:
                    total += mean
            parts.append(torch.where(observed, x, total / (num_steps - num_burn_in))[:valid].cpu())
    return torch.cat(parts)


# --- below: what the verbs share ---------------------------------------------------------------------------------


class _Work:
    """A pair and data on one device, and a captured function run over the data chunk by chunk."""

    def __init__(self, pair: ModelGuidePair, data: Any, device: str) -> None:
        where = choose_device(device)
        self.original = pair.to(where)
        self.data = as_dataset(data).to(where)
        self.dtype = dtype_of(pair)
        self.few = self.batch(torch.arange(min(2, len(self.data)), device=where))
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            self.global_means: Mapping[str, Tensor] = _global_means(pair, self.few)
            self.pair = held(pair, self.few, dict(self.global_means) or None)
        self.state = state_of(pair)

    @property
    def simulator(self) -> ModelGuidePair:
        """The pair to simulate from: `simulate` would draw what is merely conditioned anew, so intervene."""
        if not self.global_means:
            return self.pair
        pair, values = self.original, cast("dict[str, Any]", dict(self.global_means))
        return Rewired(pair, model=pyro.do(pair.model, data=values), guide=pair.guide)

    def batch(self, index: Tensor) -> Data:
        generator = torch.Generator(device=self.data.device).manual_seed(0)
        return like_pair(self.data.batch(index, generator), self.dtype)

    def run(
        self,
        function: Callable[..., dict[str, Tensor]],
        seed: int,
        chunk_size: int,
        compile: Compile,
        passes: int = 1,
        *,
        beside: Mapping[str, Tensor] | None = None,
        prepare: Callable[[Data], None] | None = None,
    ) -> dict[str, Tensor]:
        """The average of ``function(batch[, beside])`` over so many passes, for all data, on the CPU."""
        calls = passes * math.ceil(len(self.data) / chunk_size)
        # Recording takes 0.2 s: a few calls do not pay for it.
        mode = "eager" if compile == "auto" and calls < _WORTH_RECORDING else choose_mode(compile, calls)
        call = capture(bind(self.original, lambda _, *args: function(*args)), mode=mode, name="prediction")
        parts: dict[str, list[Tensor]] = {}
        with torch.no_grad(), torch.random.fork_rng():
            for number, (index, valid) in enumerate(chunks(len(self.data), chunk_size, self.data.device)):
                torch.manual_seed(chunk_seed(seed, number))
                x = self.batch(index)
                structure(self.pair, x)
                if prepare is not None:
                    prepare(x)
                more = () if beside is None else ({key: value[index] for key, value in beside.items()},)
                found = call(self.state, x, *more)
                for _ in range(passes - 1):
                    again = call(self.state, x, *more)
                    found = {key: value + again[key] for key, value in found.items()}
                for key, value in found.items():
                    parts.setdefault(key, []).append((value / passes if passes > 1 else value)[:valid].cpu())
        return {key: torch.cat(values) for key, values in parts.items()}


class _GuideMean:
    """An estimate of every local latent's mean, to be averaged over ``passes`` calls (one where it is exact)."""

    def __init__(self, work: _Work, num_samples: int) -> None:
        _positive("num_samples", num_samples)
        self.pair = pair = work.pair
        self.drawn: dict[str, Tensor] = {}
        # The guide as a model whose sites are observed: the waist's `predict` then gives its distributions' means.
        self.reader = Rewired(
            pair,
            model=lambda x, n: pyro.condition(pair.guide, data=self.drawn)(x, n),
            guide=lambda x, n: None,
        )
        shape = structure(pair, work.few)
        self.names = [info.name for info in shape.local_latents]
        self.known = True
        try:
            with torch.no_grad(), torch.random.fork_rng():
                self.prepare(work.few)
                self.known = all(bool(torch.isfinite(v).all()) for v in self(work.few).values())
        except (NotImplementedError, AttributeError):
            self.known = False
        one = len(shape.guide_latents) == 1 and all(site.kind == "latent" for site in shape.guide)
        self.passes = 1 if self.known and one else num_samples

    def prepare(self, x: Data) -> None:
        """Find the reader's structure, eagerly."""
        if self.known:
            with torch.random.fork_rng():
                self._draw(x)
                structure(self.reader, x)

    def __call__(self, x: Data) -> dict[str, Tensor]:
        """Site name to [B, *event]."""
        latents = self._draw(x)
        if not self.known:
            return {name: latents[name][0] for name in self.names}
        means = predict(self.reader, x, {})
        return {name: means[name] for name in self.names}

    def _draw(self, x: Data) -> dict[str, Tensor]:
        shape = structure(self.pair, x)
        latents = draw(self.pair, x, 1).latents
        self.drawn.update({i.name: to_pyro(latents[i.name], i, shape.nesting) for i in shape.guide_latents})
        return latents


def _density_of_guide(pair: ModelGuidePair) -> ModelGuidePair:
    """The guide as a model of its own, so that the waist's ``log_joint`` is log q(z | x)."""
    return Rewired(pair, model=lambda x, n: pair.guide(x, n), guide=lambda x, n: pair.guide(x, n))


def _rows_like(like: Any, num: int) -> Dataset:
    """So many rows of the shape of some data, round and round."""
    dataset = as_dataset(like)
    index = torch.arange(num, device=dataset.device) % len(dataset)
    rows = dataset.batch(index, torch.Generator(device=dataset.device).manual_seed(0))
    return Dataset(rows, name=dataset.name)


def _global_means(pair: ModelGuidePair, x: Data) -> dict[str, Tensor]:
    """The guide's mean of every global latent, by 1000 draws, 50 at a time; empty where there is none."""
    names = [info.name for info in structure(pair, x).global_latents]
    if not names:
        return {}
    draws = [draw(pair, x, 50).latents for _ in range(20)]
    return {name: torch.stack([one[name].mean(0) for one in draws]).mean(0) for name in names}


def _observed(work: _Work, asked: str | None) -> str:
    observed = structure(work.pair, work.few).observed
    return _one_of([info.name for info in observed if info.scope == "local"], asked, "observed site")


def _one_of(names: list[str], asked: str | None, what: str) -> str:
    if asked is not None and asked not in names:
        raise PairError(f"no {what} {asked!r}: {did_you_mean(asked, names)}")
    if asked is None and len(names) != 1:
        raise PairError(
            f"the pair has {len(names)} {what}s" + (try_one_of(*(f"site={name!r}" for name in names)) if names else "")
        )
    return asked if asked is not None else names[0]


def _like(flag: Tensor, value: Tensor) -> Tensor:
    """A flag per datum, [B], with the axes of a value [B, *event]."""
    return flag.reshape(-1, *(1,) * (value.dim() - 1))


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise PpvaeError(f"{name}: expected at least 1, found {value}")


__all__ = ["decode", "denoise", "embed", "generate", "inpaint", "reconstruct"]
