"""The bound of held-out data: every datum's ELBO, reconstruction and KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import ELBO, TraceMeanFieldELBO
from ..execution.execution import Execution
from ..execution.over_data import Chunk, over_chunks
from ..execution.placement import Compile, choose_device, dtype_of, home_of, like_pair
from ..execution.processes import Processes
from ..execution.seeds import chunk_seed
from ...core import Data, ModelGuidePair, PpvaeError, check_pair, structure
from ...core.modes import evaluation_mode, in_evaluation_mode
from ...data import Dataset, as_dataset

_REPEATS, _REPEATS_OF_WEIGHTS = 2, 10


@dataclass(frozen=True)
class BoundEstimate:
    """The bound of a data set, in nats.

    Attributes:
        elbo: the bound of every datum, [N].
        reconstruction: E_q log p(x | z) of every datum, [N].
        kl: KL(q(z | x) || p(z)) of every datum, [N].
        global_: the bound's global part, in nats: that of global latents, such as weights.
        num_data: N, the number of data that divides the global part; None for that of the data evaluated.
        mean_standard_error: Monte Carlo standard error of :attr:`mean`, nats: its variation over seeds for fixed data.
            NaN after a single repeat, where it is unknown.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    global_: float = 0.0
    num_data: int | None = None
    mean_standard_error: float = math.nan

    @property
    def mean(self) -> float:
        """Nats per datum, the global part divided by the number of data."""
        return float(self.elbo.double().mean()) + self.global_ / (self.num_data or len(self.elbo))

    @property
    def sampling_standard_error(self) -> float:
        r"""Standard deviation over data divided by $\sqrt{N}$, nats: how :attr:`mean` varies over other such data."""
        return float(self.elbo.double().std()) / math.sqrt(len(self.elbo)) if len(self.elbo) > 1 else math.nan

    def __repr__(self) -> str:
        return (
            f"BoundEstimate({self.mean:.3f} ± {self.mean_standard_error:.3f} nats per datum, {len(self.elbo)} data "
            f"(± {self.sampling_standard_error:.2f} over the choice of data))"
        )


