"""Figure 4: the manifold that a VAE with a latent plane learns; digits and faces."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from ppvae.inference import decode
from ppvae.report.decoded import plane
from ppvae.report.figures.images import as_images, page_of
from ppvae.report.figures.theme import LIGHT

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
    z = plane(quantiles, quantiles).flatten(0, 1)
    images = as_images(decode(run.pair, z, like=run.data.take(1)), run.data)
    assert images is not None
    bench.keep_figure(source, partial(mosaic, images, SIDE))


def mosaic(images: Tensor, columns: int) -> Figure:
    """Images side by side, without gaps."""
    page = page_of(images, columns, LIGHT, gap=0)
    height, width = page.shape[:2]
    figure = Figure(figsize=(6.0, 6.0 * height / width))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(page)
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
