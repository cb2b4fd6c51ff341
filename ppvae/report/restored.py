"""Held-out data of a run, damaged and restored, beside what costs nothing: a mean, and the nearest training datum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .decoded import nearest
from ..core import structure
from ..core.errors import DataError, try_one_of
from ..data import Dataset, chunks
from ..inference import Restoration, coarse_grid, hide, inpaint
from ..inference.execution.placement import dtype_of, like_pair
from ..inference.prediction.masks import Region
from ..inference.prediction.noise import Noise, noise_of
from ..runs import Run

Task = Literal["inpaint", "super-resolve", "denoise"]

_BLOCK = 4096  # training data at a time
_LEAST = 2.0**-24  # probabilities are kept so far from 0 and 1, as single precision has them


@dataclass(frozen=True)
class Score:
    """How far a reconstruction is from the truth, over the entries that are not seen (all where all are noisy).

    Attributes:
        name: of the reconstruction.
        rmse: root mean squared error, each datum with the same weight.
        rmse_error: its standard error over data; NaN for one.
        log_score: of binary data, mean log probability of the true value of an entry, nats; None where the
            reconstruction is no probability.
        log_score_error: its standard error over data.
    """

    name: str
    rmse: float
    rmse_error: float
    log_score: float | None = None
    log_score_error: float | None = None


@dataclass(frozen=True, eq=False)
class Restored:
    """Damaged data and what is made of them.

    Attributes:
        part: of the data set.
        words: what was done to the data.
        data: their rows, for figures.
        truth: before the damage, [N, *event].
        seen: which entries are seen, exactly or through noise, [N, *event].
        damaged: what is seen, [N, *event]; where nothing is, NaN.
        noise: what is seen went through; None for nothing.
        restoration: the posterior of the data under the model.
        others: reconstructions that need no model, by name, [N, *event].
        scores: of the posterior mean first, then of the others.
    """

    part: str
    words: str
    data: Dataset
    truth: Tensor
    seen: Tensor
    damaged: Tensor
    noise: Noise | None
    restoration: Restoration
    others: dict[str, Tensor]
    scores: list[Score]

    @property
    def arrays(self) -> dict[str, Tensor]:
        """All of it as plain arrays, by name."""
        found = {"truth": self.truth, "seen": self.seen, "damaged": self.damaged}
        for name in ("mean", "standard_deviation", "standard_error", "draws", "acceptance", "r_hat"):
            found[name] = getattr(self.restoration, name)
        return found | {name.replace(" ", "_"): value for name, value in self.others.items()}


def restore(
    run: Run,
    task: Task,
    *,
    hidden: Region | float | Tensor = 0.5,
    factor: int = 2,
    noise: float = 0.1,
    part: str | None = None,
    num_data: int = 10,
    num_draws: int = 3,
    num_steps: int = 300,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> Restored:
    """Damage held-out data of a run, restore them by :func:`~ppvae.inference.inpaint`, and say how well.

    Global latents are held at the guide's mean.

    Args:
        run: the run.
        task: "inpaint", "super-resolve" (every ``factor``-th pixel is seen) or "denoise".
        hidden: for "inpaint", as for :func:`~ppvae.inference.hide`; or a mask, True where seen, of the shape of a
            datum, of its picture, or of all of them.
        factor: for "super-resolve".
        noise: for "denoise": the probability of a flip under a Bernoulli likelihood, the standard deviation of what is
            added under a Normal one.
        part: of the data; None for the held-out one.
        num_data: the first so many data, or all that there are.
        num_draws: draws of the posterior.
        num_steps: of each chain; half of them are its burn-in.
        seed: of the damage, the chain, and a dynamic binarisation.
        device: "auto", "cpu", "cuda".
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        DataError: data with covariates; a mask that does not fit, or that hides nothing.
        PairError: as for :func:`~ppvae.inference.inpaint`.
    """
    name = run.held_out if part is None else part
    whole = run.part(name)
    data, dtype = whole.take(min(num_data, len(whole))).binarize(seed), dtype_of(run.pair)
    truth = like_pair(data.tensor(dtype=dtype), dtype)
    if not isinstance(truth, Tensor):
        raise DataError(
            f"{data.name}: its rows have several members ({', '.join(data.members)}): expected one tensor, of which a "
            "part is hidden" + try_one_of("inpaint(pair, data), where the pair declares its gaps")
        )
    channel, seen, words = None, torch.ones_like(truth, dtype=torch.bool), ""
    shape = structure(run.pair, truth[:2])
    if task == "denoise":
        channel, words = noise_of([info for info in shape.observed if info.scope == "local"], noise)
    elif task == "super-resolve":
        seen, words = coarse_grid(_picture_of(data), factor), f"one pixel of every {factor} x {factor} seen"
        words = words if len(_picture_of(data)) > 1 else f"one entry of every {factor} seen"
    else:
        seen, words = _mask(data, hidden, seed)
    seen = seen.reshape(-1, *data.event_shape).expand_as(truth)
    if channel is None and bool(seen.all()):
        raise DataError(f"{data.name}: {words}, and no entry is hidden" + try_one_of("a mask that hides some"))
    words += ", weights at the guide's mean" if shape.global_latents else ""
    damaged = truth if channel is None else channel.corrupt(truth, seed)
    damaged = damaged.where(seen, math.nan)
    found = inpaint(
        run.pair,
        damaged,
        seen,
        noise=channel,
        num_steps=num_steps,
        num_burn_in=num_steps // 2,
        num_draws=num_draws,
        global_sites="mean",
        seed=seed,
        device=device,
        progress=progress,
    )
    mean, neighbour = _from_training(run, damaged, seen, seed)
    others = {"training mean": torch.where(seen, truth, mean)} if channel is None else {"noisy as it is": damaged}
    others["nearest training datum"] = neighbour if channel is not None else torch.where(seen, truth, neighbour)
    where = ~seen if channel is None else seen
    binary = data.batch_space == "binary"
    scores = [_score("restoration", found.mean, truth, where, binary)]
    scores += [_score(key, value, truth, where, binary and key == "training mean") for key, value in others.items()]
    return Restored(name, words, data, truth, seen, damaged, channel, found, others, scores)


def _picture_of(data: Dataset) -> tuple[int, ...]:
    return data.event_shape if data.image_shape is None else tuple(data.image_shape)


def _mask(data: Dataset, hidden: Region | float | Tensor, seed: int) -> tuple[Tensor, str]:
    shape = _picture_of(data)
    if isinstance(hidden, str):
        half = "the middle" if hidden == "box" else f"the {hidden} half"
        return hide(shape, hidden), f"{half} hidden"
    if isinstance(hidden, float):
        mask = hide(shape, hidden, num=len(data), seed=seed)
        return mask, f"each entry hidden with probability {hidden:g}"
    fits = {tuple(s[k:]) for s in ((len(data), *shape), (len(data), *data.event_shape)) for k in (0, 1)}
    if tuple(hidden.shape) not in fits:
        raise DataError(
            f"a mask of shape {list(hidden.shape)} for {len(data)} data of {list(data.event_shape)}: expected one of "
            + ", ".join(str(list(fit)) for fit in sorted(fits, key=len))
        )
    return hidden, "hidden by a mask"


def _from_training(run: Run, damaged: Tensor, seen: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The mean of the training data, and of each damaged datum the nearest one by what is seen of it."""
    train, dtype = run.part("train").binarize(seed), damaged.dtype
    total: Any = 0.0
    best = torch.full((len(damaged),), math.inf, dtype=torch.float64)
    found = torch.zeros_like(damaged)
    for rows, valid in chunks(len(train), _BLOCK, "cpu"):
        block = train.main_of(train.batch(rows[:valid], dtype=dtype))
        total = total + block.double().sum(0)
        place, distance = nearest(damaged, block, seen)
        closer = distance < best
        best[closer], found[closer] = distance[closer], block[place[closer]]
    return (total / len(train)).to(dtype), found


def _score(name: str, found: Tensor, truth: Tensor, where: Tensor, probabilities: bool) -> Score:
    some = where.flatten(1).any(1)
    found, truth, where = (value[some].flatten(1).double() for value in (found, truth, where))

    def over_data(values: Tensor) -> tuple[float, float]:
        """Mean and standard error of each datum's mean over its entries."""
        means = (values * where).sum(1) / where.sum(1)
        error = float(means.std()) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        return float(means.mean()), error

    square, error = over_data((found - truth).square())
    rmse = math.sqrt(square)
    rmse_error = error / (2 * rmse) if rmse > 0 else error
    if not probabilities:
        return Score(name, rmse, rmse_error)
    p = found.clamp(_LEAST, 1 - _LEAST)
    return Score(name, rmse, rmse_error, *over_data(torch.where(truth > 0.5, p, 1 - p).log()))
