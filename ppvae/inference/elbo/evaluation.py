"""The bound of held-out data: every datum's ELBO, reconstruction and KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import ELBO, TraceMeanFieldELBO
from ..execution.placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..execution.seeds import chunk_seed
from ...core import Data, ModelGuidePair, PpvaeError, check_pair, structure
from ...core.compile import Mode, bind, capture, state_of
from ...core.modes import evaluation_mode, in_evaluation_mode
from ...data import Dataset, as_dataset, chunks

_REPEATS, _REPEATS_OF_WEIGHTS = 2, 10


@dataclass(frozen=True)
class BoundEstimate:
    """The bound of a data set, in nats.

    Attributes:
        elbo: the bound of every datum, [N].
        reconstruction: E_q log p(x | z) of every datum, [N].
        kl: KL(q(z | x) || p(z)) of every datum, [N].
        global_: the bound's global part, in nats: that of global latents, such as weights.
        num_data: N, the data that the global part is shared out over; None for those evaluated.
        mean_standard_error: Monte Carlo standard error of :attr:`mean`, nats: what another seed would change it by, the
            data held fixed. NaN where everything was drawn once only, so that nothing tells.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    global_: float = 0.0
    num_data: int | None = None
    mean_standard_error: float = math.nan

    @property
    def mean(self) -> float:
        """Nats per datum, the global part shared out over the data."""
        return float(self.elbo.double().mean()) + self.global_ / (self.num_data or len(self.elbo))

    @property
    def sampling_standard_error(self) -> float:
        r"""Spread over data by $\sqrt{N}$, nats: what other such data would change :attr:`mean` by."""
        return float(self.elbo.double().std()) / math.sqrt(len(self.elbo)) if len(self.elbo) > 1 else math.nan

    def __repr__(self) -> str:
        return (
            f"BoundEstimate({self.mean:.3f} ± {self.mean_standard_error:.3f} nats per datum, {len(self.elbo)} data "
            f"(± {self.sampling_standard_error:.2f} over the choice of data))"
        )


class BoundEvaluator:
    """Evaluates one estimator's bound on data sets, chunk by chunk, captured once."""

    def __init__(
        self, pair: ModelGuidePair, elbo: ELBO, mode: Mode, chunk_size: int, num_data: int | None = None
    ) -> None:
        self.pair, self.elbo, self.chunk_size, self.num_data = pair, elbo, chunk_size, num_data

        def terms(pair: ModelGuidePair, x: Data) -> tuple[Tensor, ...]:
            found = elbo.terms(pair, x, num_data)
            return found.local, found.reconstruction, found.kl, found.global_

        self.captured = capture(bind(pair, terms), mode=mode, name="the evaluation of the bound")

    def __call__(self, data: Dataset, seed: int, progress: bool = False, num_repeats: int = 1) -> BoundEstimate:
        r"""The mean of so many evaluations of the same data; one seed gives one set of draws.

        With $s_b^2$ the variance of datum b's bound over R repeats, $\mathrm{se}^2 = \frac{1}{N^2} \sum_b s_b^2 / R$.
        Where the data share draws of global latents, it is that of the means of the repeats.
        """
        data = data.drawn(seed, dtype=dtype_of(self.pair))
        found = [self._once(data, chunk_seed(seed, repeat), progress) for repeat in range(num_repeats)]
        columns, parts = zip(*found, strict=True)
        elbo, reconstruction, kl = torch.stack(columns).double().unbind(1)
        global_ = torch.tensor(parts, dtype=torch.float64)
        error = math.nan
        if num_repeats > 1:
            means = elbo.mean(1) + global_ / (self.num_data or len(data))
            shared = bool(structure(self.pair, self._batch(data, self._rows(data))).global_latents)
            spread = means.var(0) if shared else elbo.var(0).sum() / len(data) ** 2
            error = float((spread / num_repeats).sqrt())
        dtype = columns[0].dtype
        return BoundEstimate(
            elbo.mean(0).to(dtype),
            reconstruction.mean(0).to(dtype),
            kl.mean(0).to(dtype),
            float(global_.mean()),
            self.num_data,
            error,
        )

    def _once(self, data: Dataset, seed: int, progress: bool) -> tuple[Tensor, float]:
        """Bound, reconstruction and KL of every datum, [3, N], and the global part."""
        columns: list[list[Tensor]] = [[], [], []]
        global_ = 0.0
        parts: Any = list(chunks(len(data), self.chunk_size, data.device))
        with torch.random.fork_rng(), torch.no_grad(), evaluation_mode(self.pair):
            torch.manual_seed(seed)
            for index, valid in tqdm(parts, desc="ELBO", disable=None if progress else True, leave=False):
                x = self._batch(data, index)
                structure(self.pair, x)
                *local, found = self.captured(state_of(self.pair), x)
                for column, values in zip(columns, local, strict=True):
                    column.append(values[:valid].cpu())
                global_ += float(found) * valid / len(data)
        return torch.stack([torch.cat(column) for column in columns]), global_

    def _batch(self, data: Dataset, index: Tensor) -> Data:
        dtype = dtype_of(self.pair)
        return like_pair(data.batch(index, dtype=dtype), dtype)

    def _rows(self, data: Dataset) -> Tensor:
        """Those of the first chunk."""
        return next(iter(chunks(len(data), self.chunk_size, data.device)))[0]


@in_evaluation_mode
def evaluate_bound(
    pair: ModelGuidePair,
    data: Any,
    *,
    elbo: ELBO | None = None,
    num_repeats: int | None = None,
    seed: int = 0,
    num_data: int | None = None,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = True,
) -> BoundEstimate:
    """Estimate the bound of every datum of a data set, and how far another seed would move the mean.

    Args:
        pair: the pair.
        data: a Dataset, tensor or array, [N, *event].
        elbo: the estimator; None for TraceMeanFieldELBO with KLs sampled where no closed form is registered.
        num_repeats: R, independent evaluations, whose mean is the result and whose spread its error; None for 2, which
            is enough where every datum has noise of its own, and 10 where they share draws of global latents; 1 leaves
            the error unknown.
        seed: of the draws.
        num_data: N of the training data, for a pair with global latents: their KL is shared out over N.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: "auto", "eager", "graph" or "compiled", see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal.

    Raises:
        DataError: data that cannot be used.
        PairError: the pair breaks its contract, the data its support, or the estimator does not serve it.
        PpvaeError: a number of repeats below 1.
    """
    elbo = elbo or TraceMeanFieldELBO(on_missing_kl="sample")
    if num_repeats is not None and num_repeats < 1:
        raise PpvaeError(f"num_repeats: expected at least 1, found {num_repeats}")
    where = choose_device(device)
    pair.to(where)
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(where).drawn(seed, dtype=dtype)
    some = torch.arange(min(chunk_size, len(dataset)), device=where)
    first = like_pair(dataset.batch(some, dtype=dtype), dtype)
    check_pair(pair, first)
    elbo.check(pair, first)
    if num_repeats is None:
        num_repeats = _REPEATS_OF_WEIGHTS if structure(pair, first).global_latents else _REPEATS
    mode = choose_mode(compile, num_repeats * math.ceil(len(dataset) / chunk_size))
    return BoundEvaluator(pair, elbo, mode, chunk_size, num_data)(dataset, seed, progress, num_repeats)
