"""Data as pictures: grids of small images, drawn pixel by pixel."""

from __future__ import annotations

import io

import torch
from matplotlib.image import imsave
from torch import Tensor

from .theme import LIGHT, Theme
from ...core.errors import DataError, try_one_of
from ...data import Dataset

RANGE_ROWS = 200
"""Rows that set the range of real values."""


def shaped(x: Tensor, data: Dataset) -> Tensor | None:
    """Data as [N, H, W] or, with three colours, [N, H, W, 3]; None where they are no pictures.

    Rows [T, D] without an image_shape are sequences.
    """
    shape = data.image_shape
    if shape is None:
        event = tuple(x.shape[1:])
        if len(event) == 3 and event[0] in (1, 3):
            shape = event
        else:
            return None
    if len(shape) == 2:
        return x.reshape(len(x), *shape)
    if len(shape) != 3 or (shape[0] not in (1, 3) and shape[-1] not in (1, 3)):
        return None
    images = x.reshape(len(x), *shape)
    images = images.movedim(1, -1) if shape[0] in (1, 3) else images
    return images[..., 0] if images.shape[-1] == 1 else images


def as_images(x: Tensor, data: Dataset) -> Tensor | None:
    """Values in [0, 1]: strokes as [N, H, W], photographs as [N, H, W, 3]; None where the data are no pictures."""
    images = shaped(x, data)
    if images is None:
        return None
    images, rows = images.float(), data.members[data.main][:RANGE_ROWS].float()
    if data.value_space == "byte":
        rows = rows / 255
    if data.batch_space not in ("binary", "unit"):
        low, high = torch.quantile(rows.flatten()[:1_000_000], torch.tensor([0.005, 0.995]))
        images, rows = ((value - low) / (high - low).clamp(min=1e-12) for value in (images, rows))
    images = images.clamp(0, 1)
    if images.dim() == 3 and float(rows.median()) >= 0.25:
        # A photograph, not strokes on an empty ground: its bright pixels are bright on every page.
        images = images[..., None].expand(-1, -1, -1, 3)
    return images


def grid(
    images: Tensor, columns: int, theme: Theme, *, gap: int = 2, rows_in_pairs: bool = False, size: int = 0
) -> bytes:
    """Images side by side as a PNG file: arguments as for :func:`page_of`."""
    return encode(page_of(images, columns, theme, gap=gap, rows_in_pairs=rows_in_pairs, size=size))


def page_of(
    images: Tensor, columns: int, theme: Theme, *, gap: int = 2, rows_in_pairs: bool = False, size: int = 0
) -> Tensor:
    """Images side by side, RGBA in [0, 1], [H, W, 4].

    Args:
        images: [N, H, W] (drawn in ink on paper) or [N, H, W, 3], in [0, 1].
        columns: images a row.
        theme: decides whether high grey values are dark (ink on paper) or bright.
        gap: pixels between images.
        rows_in_pairs: a wider gap after every second row.
        size: enlarge so that an image is at least so many pixels wide.
    """
    factor = max(1, -(-(size or 32) // images.shape[2]))
    images = images.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    tops = [row * (height + gap) + (row // 2 * 4 * gap if rows_in_pairs else 0) for row in range(rows)]
    page = torch.zeros(tops[-1] + height, columns * (width + gap) - gap, 4)
    for number in range(count):
        top, left = tops[number // columns], number % columns * (width + gap)
        colour = in_colour(images[number], theme)
        page[top : top + height, left : left + width] = torch.cat((colour, torch.ones_like(colour[..., :1])), -1)
    return page


def encode(page: Tensor) -> bytes:
    """RGBA values in [0, 1], [H, W, 4], as a PNG file."""
    buffer = io.BytesIO()
    imsave(buffer, (page * 255).round().to(torch.uint8).numpy(), format="png")
    return buffer.getvalue()


def picture_of(x: Tensor, data: Dataset, theme: Theme = LIGHT) -> bytes:
    """A grid of data as a PNG file.

    Raises:
        DataError: the data are no pictures.
    """
    images = as_images(x, data)
    if images is None:
        raise DataError(f"{data.name}: has no image_shape, so it is no picture" + try_one_of("a .npy file"))
    return grid(images, max(1, round(len(images) ** 0.5 * 1.25)), theme)


def in_colour(images: Tensor, theme: Theme, ink: str = "") -> Tensor:
    """Images as [..., H, W, 3]: strokes in ink (the theme's where none is named) on paper, photographs as they are."""
    if images.dim() > 2 and images.shape[-1] == 3:
        return images
    paper = rgb("#f2f4f7" if theme.ink_images else "#0d0f13")
    return paper + (rgb(ink or theme.ink) - paper) * images[..., None]


def rgb(colour: str) -> Tensor:
    """A colour such as #1d2430, [3] in [0, 1]."""
    return torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
