"""What follows schedules in a run: the weight of the KL, and buffers of the pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .schedules import Constant, KLWarmup, Schedule, as_schedule
from ..elbo import ELBO
from ...core import Data, ModelGuidePair, PpvaeError, structure
from ...core.errors import did_you_mean, try_one_of

KLWeight: TypeAlias = float | Schedule | Mapping[str, float | Schedule]
Weights: TypeAlias = float | dict[str, float]


class Scheduled:
    """The numbers of a run that follow schedules; both kinds are inputs of the recorded step, and cost it nothing.

    A value is a function of the epochs and steps done, which a run saves: a resumed run goes on with the same ones.

    Args:
        pair: the pair.
        kl_weight: the weight of the KL, or a mapping of latent sites to weights.
        kl_warmup: a schedule of the weight of the KL in place of it, or None.
        schedules: a mapping of the names of buffers of the pair to schedules.

    Raises:
        PpvaeError: a weight that is or becomes negative, both ``kl_weight`` and ``kl_warmup``, or a name that is no
            buffer of the pair, or one of another kind than a saved floating-point number.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        kl_weight: KLWeight = 1.0,
        kl_warmup: KLWarmup | None = None,
        schedules: Mapping[str, float | Schedule] | None = None,
    ) -> None:
        self.pair = pair
        if kl_warmup is not None:
            if not isinstance(kl_weight, int | float) or kl_weight != 1:
                raise PpvaeError("fit: kl_weight and kl_warmup both weigh the KL" + try_one_of("one of the two"))
            kl_weight = kl_warmup
        self.kl_weight: Schedule | dict[str, Schedule]
        if isinstance(kl_weight, Mapping):
            self.kl_weight = {site: _weight(value, f"kl_weight of site {site!r}") for site, value in kl_weight.items()}
        else:
            self.kl_weight = _weight(kl_weight, "kl_weight")
        self.buffers = {name: as_schedule(value, f"schedules[{name!r}]") for name, value in (schedules or {}).items()}
        for name in self.buffers:
            _require_number(pair, name)

    def check(self, elbo: Any, x: Data) -> None:
        """Check that the estimator takes these weights, and that the sites exist.

        Args:
            elbo: an estimator of ours, or of Pyro's.
            x: a batch.

        Raises:
            PpvaeError: it does not, or they do not.
        """
        name = type(elbo).__name__
        if not isinstance(elbo, ELBO):
            if self.kl_weight != Constant(1.0):
                raise PpvaeError(
                    f"{name} of Pyro takes no weight of the KL"
                    + try_one_of("its namesake in ppvae.inference.elbo, which does")
                )
            return
        if not isinstance(self.kl_weight, dict):
            return
        if not elbo.serves_kl_per_site:
            raise PpvaeError(
                f"{name} takes one weight for the KL of all sites, not one for each"
                + try_one_of('elbo.TraceMeanFieldELBO(on_missing_kl="sample")', "kl_weight=Linear(0.0, 1.0, over=10)")
            )
        latents = [info.name for info in structure(self.pair, x).guide_latents]
        for site in self.kl_weight:
            if site not in latents:
                raise PpvaeError(f"kl_weight: the pair has no latent site {site!r}: {did_you_mean(site, latents)}")

    def weights(self, epochs: float, steps: int) -> Weights:
        """The weight of the KL, or of each site's, in the step before which so many epochs and steps are done."""
        if isinstance(self.kl_weight, dict):
            return {site: schedule.at(epochs, steps) for site, schedule in self.kl_weight.items()}
        return self.kl_weight.at(epochs, steps)

    def write(self, epochs: float, steps: int) -> None:
        """Set the buffers for that step."""
        for name, schedule in self.buffers.items():
            self.pair.get_buffer(name).fill_(schedule.at(epochs, steps))

    def row(self, epochs: float, steps: int) -> dict[str, float]:
        """All values in that step, by the names that they have in a history."""
        weights = self.weights(epochs, steps)
        named = (
            {"kl_weight": weights} if isinstance(weights, float) else {f"kl_weight.{k}": v for k, v in weights.items()}
        )
        return {**named, **{name: schedule.at(epochs, steps) for name, schedule in self.buffers.items()}}


def as_tensors(weights: Weights, like: Tensor) -> Tensor | dict[str, Tensor]:
    """Weights as inputs of a step: numbers would be constants of its graph.

    Args:
        weights: of the KL, or of each site's.
        like: a tensor of the dtype and on the device of the step.
    """
    if isinstance(weights, Mapping):
        return {site: like.new_tensor(value) for site, value in weights.items()}
    return like.new_tensor(weights)


def _weight(value: float | Schedule, key: str) -> Schedule:
    schedule = as_schedule(value, key)
    if schedule.lowest < 0:
        raise PpvaeError(f"{key}: expected no negative weight, found {schedule}" + try_one_of("weights of 0 or more"))
    return schedule


def _require_number(pair: ModelGuidePair, name: str) -> None:
    buffers = dict(pair.named_buffers(remove_duplicate=False))
    if name not in buffers:
        kind = "a parameter, which the optimiser moves" if name in dict(pair.named_parameters()) else "no buffer"
        raise PpvaeError(
            f"schedules: {name!r} is {kind}: {did_you_mean(name, [k for k, v in buffers.items() if _is_number(v)])}"
            + try_one_of(f'self.register_buffer("{name.rpartition(".")[2]}", torch.tensor(1.0)) in its module')
        )
    buffer = buffers[name]
    if not _is_number(buffer):
        raise PpvaeError(
            f"schedules: expected the buffer {name!r} to be one floating-point number, found {tuple(buffer.shape)} of "
            f"{buffer.dtype}" + try_one_of("torch.tensor(1.0) as its value where it is registered")
        )
    if name not in pair.state_dict():
        raise PpvaeError(
            f"schedules: the buffer {name!r} is not saved with the pair, which would go on with another value"
            + try_one_of("register_buffer without persistent=False")
        )


def _is_number(buffer: Tensor) -> bool:
    return buffer.dim() == 0 and torch.is_floating_point(buffer)
