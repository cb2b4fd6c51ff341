"""Data sets, their value space, their splits, and minibatches of them."""

from __future__ import annotations

from .convert import as_dataset
from .dataset import Dataset
from .loading import Available, available, load
from .minibatches import Minibatches, chunks

__all__ = ["Available", "Dataset", "Minibatches", "as_dataset", "available", "chunks", "load"]
