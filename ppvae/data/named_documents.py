"""The named sets of documents: how often each word of a vocabulary stands in each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .files import Array, Arrays
from .named import Files, Paths, contents, shuffled, split


def reuters(paths: Paths, files: Files) -> Arrays:
    """News of 1996 and 1997 (lda's), in the order of the file."""
    content = contents(paths, files)
    words = tuple(content["words"].decode().split())
    counts = Arrays(word_counts(content["documents"], len(words)), feature_names=words)
    return split(counts, validation=40, test=40)


def newsgroups(paths: Paths, files: Files) -> Arrays:
    """Twenty newsgroups as published models have them: all training documents, no validation part, no labels.

    The files are sorted by newsgroup, which they do not name.
    """
    content = contents(paths, files)
    words = tuple(line.split()[0] for line in content["words"].decode().splitlines())
    train, test = (
        shuffled(Arrays(word_counts(content[part], len(words), first=1), feature_names=words))
        for part in ("train", "test")
    )
    return replace(train, test=test)


def word_counts(content: bytes, num_words: int, *, first: int = 0) -> Array:
    """Counts [N, num_words] of lines ``number word:count word:count ...``; the first word has the number ``first``.

    >>> word_counts(b"2 0:1 2:5", 3)
    array([[1, 0, 5]], dtype=int32)
    """
    lines = content.splitlines()
    counts = np.zeros((len(lines), num_words), np.int32)
    for row, line in zip(counts, lines, strict=True):
        pairs = np.array([int(number) for number in line.replace(b":", b" ").split()[1:]], np.int64).reshape(-1, 2)
        row[pairs[:, 0] - first] = pairs[:, 1]
    return counts
