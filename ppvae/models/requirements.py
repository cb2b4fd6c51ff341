"""What the options of a model have to be: errors that name the option, before anything is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ..core.errors import PpvaeError, did_you_mean, try_one_of

T = TypeVar("T")


def require_rows(event_shape: int | Sequence[int], model: str) -> int:
    """The number of entries of a row, for a model that reads rows.

    Raises:
        PpvaeError: data of several axes.
    """
    shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
    if len(shape) != 1:
        raise PpvaeError(
            f"{model}: expected rows of D entries, found data of shape {shape}" + try_one_of("flatten=True")
        )
    return shape[0]


def require_latents(latent_dim: int, option: str = "latent_dim") -> None:
    """An error that names the option, where there are no latent dimensions."""
    if latent_dim < 1:
        raise PpvaeError(f"{option}: expected at least one latent dimension, found {latent_dim}")


def require_layers(latent_dims: Sequence[int]) -> None:
    """An error where there is no layer of latents, or one without dimensions."""
    if not latent_dims:
        raise PpvaeError("latent_dims: expected at least one layer, found none" + try_one_of("latent_dims=(40, 40)"))
    require_latents(min(latent_dims), "latent_dims")


def require_word(option: str, value: str, words: Sequence[str]) -> None:
    """An error that names the option and the nearest word, where the value is none of the words."""
    if value not in words:
        raise PpvaeError(f"{option}: unknown word {value!r}: {did_you_mean(value, words)}")


def part(option: str, value: T | None, default: T) -> T:
    """The part of a model that was given, or else the default.

    Args:
        option: "prior" or "posterior".
        value: what was given; None for the default.
        default: what stands there otherwise.

    Raises:
        PpvaeError: what was given makes no part of a model: its name, for instance.
    """
    if value is not None and not callable(value):
        from . import posteriors, priors

        names = (priors if option == "prior" else posteriors).__all__
        raise PpvaeError(
            f"{option}: expected a function of ppvae.models.{option}s, called with its options, found {value!r}: "
            f"{did_you_mean(str(value), names)}"
        )
    return default if value is None else value
