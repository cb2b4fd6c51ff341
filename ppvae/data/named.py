"""What a data set with a name is: its files, its parts, and the function that makes arrays of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from .files import Arrays, read_content, verify
from .splits import split_rows


@dataclass(frozen=True)
class NamedFile:
    """A file of a named set; ``checksum`` is of the unzipped content."""

    name: str
    checksum: str | None = None
    shape: tuple[int, ...] | None = None


Paths: TypeAlias = Mapping[str, Path]
Files: TypeAlias = Mapping[str, NamedFile]


@dataclass(frozen=True)
class NamedSet:
    """A data set with a name: its files by role, and the function that makes arrays of them.

    Args:
        description: a line about it.
        image_shape: how to draw one flat row as a picture; None where it is none.
        sizes: rows of the training, validation and test part; 0 where there is no such part.
        read: from the paths of the files, by role, to arrays.
        folder: of its files, under ``PPVAE_DATA`` and the cache folder.
        files: by role.
        url: where they are downloaded from.
        package: the folder of a Python package that holds them ("lda/tests"), of which nothing is imported.
    """

    description: str
    image_shape: tuple[int, ...] | None
    sizes: tuple[int, int, int]
    read: Callable[[Paths, Files], Arrays]
    folder: str = ""
    files: Files | None = None
    url: str | None = None
    package: str = ""


def contents(paths: Paths, files: Files) -> dict[str, bytes]:
    """The bytes of every file by role, unzipped and verified."""
    found = {role: read_content(path, "a file of a named set") for role, path in paths.items()}
    for role, content in found.items():
        verify(content, paths[role], files[role].checksum)
    return found


def shuffled(arrays: Arrays) -> Arrays:
    """The rows of a file that is sorted in one fixed order, so that the first n of them are a fair sample."""
    return arrays.rows(np.random.RandomState(0).permutation(len(arrays.x)))


def split(arrays: Arrays, *, validation: int, test: int) -> Arrays:
    """The fixed split of a set without such parts: seed 0, stratified where there are labels."""
    train, *held_out = (arrays.rows(rows) for rows in split_rows(len(arrays.x), validation, test, strata=arrays.labels))
    return replace(train, validation=held_out[0], test=held_out[1] if test else arrays.test)