class BoundEvaluator(Execution):
    """Evaluates one estimator's bound on data sets, chunk by chunk, captured once.

    Args:
        pair: the pair.
        elbo: the estimator.
        calls: about how many chunks will be evaluated.
        chunk_size: data at a time.
        compile: see :func:`ppvae.core.compile.capture`.
        num_data: N of the training data, which divides a global part.
        processes: that share the chunks, to the same numbers; None for this one alone.
    """

    def __init__(
        self,
        pair: ModelGuidePair,
        elbo: ELBO,
        *,
        calls: int,
        chunk_size: int,
        compile: Compile = "auto",
        num_data: int | None = None,
        processes: Processes | None = None,
    ) -> None:
        super().__init__(pair, device=home_of(pair), compile=compile)
        self.chunk_size, self.num_data, self.processes = chunk_size, num_data, processes or Processes()

        def terms(x: Data) -> tuple[Tensor, ...]:
            bound = elbo.terms(pair, x, num_data)
            return bound.local, bound.reconstruction, bound.kl, bound.global_

        self.terms = self.capture(terms, name="the evaluation of the bound", calls=calls)

    def __call__(self, data: Dataset, seed: int, progress: bool = False, num_repeats: int = 1) -> BoundEstimate:
        r"""The mean of ``num_repeats`` evaluations of the same data; one seed gives one set of draws.

        With $s_b^2$ the variance of datum b's bound over R repeats, $\mathrm{se}^2 = \frac{1}{N^2} \sum_b s_b^2 / R$.
        Where the data share draws of global latents, it is that of the means of the repeats.
        """
        self.refresh()  # device or parameters may have changed
        data = data.binarize(seed, dtype=self.dtype)
        with evaluation_mode(self.pair):
            results = [self._evaluate(data, chunk_seed(seed, repeat), progress) for repeat in range(num_repeats)]
        columns, parts = zip(*results, strict=True)
        elbo, reconstruction, kl = torch.stack(columns).double().unbind(1)
        global_ = torch.tensor(parts, dtype=torch.float64)
        error = math.nan
        if num_repeats > 1:
            means = elbo.mean(1) + global_ / (self.num_data or len(data))
            first = torch.arange(min(self.chunk_size, len(data)), device=data.device)
            has_global = bool(structure(self.pair, self._batch(data, first)).global_latents)
            variance = means.var(0) if has_global else elbo.var(0).sum() / len(data) ** 2
            error = float((variance / num_repeats).sqrt())
        dtype = columns[0].dtype
        return BoundEstimate(
            elbo.mean(0).to(dtype),
            reconstruction.mean(0).to(dtype),
            kl.mean(0).to(dtype),
            float(global_.mean()),
            self.num_data,
            error,
        )

    def _batch(self, data: Dataset, rows: Tensor) -> Data:
        return like_pair(data.batch(rows, dtype=self.dtype), self.dtype)

    def _evaluate(self, data: Dataset, seed: int, progress: bool) -> tuple[Tensor, float]:
        """Bound, reconstruction and KL of every datum, [3, N], and the global part."""

        # Each process fills in its chunks; a sum with the zeros of the others is exact.
        count = math.ceil(len(data) / self.chunk_size)
        columns, parts = torch.zeros(3, len(data), dtype=torch.float64), torch.zeros(count, dtype=torch.float64)

        def visit(chunk: Chunk) -> None:
            *local, global_ = self.terms(self._batch(data, chunk.rows))
            columns[:, chunk.rows[: chunk.valid].cpu()] = torch.stack(local)[:, : chunk.valid].cpu().double()
            parts[chunk.number] = float(global_) * chunk.valid / len(data)

        own = [number for number in range(count) if self.processes.takes(number)]
        bar = "ELBO" if progress and self.processes.is_first else None
        over_chunks(len(data), self.chunk_size, visit, seed=seed, device=data.device, progress=bar, numbers=own)
        return self.processes.sum(columns).to(self.dtype), sum(self.processes.sum(parts).tolist())


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
    """Estimate the bound of every datum of a data set, and the Monte Carlo error of the mean.

    Args:
        pair: the pair.
        data: a Dataset, tensor or array, [N, *event].
        elbo: the estimator; None for TraceMeanFieldELBO with KLs sampled where no closed form is registered.
        num_repeats: R, independent evaluations: their mean is the result, their variance gives its error; None for 2,
            which is enough where every datum has noise of its own, and 10 where they share draws of global latents; 1
            leaves the error unknown.
        seed: of the draws.
        num_data: N of the training data, for a pair with global latents: their KL is divided by N.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: "auto", "eager", "graph" or "compiled", see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        DataError: data that cannot be used.
        PairError: the pair breaks its contract, the data its support, or the estimator does not support the pair.
        PpvaeError: a number of repeats below 1.
    """
    elbo = elbo or TraceMeanFieldELBO(on_missing_kl="sample")
    if num_repeats is not None and num_repeats < 1:
        raise PpvaeError(f"num_repeats: expected at least 1, found {num_repeats}")
    where = choose_device(device)
    pair.to(where)
    dtype = dtype_of(pair)
    dataset = as_dataset(data, dtype=dtype).to(where).binarize(seed, dtype=dtype)
    rows = torch.arange(min(chunk_size, len(dataset)), device=where)
    first = like_pair(dataset.batch(rows, dtype=dtype), dtype)
    check_pair(pair, first)
    elbo.check(pair, first, trains=False)
    if num_repeats is None:
        num_repeats = _REPEATS_OF_WEIGHTS if structure(pair, first).global_latents else _REPEATS
    calls = num_repeats * math.ceil(len(dataset) / chunk_size)
    evaluator = BoundEvaluator(pair, elbo, calls=calls, chunk_size=chunk_size, compile=compile, num_data=num_data)
    return evaluator(dataset, seed, progress, num_repeats)
