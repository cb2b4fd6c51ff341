"""The named sets of sequences: x [N, T, *] with zeros beyond the end of each, and lengths [N]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .files import Array, Arrays
from .mat import read_cells
from .named import Files, Paths, contents, shuffled, split


def jsb_chorales(paths: Paths, files: Files) -> Arrays:
    """Bach's chorales as piano rolls of 88 notes, in Boulanger-Lewandowski's split."""
    contents(paths, files)
    cells = read_cells(paths["chorales"])
    train, validation, test = (padded(cells[f"{part}data"], 160) for part in ("train", "valid", "test"))
    return replace(train, validation=validation, test=test)


def japanese_vowels(paths: Paths, files: Files) -> Arrays:
    """Two vowels of nine speakers as twelve cepstrum coefficients, in Kudo's split; validation is out of training."""
    parts = {}
    for part, content in contents(paths, files).items():
        _, _, lines = content.decode().partition("@data")
        data = [line.split(":") for line in lines.split()]
        speakers = np.array([int(line[-1]) - 1 for line in data])
        series = [np.array([channel.split(",") for channel in line[:-1]], np.float32).T for line in data]
        parts[part] = shuffled(replace(padded(series, 29), labels=speakers))
    return split(replace(parts["train"], test=parts["test"]), validation=45, test=0)


def padded(series: Sequence[Array], num_steps: int) -> Arrays:
    """Series [T_n, *] as members "x" [N, num_steps, *] and "lengths" [N]."""
    x = np.zeros((len(series), num_steps, *series[0].shape[1:]), np.float32)
    for row, one in zip(x, series, strict=True):
        row[: len(one)] = one
    return Arrays.of_members({"x": x, "lengths": np.array([len(one) for one in series], np.int64)})
