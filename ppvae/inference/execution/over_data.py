"""What the predictive verbs share: a pair asked over all data, chunk by chunk; the mean of its guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from .placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from .seeds import chunk_seed
from ...core import Data, ModelGuidePair, PairError, PpvaeError, draw, predict, structure
from ...core.compile import bind, capture, state_of
from ...core.conditioning import Rewired, held
from ...core.errors import did_you_mean, try_one_of
from ...core.structure import to_pyro
from ...data import Dataset, as_dataset, chunks

_WORTH_RECORDING = 20


class Work:
    """A pair and data on one device, and a captured function run over the data chunk by chunk.

    A dynamic binarisation is drawn once for all rows, by the seed.
    """

    def __init__(self, pair: ModelGuidePair, data: Any, device: str, seed: int) -> None:
        where = choose_device(device)
        self.original = pair.to(where)
        self.dtype = dtype_of(pair)
        self.seed = seed
        self.data = as_dataset(data, dtype=self.dtype).to(where).drawn(seed, dtype=self.dtype)
        self.few = self.batch(torch.arange(min(2, len(self.data)), device=where))
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            self.global_means: Mapping[str, Tensor] = _global_means(pair, self.few)
            self.pair = held(pair, self.few, dict(self.global_means) or None)
        self.state = state_of(pair)

    def batch(self, index: Tensor) -> Data:
        return like_pair(self.data.batch(index, dtype=self.dtype), self.dtype)

    def run(
        self,
        function: Callable[..., dict[str, Tensor]],
        chunk_size: int,
        compile: Compile,
        passes: int = 1,
        *,
        beside: Mapping[str, Any] | None = None,
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
                torch.manual_seed(chunk_seed(self.seed, number))
                x = self.batch(index)
                structure(self.pair, x)
                if prepare is not None:
                    prepare(x)
                more = () if beside is None else (rows_of(beside, index),)
                found = call(self.state, x, *more)
                for _ in range(passes - 1):
                    again = call(self.state, x, *more)
                    found = {key: value + again[key] for key, value in found.items()}
                for key, value in found.items():
                    parts.setdefault(key, []).append((value / passes if passes > 1 else value)[:valid].cpu())
        return {key: torch.cat(values) for key, values in parts.items()}


class GuideMean:
    """An estimate of every local latent's mean, to be averaged over ``passes`` calls (one where it is exact)."""

    def __init__(self, work: Work, num_samples: int) -> None:
        positive("num_samples", num_samples)
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
        except PairError:
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


def rows_of(tensors: Any, index: Tensor) -> Any:
    """These rows of every tensor of a mapping, or of a mapping of such."""
    return tensors[index] if isinstance(tensors, Tensor) else {k: rows_of(v, index) for k, v in tensors.items()}


def rows_like(like: Any, num: int, dtype: torch.dtype) -> Dataset:
    """So many rows of the shape of some data, round and round."""
    dataset = as_dataset(like, dtype=dtype).drawn(0, dtype=dtype)  # only its shape and its covariates matter
    index = torch.arange(num, device=dataset.device) % len(dataset)
    return Dataset(dataset.batch(index, dtype=dtype), name=dataset.name)


def _global_means(pair: ModelGuidePair, x: Data) -> dict[str, Tensor]:
    """The guide's mean of every global latent, by 1000 draws, 50 at a time; empty where there is none."""
    names = [info.name for info in structure(pair, x).global_latents]
    if not names:
        return {}
    draws = [draw(pair, x, 50).latents for _ in range(20)]
    return {name: torch.stack([one[name].mean(0) for one in draws]).mean(0) for name in names}


def observed_site(work: Work, asked: str | None, known: Collection[str] = ()) -> str:
    observed = structure(work.pair, work.few).observed
    names = [i.name for i in observed if i.scope == "local" and 0 not in i.event_shape and i.name not in known]
    return one_of(names, asked, "observed site")


def one_of(names: list[str], asked: str | None, what: str) -> str:
    if asked is not None and asked not in names:
        raise PairError(f"no {what} {asked!r}: {did_you_mean(asked, names)}")
    if asked is None and len(names) != 1:
        raise PairError(
            f"the pair has {len(names)} {what}s" + (try_one_of(*(f"site={name!r}" for name in names)) if names else "")
        )
    return asked if asked is not None else names[0]


def positive(name: str, value: int) -> None:
    if value < 1:
        raise PpvaeError(f"{name}: expected at least 1, found {value}")
