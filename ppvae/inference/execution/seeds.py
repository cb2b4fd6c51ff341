"""Seeds derived from the user's: streams with the same seed would repeat each other's noise."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def chunk_seed(seed: int, index: int) -> int:
    """The seed of one part of the work: a chunk of data, a chain, a draw of the weights."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_of(*parts: object) -> int:
    """The seed of one purpose, by name: ``seed_of(seed, "start")``."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7], "big")


def seed_generators(seed: int) -> None:
    """Seed the generators that a step draws from; ``torch.manual_seed`` takes hundreds of times as long."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)
