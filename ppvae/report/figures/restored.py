"""Damaged pictures beside what is made of them."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from .images import as_images, in_colour, page_of, rgb, shaped
from .theme import FONT_SIZE, LIGHT, Theme, draw
from ..restored import Restored
from ...core.errors import DataError, try_one_of

_SIZE, _GAP, _MARGIN = 88, 4, 12  # pixels: of an image, between images, around them
_DPI = 144


def restored_picture(restored: Restored, theme: Theme = LIGHT) -> bytes:
    """A row for each datum: the truth, what is seen of it, mean, draws and standard deviation, as a PNG file.

    Raises:
        DataError: the data are no pictures.
    """
    return draw(_figure, restored, theme=theme, dpi=_DPI)


def _figure(restored: Restored, theme: Theme) -> Figure:
    columns = _columns(restored, theme)
    images = torch.stack(list(columns.values()), 1).flatten(0, 1)
    page = page_of(images, len(columns), theme, gap=_GAP, size=_SIZE)
    largest = f"standard deviation, 0 to {_largest(restored):.2g}"
    keys = {largest: in_colour(torch.linspace(0, 1, 64)[None], theme, theme.second)}
    if not bool(restored.seen.all()):
        keys = {"not seen": _tint(theme).expand(1, 1, 3), **keys}
    line = round(_DPI / 72 * FONT_SIZE)
    bottom, width = 3 * line + page.shape[0], page.shape[1] + 2 * _MARGIN
    height = bottom + round((0.8 + 1.4 * len(keys)) * line)
    figure = Figure(figsize=(width / _DPI, height / _DPI), facecolor=theme.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    place_at: dict[str, Any] = {"interpolation": "none", "aspect": "auto"}  # a pixel of the page is one of the file
    axes.imshow(page.numpy(), extent=(_MARGIN, width - _MARGIN, bottom, 3 * line), **place_at)
    step = (page.shape[1] + _GAP) / len(columns)
    words: dict[str, Any] = {"fontsize": 0.75 * FONT_SIZE, "va": "center"}
    for place, name in enumerate(columns):
        middle = _MARGIN + place * step + (step - _GAP) / 2
        for above, text in enumerate(reversed(name.split("\n"))):
            axes.text(middle, (2.3 - above) * line, text, ha="center", **words)
    for row, (text, image) in enumerate(keys.items()):
        top = bottom + (0.6 + 1.4 * row) * line
        axes.imshow(image.numpy(), extent=(_MARGIN, _MARGIN + 3 * line, top + line, top), **place_at)
        axes.text(_MARGIN + 3.5 * line, top + line / 2, text, color=theme.muted, **words)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def _columns(restored: Restored, theme: Theme) -> dict[str, Tensor]:
    """Images in colour, [N, H, W, 3], by the name of their column."""
    found, data = restored.restoration, restored.data

    def colours(x: Tensor) -> Tensor:
        images = as_images(x, data)
        if images is None:
            raise DataError(f"{data.name}: has no image_shape, so it is no picture" + try_one_of("a .npz file"))
        return in_colour(images, theme)

    seen = shaped(restored.seen, data)
    spread = shaped(found.standard_deviation.float() / _largest(restored), data)
    damaged = colours(restored.damaged.nan_to_num(0.0))
    assert seen is not None and spread is not None
    if seen.dim() == 3:
        seen = seen[..., None]
    else:  # one ramp for three colours
        spread = spread.mean(-1)
    columns = {"truth": colours(restored.truth), "seen": torch.where(seen, damaged, _tint(theme))}
    if restored.noise is not None:
        columns["noisy"] = columns.pop("seen")
    columns["posterior\nmean"] = colours(found.mean)
    columns |= {f"draw {number}": colours(draw) for number, draw in enumerate(found.draws, 1)}
    columns["standard\ndeviation"] = in_colour(spread.clamp(0, 1), theme, theme.second)
    columns["nearest in\ntraining"] = colours(restored.others["nearest training datum"])
    return columns


def _largest(restored: Restored) -> float:
    """The standard deviation at the dark end of its ramp; one half where data are zeros and ones."""
    if restored.data.batch_space == "binary":
        return 0.5
    return max(float(restored.restoration.standard_deviation.max()), 1e-12)


def _tint(theme: Theme) -> Tensor:
    """Of entries that are not seen: unlike any grey."""
    return 0.35 * rgb(theme.first) + 0.65 * rgb(theme.paper)
