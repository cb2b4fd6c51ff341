"""Convolutional trunks for images: an encoder that halves the sides, and a decoder that doubles them back."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from .initialization import Initializer, initialize
from .mlp import layer, require_units
from ..core.errors import PpvaeError


class ConvEncoder(nn.Module):
    """Strided 3 x 3 convolutions, each halving height and width, and one affine layer.

    Args:
        image_shape: (channels, height, width), or (height, width) for one channel; what a row is reshaped to.
        channels: channels after each convolution.
        hidden: units of the affine layer.
        in_shape: shape of the data; None to find the axes of an image by their number of values.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer, see :mod:`ppvae.networks.initialization`.

    Attributes:
        out_features: units of the output.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        *,
        in_shape: int | Sequence[int] | None = None,
        activation: str = "relu",
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = _image(image_shape)
        require_units("channels", channels)
        require_units("hidden", [hidden])
        self.in_shape = (in_shape,) if isinstance(in_shape, int) else None if in_shape is None else tuple(in_shape)
        if self.in_shape is not None and math.prod(self.in_shape) != math.prod(self.image_shape):
            raise PpvaeError(f"image_shape {self.image_shape} does not hold data of shape {self.in_shape}")
        layers: list[nn.Module] = []
        depth, height, width = self.image_shape
        for out in channels:
            halving: Callable[[int], nn.Module] = partial(nn.Conv2d, depth, kernel_size=3, stride=2, padding=1)
            layers += layer(halving, out, activation, axis=-3)
            depth, height, width = out, (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.head = nn.Sequential(*layer(partial(nn.Linear, depth * height * width), hidden, activation))
        self.out_features, self.init = hidden, init
        initialize(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Features [*S, hidden] of images [*S, *event] whose event has as many elements as the image."""
        lead = _lead(x, self.image_shape) if self.in_shape is None else x.shape[: x.dim() - len(self.in_shape)]
        features: Tensor = self.head(self.convolutions(x.reshape(-1, *self.image_shape)).flatten(1))
        return features.reshape(*lead, -1)


class ConvDecoder(nn.Module):
    """One affine layer and strided 4 x 4 transposed convolutions, each doubling height and width.

    Its output is one feature map per pixel, flattened as [height * width * features]; :attr:`per_event` tells a
    likelihood that ``out_features`` belong to each pixel, so that it adds no affine layer.

    Args:
        in_features: latent dimensions.
        image_shape: (channels, height, width), or (height, width); of sides that cannot be halved as often as there are
            convolutions, what is beyond the image is cut off.
        channels: channels before each transposed convolution.
        activation: see :class:`ppvae.networks.MLP`.
        init: an initializer, see :mod:`ppvae.networks.initialization`.

    Raises:
        PpvaeError: no convolution, a layer without units, or no image.
    """

    per_event = True

    def __init__(
        self,
        in_features: int,
        image_shape: Sequence[int],
        channels: Sequence[int] = (64, 32),
        *,
        outputs_per_pixel: int = 1,
        activation: str = "relu",
        init: Initializer | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = _image(image_shape)
        require_units("channels", channels or [0])
        depth, height, width = self.image_shape
        shrink = 2 ** len(channels)
        self.start = (channels[0], math.ceil(height / shrink), math.ceil(width / shrink))
        self.stem = nn.Sequential(*layer(partial(nn.Linear, in_features), math.prod(self.start), activation))
        layers: list[nn.Module] = []
        for index, out in enumerate((*channels[1:], depth * outputs_per_pixel)):
            doubling = partial(nn.ConvTranspose2d, channels[index], kernel_size=4, stride=2, padding=1)
            last = index + 1 == len(channels)
            layers += [doubling(out)] if last else layer(doubling, out, activation, axis=-3)
        self.convolutions = nn.Sequential(*layers)
        self.outputs_per_pixel = outputs_per_pixel
        self.out_features = outputs_per_pixel
        initialize(self, init)

    def forward(self, z: Tensor) -> Tensor:
        """Parameters [*S, pixels, outputs_per_pixel] of the pixels, given z [*S, in_features]."""
        lead = z.shape[:-1]
        stem = self.stem(z.reshape(-1, z.shape[-1])).reshape(-1, *self.start)
        channels, height, width = self.image_shape
        maps: Tensor = self.convolutions(stem)
        maps = maps[..., :height, :width].reshape(-1, self.outputs_per_pixel, channels * height * width).transpose(1, 2)
        return maps.reshape(*lead, channels * height * width, self.outputs_per_pixel)


def _image(shape: Sequence[int]) -> tuple[int, int, int]:
    sides = (1, *shape) if len(shape) == 2 else tuple(shape)
    if len(sides) != 3:
        raise PpvaeError(f"image_shape: expected (height, width) or (channels, height, width), found {tuple(shape)}")
    return (sides[0], sides[1], sides[2])


def _lead(x: Tensor, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
    """The leading axes of x: all but the trailing axes that make up one image."""
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    size, axes = 1, 0
    while axes < x.dim() and size < pixels:
        axes += 1
        size *= x.shape[-axes]
    if size != pixels:
        raise PpvaeError(f"expected images of shape {image_shape} ({pixels} values), found data {tuple(x.shape)}")
    # A channel axis of length one, where there is one, belongs to the image.
    if axes == 2 and image_shape[0] == 1 and x.dim() > 3 and x.shape[-3] == 1:
        axes = 3
    return tuple(x.shape[: x.dim() - axes])
