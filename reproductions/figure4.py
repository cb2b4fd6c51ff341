"""Figure 4: the manifold that a VAE with a latent plane learns; digits and faces."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from ppvae.inference import decode
from ppvae.report.figures.images import as_images

from .cells import Bench, Cell, Found, Pictures, Size
from .training import trained

TITLE = "Figure 4: learnt manifolds"
SIDE = 20
WORDS = """The mean of p(x | z) where z runs over a grid of quantiles of the prior, by the inverse normal CDF, in both
dimensions of a two-dimensional latent space."""


def cells(size: Size) -> list[Cell]:
    """A data set each, of which figure 2 has trained the VAE."""
    return [
        Cell(source, partial(manifold, source)) for source in (["digits"] if size.quick else ["mnist", "frey-faces"])
    ]


def manifold(source: str, bench: Bench) -> None:
    """Decode a grid of quantiles."""
    run = trained(bench, source, 2)
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(SIDE) + 0.5) / SIDE)
    z = torch.stack(torch.meshgrid(-quantiles, quantiles, indexing="ij"), -1).reshape(-1, 2)
    images = as_images(decode(run.pair, z.flip(-1), like=run.data.take(1)), run.data)
    assert images is not None
    bench.keep_figure(source, partial(mosaic, images, SIDE))


def mosaic(images: Tensor, columns: int) -> Figure:
    """Images side by side; strokes dark on white."""
    height, width = images.shape[1:3]
    rows = len(images) // columns
    page = (
        images.reshape(rows, columns, height, width, -1)
        .permute(0, 2, 1, 3, 4)
        .reshape(rows * height, columns * width, -1)
    )
    figure = Figure(figsize=(6.0, 6.0 * rows * height / (columns * width)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(page.squeeze(-1), cmap="gray_r", vmin=0, vmax=1)
    axes.axis("off")
    return figure


def pictures(found: Found) -> Pictures:
    """Drawn when the net is at hand."""
    return {}


def page(found: Found) -> str:
    """What the pictures are."""
    return f"{WORDS} {seen(found)}"


def seen(found: Found) -> str:
    """How long the nets were trained."""
    counts = [f"{name} {cell['samples']:,}" for name, cell in found.items()]
    return f"Training samples seen: {', '.join(counts)}."
