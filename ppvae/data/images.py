"""A folder of images as rows: bytes, one size, grey or RGB; its sub-folders are classes, or the parts of the data."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .files import Arrays, read_errors
from .limits import Budget, require_file
from ..core.errors import DataError, try_one_of

_log = logging.getLogger("ppvae.data")

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm")
"""Files of these endings are images; others in the folder are passed over."""

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
_RUN = "recipe.toml"  # a run folder has figures, which are no data


def is_folder_of_images(path: Path) -> bool:
    """Whether a path leads to a folder with an image in it or below it; the folder of a run is none."""
    return path.is_dir() and not (path / _RUN).exists() and any(islice(_images(path), 1))


def read_images(folder: Path) -> Arrays:
    """The images of a folder that has some, uint8 ``[N, H, W]`` or ``[N, 3, H, W]``, sorted by their paths.

    Images in sub-folders have the names of those as labels. Sub-folders ``train``, ``validation`` and ``test`` are the
    parts of the data, with classes below them or without.

    Raises:
        DataError: a file that is no image or is damaged, images of several sizes or of several kinds (names the
            first that differs), pixels that are partly transparent or of more than 8 bits, or more than the limit on
            what a file may hold; that is asked before any image is decoded.
    """
    inside = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(islice(_images(path), 1)))
    budget = Budget(folder)
    if "train" not in inside or not set(inside) <= _PARTS.keys():
        return _read(folder, budget, None)[0]
    parts: dict[str, Arrays] = {}
    like: tuple[Path, tuple[int, ...]] | None = None
    for name in sorted(inside, key=lambda name: name != "train"):
        if _PARTS[name] in parts:
            raise DataError(f"{folder}: several folders of {_PARTS[name]} images: {', '.join(inside)}.")
        parts[_PARTS[name]], like = _read(folder / name, budget, like)
    train = parts["train"]
    return Arrays(train.x, train.labels, validation=parts.get("validation"), test=parts.get("test"))


def _images(folder: Path) -> Iterator[Path]:
    """The images below a folder, in the order of their names; not those of hidden files and folders."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(place) / name


def _read(
    folder: Path, budget: Budget, like: tuple[Path, tuple[int, ...]] | None
) -> tuple[Arrays, tuple[Path, tuple[int, ...]]]:
    """The images of one part, and the first of them with its shape, which those of all parts share."""
    paths = sorted(_images(folder), key=lambda path: path.relative_to(folder).parts)
    classes = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in paths]
    lone = next((path for path, name in zip(paths, classes, strict=True) if name is None), None)
    if lone is not None and any(classes):
        raise DataError(
            f"{folder}: some images stand in folders, whose names would be their labels, and {lone.name} does not."
            + try_one_of("all images in folders, one for each class", "all images beside each other")
        )
    for path in paths:  # headers alone: nothing is decoded before all is known to fit
        shape = _shape(path)
        like = like or (path, shape)
        if shape != like[1]:
            raise DataError(
                f"{path}: {_in_words(shape)}, where {like[0]} is {_in_words(like[1])}; all must be alike."
                + try_one_of("images of one size, and all grey or all in colour", "a folder without that file")
            )
    assert like is not None
    shape = like[1]
    budget.declare((len(paths), *shape), np.uint8, str(folder))
    x = np.empty((len(paths), *shape), np.uint8)
    for row, path in enumerate(paths):
        x[row] = _pixels(path, shape)
    if lone is not None:
        return Arrays(x), like
    names = sorted({str(name) for name in classes})
    _log.info("%s: labels: %s.", folder, ", ".join(f"{number} {name}" for number, name in enumerate(names)))
    return Arrays(x, np.array([names.index(str(name)) for name in classes], np.int64)), like


def _open(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f"{path}: images need Pillow." + try_one_of("pip install pillow", "the rows as .npy")
        ) from error
    require_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its size, which is compared with the memory
        return Image.open(path)


def _shape(path: Path) -> tuple[int, ...]:
    """The shape of one image, of its header."""
    with read_errors(path, "an image"), _open(path) as image:
        (width, height), mode = image.size, image.mode
    channels = 1 if mode == "LA" else _CHANNELS.get(mode)
    if channels is None:
        raise DataError(
            f"{path}: an image of the kind {mode!r}: expected 8 bits a pixel, grey or RGB."
            + try_one_of("the image in 8 bits", "the rows as .npy")
        )
    return (height, width) if channels == 1 else (3, height, width)


def _pixels(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    with read_errors(path, "an image"), _open(path) as image:
        may_be_clear = "transparency" in image.info or image.mode in ("LA", "RGBA")
        if may_be_clear and image.convert("RGBA").getextrema()[3][0] < 255:
            raise DataError(f"{path}: partly transparent." + try_one_of("the image on a background"))
        pixels = np.asarray(image.convert("L" if len(shape) == 2 else "RGB"))
    return pixels if len(shape) == 2 else np.moveaxis(pixels, 2, 0)


def _in_words(shape: tuple[int, ...]) -> str:
    return f"{shape[-2]} x {shape[-1]} {'grey' if len(shape) == 2 else 'RGB'}"
