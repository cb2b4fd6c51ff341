"""Seeds derived from the user's: streams with the same seed would repeat each other's noise."""

from __future__ import annotations

import hashlib
from types import TracebackType

import numpy as np
import torch
from torch import Tensor


def chunk_seed(seed: int, index: int) -> int:
    """The seed of one part of the work: a chunk of data, a chain, a draw of the weights."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_of(*parts: object) -> int:
    """The seed of one purpose, by name: ``seed_of(seed, "start")``."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


class Stream:
    """Random numbers of one piece of work among several that take turns: in this context PyTorch's own are its.

    Args:
        device: where it computes; its generator there takes part beside that of the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.state: tuple[Tensor, Tensor | None] | None = None

    def __enter__(self) -> Stream:
        if self.state is not None:
            cpu, cuda = self.state
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda, self.device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        self.state = torch.get_rng_state(), cuda


def seed_generators(seed: int) -> None:
    """Seed the generators that a step draws from, and none of the other devices that ``torch.manual_seed`` visits."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
