"""A pair asked for whole data sets again and again, each with weights of its own where they have a posterior."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor

from ..execution.over_data import one_of
from ..execution.placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..execution.run import pick
from ..execution.seeds import chunk_seed, seed_of
from ...core import Data, ModelGuidePair, PairError, check_pair, draw, structure
from ...core.compile import bind, capture, state_of
from ...core.conditioning import Rewired
from ...core.density import observed_support
from ...core.structure import SiteInfo, to_canonical
from ...data import as_dataset, chunks

Parts = dict[str, Tensor]


class Replicator:
    """A pair and data, all of which are gone through many times.

    Attributes:
        data: the data set as it was given.
        x: its rows as the model sees them; a dynamic binarisation is drawn once.
        given: the pair at the weights of this replicate; the pair itself where it has no global latents.
        weights: the global latents' values, for further programs of the same pair.
    """

    def __init__(self, pair: ModelGuidePair, data: Any, device: str, seed: int) -> None:
        self.device = choose_device(device)
        self.original = pair.to(self.device)
        dtype = dtype_of(pair)
        self.data = as_dataset(data, dtype=dtype).to(self.device)
        rows = torch.arange(len(self.data), device=self.device)
        self.x: Data = like_pair(self.data.drawn(seed, dtype=dtype).batch(rows, dtype=dtype), dtype)
        self.few = pick(self.x, rows[:2])
        check_pair(pair, self.few)
        self.shape = structure(pair, self.few)
        self.names = [info.name for info in self.shape.global_latents]
        self.weights: dict[str, Any] = {}
        self.given: ModelGuidePair = pair
        if self.names:
            # The values are looked up when a program runs, so that they are arguments of what is captured.
            self.given = Rewired(
                pair,
                model=lambda x, n: pyro.condition(pair.model, data=self.weights)(x, n),
                guide=lambda x, n: pyro.condition(pair.guide, data=self.weights)(x, n),
            )

    def __len__(self) -> int:
        return len(self.data)

    def draw_weights(self) -> Parts:
        """Put other weights, drawn from the guide, in their place."""
        if self.names:
            latents = draw(
                self.original, pick(self.x, torch.zeros(1, dtype=torch.int64, device=self.device)), 1
            ).latents
            self.weights.update({name: latents[name][0] for name in self.names})
        return {name: self.weights[name] for name in self.names}

    def observed(self, asked: str | None, chunk_size: int) -> tuple[SiteInfo, str, Tensor]:
        """The observed site of this name (None where there is one only), its support, and its values, [N, *event].

        Raises:
            PairError: an unknown site, several and none named, or one whose distribution does not say its support.
        """
        names = [info.name for info in self.shape.observed if info.scope == "local"]
        name = one_of(names, asked, "observed site")
        parts: list[Tensor] = []
        support = ""
        for index, valid in chunks(len(self), chunk_size, self.device):
            x = pick(self.x, index)
            shape = structure(self.original, x)
            found = observed_support(self.original, x)
            if name not in found:
                raise PairError(f"observed site {name!r}: its distribution does not say where its values lie")
            _, base, value = found[name]
            support = str(base)
            parts.append(to_canonical(value, shape.site(name), shape.nesting, 1)[0, :valid])
        return self.shape.site(name), support, torch.cat(parts)

    def each(
        self,
        function: Callable[..., Parts],
        num: int,
        visit: Callable[[Parts], None],
        *,
        seed: int,
        chunk_size: int,
        compile: Compile,
        beside: Mapping[str, Tensor] | None = None,
        prepare: Callable[[Data], None] | None = None,
    ) -> None:
        """Hand ``function(x, beside)``, of all data and on the CPU, to ``visit``, so many times.

        Args:
            function: of a batch and the rows of ``beside``, to tensors [B, ...]; it is captured.
            num: how many times.
            visit: called with name to [N, ...].
            seed: of the draws.
            chunk_size: data at a time.
            compile: see :func:`ppvae.core.compile.capture`.
            beside: tensors [N, ...].
            prepare: called with every batch before it, eagerly: finds the structures of further programs.
        """
        size = len(self)
        # Without weights nothing is shared by the data of one replicate: small data sets go through side by side.
        rounds, rows = (num, size) if self.names else (1, num * size)
        calls = rounds * math.ceil(rows / chunk_size)
        mode = "eager" if compile == "auto" and calls < 20 else choose_mode(compile, calls)

        def at_weights(_: Any, x: Data, weights: Parts, more: Parts) -> Parts:
            self.weights.update(weights)
            return function(x, more)

        call = capture(bind(self.original, at_weights), mode=mode, name="replicates")
        state = state_of(self.original)
        waiting: list[Parts] = []
        number = 0
        with torch.no_grad(), torch.random.fork_rng():
            for turn in range(rounds):
                weights: Parts = {}
                if self.names:
                    torch.manual_seed(chunk_seed(seed_of(seed, "weights"), turn))
                    weights = self.draw_weights()
                for index, valid in chunks(rows, chunk_size, self.device):
                    torch.manual_seed(chunk_seed(seed, number))
                    number += 1
                    index = index % size
                    x = pick(self.x, index)
                    structure(self.given, x)
                    if prepare is not None:
                        prepare(x)
                    more = {key: value[index] for key, value in (beside or {}).items()}
                    found = call(state, x, weights, more)
                    waiting.append({key: value[:valid].cpu() for key, value in found.items()})
                    waiting = _handed_over(waiting, size, visit)


def _handed_over(waiting: list[Parts], size: int, visit: Callable[[Parts], None]) -> list[Parts]:
    """Hand over as many whole data sets as there are; what is left of the rows."""
    count = sum(len(next(iter(part.values()))) for part in waiting)
    if count < size:
        return waiting
    joined = {key: torch.cat([part[key] for part in waiting]) for key in waiting[0]}
    start = 0
    while start + size <= count:
        visit({key: value[start : start + size] for key, value in joined.items()})
        start += size
    return [{key: value[start:] for key, value in joined.items()}] if start < count else []
