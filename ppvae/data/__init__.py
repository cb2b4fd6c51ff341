"""Data sets, their value space, their splits, and minibatches of them."""

from __future__ import annotations

from .convert import as_dataset
from .dataset import Dataset, random_rows
from .labels import keep_labels, tells_labels
from .loading import Listing, available, load
from .minibatches import Minibatches, chunks
from .stream import write_npy

__all__ = [
    "Listing",
    "Dataset",
    "Minibatches",
    "as_dataset",
    "available",
    "chunks",
    "keep_labels",
    "load",
    "random_rows",
    "tells_labels",
    "write_npy",
]
