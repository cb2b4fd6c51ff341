"""Figure 5: samples of VAEs by the dimension of their latent space."""

from __future__ import annotations

from functools import partial

from ppvae.inference import generate
from ppvae.report.figures.images import as_images

from .cells import Bench, Cell, Found, Pictures, Size
from .figure4 import mosaic, seen
from .training import trained

TITLE = "Figure 5: samples"
WORDS = "The mean of p(x | z) at draws z of the prior."


def cells(size: Size) -> list[Cell]:
    """A dimension each, of which figure 2 has trained the VAE."""
    source, dimensions = ("digits", (2, 10)) if size.quick else ("mnist", (2, 5, 10, 20))
    return [Cell(f"{source}-{dim:02}", partial(samples, source, dim)) for dim in dimensions]


def samples(source: str, latent_dim: int, bench: Bench) -> None:
    """A hundred samples."""
    run = trained(bench, source, latent_dim)
    images = as_images(generate(run.pair, 100, like=run.data.take(1), seed=0), run.data)
    assert images is not None
    bench.keep_figure(f"{source}-{latent_dim:02}", partial(mosaic, images, 10))


def pictures(found: Found) -> Pictures:
    """Drawn when the net is at hand."""
    return {}


def page(found: Found) -> str:
    """What the pictures are."""
    return f"{WORDS} {seen(found)}"
