"""The named tables: measurements of which some are missing, as members "x", 0 where nothing is, and "seen"."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np

from .files import Arrays
from .gaps import SEEN, fill
from .named import Files, Paths, contents, shuffled, split

PENGUINS = {
    "Culmen Length (mm)": "bill length (mm)",
    "Culmen Depth (mm)": "bill depth (mm)",
    "Flipper Length (mm)": "flipper length (mm)",
    "Body Mass (g)": "body mass (g)",
    "Delta 15 N (o/oo)": "delta 15 N (o/oo)",
    "Delta 13 C (o/oo)": "delta 13 C (o/oo)",
}
"""The columns that are measurements, as the file calls them and as reports do."""


def penguins(paths: Paths, files: Files) -> Arrays:
    """The measurements of palmerpenguins; two birds of which nothing was measured are left out.

    Each column minus its mean, over its standard deviation, both of what was measured of the training rows.
    """
    rows = list(csv.DictReader(io.StringIO(contents(paths, files)["birds"].decode())))
    x = np.array([[_number(row[column]) for column in PENGUINS] for row in rows])
    species = np.unique([row["Species"] for row in rows], return_inverse=True)[1]
    measured = ~np.isnan(x).all(1)
    whole = shuffled(Arrays(x[measured], species[measured], feature_names=tuple(PENGUINS.values())))
    train = split(whole, validation=51, test=51)
    mean, scale = np.nanmean(train.x, axis=0), np.nanstd(train.x, axis=0)

    def standardised(part: Arrays) -> Arrays:
        filled, seen = fill(replace(part, x=((part.x - mean) / scale).astype(np.float32)), "penguins")
        return replace(filled, members={"x": filled.x, SEEN: seen})

    parts = {name: standardised(part) for name, part in train.parts.items()}
    return replace(parts["train"], validation=parts["validation"], test=parts["test"])


def _number(cell: str) -> float:
    """A cell; NaN where it says NA."""
    return np.nan if cell == "NA" else float(cell)
