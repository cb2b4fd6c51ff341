"""Replicated data sets of a pair, each with its own draw of the weights where they have a posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..execution.arguments import choose_name
from ..execution.over_data import Chunk, OverData, over_chunks
from ..execution.placement import Compile
from ..execution.seeds import chunk_seed, seed_of
from ..prediction.observed_values import ObservedValues, observed_values
from ...core import Data, ModelGuidePair, check_pair, draw, rows_of, structure
from ...core.conditioning import at_values
from ...core.site import SiteInfo

Parts = dict[str, Tensor]


class Replicator(OverData):
    """A pair and data, for many passes over all data.

    Attributes:
        shape: the pair's structure.
        pair: the pair at the weights of this replicate; the original pair where it has no global latents.
        weights: the values of the global latents, for further programs of the same pair.
    """

    def __init__(
        self, pair: ModelGuidePair, data: Any, *, device: str, seed: int, chunk_size: int, compile: Compile
    ) -> None:
        super().__init__(pair, data, device=device, seed=seed, chunk_size=chunk_size, compile=compile)
        check_pair(pair, self.example)
        self.shape = structure(pair, self.example)
        self.names = [info.name for info in self.shape.global_latents]
        self.weights: dict[str, Any] = {}
        if self.names:
            self.pair = at_values(pair, self.weights)

    def draw_weights(self) -> Parts:
        """Replace the weights by a draw from the guide."""
        if self.names:
            latents = draw(self.original, self.batch(torch.zeros(1, dtype=torch.int64)), 1).latents
            self.weights.update({name: latents[name][0] for name in self.names})
        return {name: self.weights[name] for name in self.names}

    def observed(self, site: str | None) -> tuple[SiteInfo, ObservedValues]:
        """The observed site of this name (None where there is one only), and its data.

        Raises:
            PairError: an unknown site, several and none named, or one whose distribution does not say its support.
        """
        names = [info.name for info in self.shape.observed if info.scope == "local"]
        name = choose_name(names, site, "observed site")
        return self.shape.site(name), observed_values(self, name)

    def each(
        self,
        function: Callable[..., Parts],
        num: int,
        visit: Callable[[Parts], None],
        *,
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Call ``visit`` with ``function(x, beside)`` of all data, on the CPU, ``num`` times.

        Args:
            function: of a batch and the rows of ``beside``, to tensors [B, ...]; it is captured.
            num: how many times.
            visit: called with name to [N, ...].
            beside: tensors [N, ...].
        """
        size = len(self)
        # Without weights nothing is shared by the data of one replicate: small data sets go through side by side.
        rounds, rows = (num, size) if self.names else (1, num * size)

        def at_weights(x: Data, weights: Parts, more: Parts) -> Parts:
            self.weights.update(weights)
            return function(x, more)

        call = self.capture(at_weights, name="replicates", calls=rounds * -(-rows // self.chunk_size))
        waiting: list[Parts] = []
        weights: Parts = {}

        def visit_chunk(chunk: Chunk) -> None:
            nonlocal waiting
            index = chunk.rows % size
            parts = call(self.batch(index), weights, rows_of(beside or {}, index))
            waiting.append({key: value[: chunk.valid].cpu() for key, value in parts.items()})
            waiting = _hand_over(waiting, size, visit)

        for turn in range(rounds):
            if self.names:
                with torch.no_grad(), torch.random.fork_rng():
                    torch.manual_seed(chunk_seed(seed_of(self.seed, "weights"), turn))
                    weights = self.draw_weights()
            over_chunks(rows, self.chunk_size, visit_chunk, seed=seed_of(self.seed, turn), device=self.device)


def _hand_over(waiting: list[Parts], size: int, visit: Callable[[Parts], None]) -> list[Parts]:
    """Visit every complete data set; the rows that remain."""
    count = sum(len(next(iter(part.values()))) for part in waiting)
    if count < size:
        return waiting
    rows = {key: torch.cat([part[key] for part in waiting]) for key in waiting[0]}
    start = 0
    while start + size <= count:
        visit({key: value[start : start + size] for key, value in rows.items()})
        start += size
    return [{key: value[start:] for key, value in rows.items()}] if start < count else []
