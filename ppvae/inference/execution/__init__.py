"""Where and how a pair is run over data: device, mode, chunks, seeds, memory, progress."""

from .run import Run

__all__ = ["Run"]
