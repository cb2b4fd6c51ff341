"""Runs a pair over data: chunk by chunk, each with a seed of its own, on one device."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .arguments import require_integer
from .execution import Execution
from .placement import Compile, choose_device, dtype_of, like_pair
from .progress import progress_bar
from .seeds import chunk_seed
from ...core import Data, ModelGuidePair, rows_of, structure
from ...core.checks import check_programs
from ...core.conditioning import hold_sites
from ...core.parts import waits_for_data
from ...data import Dataset, as_dataset, chunks

T = TypeVar("T")


class Chunk(NamedTuple):
    """Some rows of the data.

    Attributes:
        number: from 0.
        rows: indices into the data, [M]; M is the same for all chunks, the last one padded by its last row.
        valid: number of rows that count, the first ones.
        seed: of this chunk's noise, already set in PyTorch's generator.
    """

    number: int
    rows: Tensor
    valid: int
    seed: int


def over_chunks(
    num_data: int,
    size: int,
    visit: Callable[[Chunk], T],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    progress: str | None = None,
    results: list[T] | None = None,
    numbers: Collection[int] | None = None,
) -> list[T]:
    """The results of ``visit`` for every chunk, without gradients; the caller's random state is not changed.

    A chunk's noise depends on the seed and its number alone, so that interrupted work continues to the same numbers.

    Args:
        num_data: N.
        size: data in a chunk at most.
        visit: called once for each chunk.
        seed: of all noise.
        device: of the work and of the rows.
        progress: label of a bar; None for none.
        results: the list to append to, so that the caller has the finished chunks after an interruption; None for a
            new one.
        numbers: of the chunks to visit; None for all.
    """
    results = [] if results is None else results
    parts = list(enumerate(chunks(num_data, size, device)))
    if numbers is not None:
        parts = [part for part in parts if part[0] in numbers]
    bar = progress_bar(parts, desc=progress, unit="chunk", show=bool(progress), leave=False)
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), bar:
        for number, (rows, valid) in bar:
            noise = chunk_seed(seed, number)
            torch.manual_seed(noise)
            results.append(visit(Chunk(number, rows, valid, noise)))
    return results


class OverData(Execution):
    """A pair and data on one device, and functions of both run over all data.

    A dynamic binarisation is drawn once for all rows, by the seed.

    Attributes:
        data: the data, on the device.
        seed: of all noise.
        needs_all_data: whether the pair has parameters for every datum, so that it runs on all data or not at all.
        chunk_size: data at a time at most; all, where the pair needs them.
        example: the first two data, as the pair sees them; all, where the pair needs them.

    Raises:
        PairError: the pair's programs state no densities, or fail.
        PpvaeError: an unknown device or mode, or a chunk size below 1.
        DataError: data that cannot be used.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        data: Any,
        *,
        device: str | torch.device = "auto",
        seed: int = 0,
        chunk_size: int = 1000,
        compile: Compile = "auto",
        at_mean: bool = False,
    ) -> None:
        """``at_mean``: fix the pair's global sites at the guide's mean."""
        require_integer("chunk_size", chunk_size, 1)
        where = choose_device(device)
        super().__init__(pair.to(where), device=where, compile=compile)
        self.seed, self.chunk_size = seed, chunk_size
        self.data: Dataset = as_dataset(data, dtype=self.dtype).to(where).binarize(seed, dtype=self.dtype)
        self.example = self.batch(torch.arange(min(2, len(self.data)), device=where))
        self.needs_all_data = self._needs_all()
        if self.needs_all_data:
            self.example, self.chunk_size = self.batch(torch.arange(len(self), device=where)), len(self)
        check_programs(pair, self.example)
        if at_mean:
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(0)
                self.pair = hold_sites(pair, self.example, "mean")

    def __len__(self) -> int:
        return len(self.data)

    def _needs_all(self) -> bool:
        """Whether the pair has parameters for every datum: on two of them it cannot be run, or not yet."""
        if len(self) <= 2:
            return False
        if waits_for_data(self.original):
            return True
        adopted = frozenset(self.original.adopted_names())
        try:
            shape = structure(self.original, self.example)
        except Exception:
            self.original.disown(frozenset(self.original.adopted_names()) - adopted)
            return True  # where it is for another reason, the check says so
        return not shape.one_datum and shape.data_plate is not None and shape.batch not in (2, -1)

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return math.ceil(len(self) / self.chunk_size)

    def batch(self, rows: Tensor) -> Data:
        """These rows as the pair sees them."""
        return self.original.completed(like_pair(self.data.batch(rows, dtype=self.dtype), self.dtype))

    def run(
        self,
        visit: Callable[..., Mapping[str, Tensor]],
        *,
        beside: Mapping[str, Any] | None = None,
    ) -> dict[str, Tensor]:
        """``visit(batch[, beside])`` for all data: name to [N, ...], on the CPU.

        Args:
            visit: from a batch, and these rows of ``beside``, to tensors [M, ...].
            beside: tensors [N, ...], or mappings of such.
        """

        def visit_chunk(chunk: Chunk) -> dict[str, Tensor]:
            more = () if beside is None else (rows_of(beside, chunk.rows),)
            columns = visit(self.batch(chunk.rows), *more)
            return {key: value[: chunk.valid].cpu() for key, value in columns.items()}

        parts = over_chunks(len(self), self.chunk_size, visit_chunk, seed=self.seed, device=self.device)
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def average(
        self, function: Callable[..., dict[str, Tensor]], *, passes: int = 1, beside: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """The average of ``function(batch[, beside])``, captured, over ``passes`` calls, for all data."""
        call = self.capture(function, name="prediction", calls=passes * self.num_chunks)

        def mean(*args: Any) -> dict[str, Tensor]:
            total: dict[str, Tensor] = call(*args)
            for _ in range(passes - 1):
                again = call(*args)
                total = {key: value + again[key] for key, value in total.items()}
            return {key: value / passes for key, value in total.items()} if passes > 1 else total

        return self.run(mean, beside=beside)


def rows_like(like: Any, num: int, pair: ModelGuidePair) -> Dataset:
    """``num`` rows of some data, repeated cyclically: only their shape and their covariates matter."""
    dtype = dtype_of(pair)
    dataset = as_dataset(like, dtype=dtype).binarize(0, dtype=dtype)
    index = torch.arange(num, device=dataset.device) % len(dataset)
    return Dataset(pair.completed(dataset.batch(index, dtype=dtype)), name=dataset.name)
