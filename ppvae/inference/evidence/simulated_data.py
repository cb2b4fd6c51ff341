"""Data simulated from a pair's own model, with their latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .run import first_rows, model_ready
from ..execution.placement import dtype_of, home_of, to
from ...core import Data, DataError, ModelGuidePair, batch_size, rows_of, structure
from ...core.conditioning import hold_sites
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable, simulate_batch


@dataclass(frozen=True, eq=False)
class SimulatedData:
    """Data drawn from a model with their latents, which are exact draws from the posterior of these data.

    Attributes:
        x: the data, [N, *event].
        latents: local latent site to [N, *event].
    """

    x: Data
    latents: dict[str, Tensor]

    def __len__(self) -> int:
        return batch_size(self.x)


@in_evaluation_mode
def simulate_data(
    pair: ModelGuidePair,
    like: Any,
    num_data: int = 100,
    *,
    seed: int = 0,
    global_sites: Mapping[str, Tensor] | str | None = None,
) -> SimulatedData:
    r"""Draw $z \sim p(z),\ x \sim p(x \mid z)$ from a pair's model, for :class:`~.bdmc.BDMC`.

    Args:
        pair: the pair.
        like: some data that fix shapes and covariates, a Dataset, a tensor [B, *event], an array or a mapping of
            such; repeated where fewer than num_data.
        num_data: N.
        seed: of the draws.
        global_sites: as for :func:`log_evidence`, and the same there.

    Raises:
        DataError: num_data below 1.
        PairError: the model computes from the data what it observes, reads observed values from x instead of from the
            sites, or has a ``pyro.factor``.
    """
    if num_data < 1:
        raise DataError(f"simulate_data: expected num_data of at least 1, found {num_data}")
    like = pair.completed(model_ready(like.x if isinstance(like, SimulatedData) else like, dtype_of(pair), seed))
    like = to(rows_of(like, torch.arange(num_data) % batch_size(like)), home_of(pair))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        conditioned = hold_sites(pair, first_rows(like, 4), global_sites)
        require_simulable(conditioned, first_rows(like, 4), batches=True)
        made, x = simulate_batch(conditioned, like)
        shape = structure(conditioned, like)
    return SimulatedData(x, {info.name: made.latents[info.name] for info in shape.local_latents})
