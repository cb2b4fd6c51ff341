"""The protocol of a store of finished chunks, with which an interrupted `log_evidence` can continue."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from .base import Estimate


class ChunkKey(NamedTuple):
    """One chunk of data, and what its numbers depend on besides the pair, the data, versions and threads.

    Attributes:
        method: the method with its options.
        number: its place among the chunks, from 0.
        size: data in a chunk.
        num_data: data in all.
        seed: of its noise.
        draws_at_once: how many draws, of all data of the chunk together, are computed at once.
        compile: the option of that name.
        device: where it is computed.
        dtype: of parameters and data.
        global_sites: the values of the global sites: "mean", the SHA-256 of given values, or empty.
    """

    method: str
    number: int
    size: int
    num_data: int
    seed: int
    draws_at_once: int
    compile: str
    device: str
    dtype: str
    global_sites: str = ""


class ChunkStore(Protocol):
    """Keeps estimates of finished chunks; its owner ensures that pair, data and versions have not changed since."""

    def get(self, chunk: ChunkKey) -> Estimate | None:
        """The estimate stored for exactly this chunk; None where there is none, or an incomplete one."""

    def put(self, chunk: ChunkKey, estimate: Estimate) -> None:
        """Keep the estimate of a chunk, its tensors [valid data] on the CPU."""


@runtime_checkable
class SharedChunkStore(ChunkStore, Protocol):
    """A store that several processes fill together."""

    def rounds(self, num_chunks: int) -> Iterator[Collection[int]]:
        """The numbers of the chunks in the rounds in which this process goes through them: first its own, then, once
        the others have stored theirs, the rest."""
