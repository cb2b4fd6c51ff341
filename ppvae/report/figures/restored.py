"""Damaged pictures beside what is made of them."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
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
    unit = _DPI / 72 * FONT_SIZE
    head, foot = round(3.2 * unit), round(4.4 * unit)
    height, width = page.shape[0] + head + foot, page.shape[1] + 2 * _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), facecolor=theme.paper)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    axes.imshow(
        page.numpy(),
        extent=(_MARGIN, _MARGIN + page.shape[1], head + page.shape[0], head),
        interpolation="none",
        aspect="auto",
    )
    step = (page.shape[1] + _GAP) / len(columns)
    small = 0.8 * FONT_SIZE
    for place, name in enumerate(columns):
        middle = _MARGIN + place * step + (step - _GAP) / 2
        axes.text(middle, head - 0.4 * unit, name, ha="center", va="bottom", fontsize=small, linespacing=1.1)
    top = head + page.shape[0] + 0.6 * unit
    largest = _largest(restored)
    ramp = in_colour(torch.linspace(0, 1, 64)[None], theme, theme.second)
    keys = [("not seen", None), (f"standard deviation, 0 to {largest:.2g}", ramp)]
    if bool(restored.seen.all()):
        keys = keys[1:]
    for row, (text, image) in enumerate(keys):
        y, wide = top + 1.4 * row * unit, 3.0 * unit
        if image is None:
            axes.add_patch(Rectangle((_MARGIN, y), wide, unit, color=tuple(_tint(theme).tolist()), linewidth=0))
        else:
            axes.imshow(image.numpy(), extent=(_MARGIN, _MARGIN + wide, y + unit, y), aspect="auto")
        axes.text(_MARGIN + wide + 0.5 * unit, y + unit / 2, text, va="center", fontsize=small, color=theme.muted)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure


def _columns(restored: Restored, theme: Theme) -> dict[str, Tensor]:
    """Images in colour, [N, H, W, 3], by the name of their column."""
    found, data = restored.restoration, restored.data

    def colours(x: Tensor) -> Tensor:
        images = as_images(x, data)
        if images is None:
            raise DataError(f"{data.name}: has no image_shape, so it is no picture" + try_one_of("--out with .npz"))
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
