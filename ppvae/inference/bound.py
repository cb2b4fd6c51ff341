"""The bound of held-out data: every datum's ELBO, reconstruction and KL."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .elbo import ELBO, TraceMeanFieldELBO
from .placement import Compile, choose_device, choose_mode, dtype_of, like_pair
from ..core.modes import evaluation_mode, in_evaluation_mode
from ..core import Data, ModelGuidePair, check_pair, structure
from ..core.compile import Mode, bind, capture, state_of
from ..data import Dataset, as_dataset, chunks


@dataclass(frozen=True)
class BoundEstimate:
    """The bound of a data set, in nats.

    Attributes:
        elbo: the bound of every datum, [N].
        reconstruction: E_q log p(x | z) of every datum, [N].
        kl: KL(q(z | x) || p(z)) of every datum, [N].
        global_: the bound's global part, in nats: that of global latents, such as weights.
        num_data: N, the data that the global part is shared out over; None for those evaluated.
    """

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor
    global_: float = 0.0
    num_data: int | None = None

    @property
    def mean(self) -> float:
        """Nats per datum, the global part shared out over the data."""
        return float(self.elbo.double().mean()) + self.global_ / (self.num_data or len(self.elbo))

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`mean` over the data that it is a sample of: sd / sqrt(N), in nats."""
        return float(self.elbo.double().std()) / math.sqrt(len(self.elbo)) if len(self.elbo) > 1 else math.nan

    def __repr__(self) -> str:
        return f"BoundEstimate({self.mean:.3f} ± {self.standard_error:.3f} nats per datum, {len(self.elbo)} data)"


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

    def __call__(self, data: Dataset, seed: int, progress: bool = False) -> BoundEstimate:
        """The bound of the data; one seed gives one set of draws."""
        columns: list[list[Tensor]] = [[], [], []]
        global_ = 0.0
        dtype = dtype_of(self.pair)
        generator = torch.Generator(device=data.device).manual_seed(seed)
        parts: Any = list(chunks(len(data), self.chunk_size, data.device))
        with torch.random.fork_rng(), torch.no_grad(), evaluation_mode(self.pair):
            torch.manual_seed(seed)
            for index, valid in tqdm(parts, desc="ELBO", disable=None if progress else True, leave=False):
                x = like_pair(data.batch(index, generator, dtype=dtype), dtype)
                structure(self.pair, x)
                *local, found = self.captured(state_of(self.pair), x)
                for column, values in zip(columns, local, strict=True):
                    column.append(values[:valid].cpu())
                global_ += float(found) * valid / len(data)
        elbo, reconstruction, kl = (torch.cat(column) for column in columns)
        return BoundEstimate(elbo, reconstruction, kl, global_, self.num_data)


@in_evaluation_mode
def evaluate_bound(
    pair: ModelGuidePair,
    data: Any,
    *,
    elbo: ELBO | None = None,
    seed: int = 0,
    num_data: int | None = None,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = True,
) -> BoundEstimate:
    """Estimate the bound of every datum of a data set.

    Args:
        pair: the pair.
        data: a Dataset, tensor or array, [N, *event].
        elbo: the estimator; None for TraceMeanFieldELBO with KLs sampled where no closed form is registered.
        seed: of the draws.
        num_data: N of the training data, for a pair with global latents: their KL is shared out over N.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: "auto", "eager", "graph" or "compiled", see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal.

    Raises:
        DataError: data that cannot be used.
        PairError: the pair breaks its contract, the data its support, or the estimator does not serve it.
    """
    elbo = elbo or TraceMeanFieldELBO(on_missing_kl="sample")
    where = choose_device(device)
    pair.to(where)
    dataset = as_dataset(data, dtype=dtype_of(pair)).to(where)
    some = torch.arange(min(chunk_size, len(dataset)), device=where)
    generator = torch.Generator(device=where).manual_seed(seed)  # of a dynamic binarisation
    first = like_pair(dataset.batch(some, generator, dtype=dtype_of(pair)), dtype_of(pair))
    check_pair(pair, first)
    elbo.check(pair, first)
    mode = choose_mode(compile, math.ceil(len(dataset) / chunk_size))
    return BoundEvaluator(pair, elbo, mode, chunk_size, num_data)(dataset, seed, progress)
