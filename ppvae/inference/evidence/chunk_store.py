"""What `log_evidence` asks of a place where finished chunks are kept, so that work that was stopped can go on."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from .base import Estimate


class ChunkKey(NamedTuple):
    """One chunk of data, and what its numbers depend on besides the pair, the data, versions and threads.

    Attributes:
        method: the method with its options.
        number: its place among the chunks, from 0.
        size: data in a chunk.
        num_data: data in all.
        seed: of its noise.
        lanes: how many (sample, datum) lanes are worked on at once.
        compile: as it was asked for.
        device: where it is computed.
        dtype: of parameters and data.
        global_sites: at what the global sites are held: "mean", the SHA-256 of given values, or empty.
    """

    method: str
    number: int
    size: int
    num_data: int
    seed: int
    lanes: int
    compile: str
    device: str
    dtype: str
    global_sites: str = ""


class ChunkStore(Protocol):
    """Keeps estimates of finished chunks; the owner sees to it that pair, data and versions are those of then."""

    def get(self, chunk: ChunkKey) -> Estimate | None:
        """What was put for exactly this chunk; None where there is nothing, or nothing whole."""

    def put(self, chunk: ChunkKey, estimate: Estimate) -> None:
        """Keep the estimate of a chunk, its tensors [valid data] on the CPU."""
