"""Data simulated from a pair's own model, with their latents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .run import first_rows, model_ready
from ..execution.placement import dtype_of, home_of, to
from ...core import Data, DataError, ModelGuidePair, batch_size, rows_of, simulate, structure
from ...core.conditioning import hold_sites
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode


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
        DataError: a mapping in which an observed site has no member of its name.
    """
    if num_data < 1:
        raise DataError(f"simulate_data: expected num_data of at least 1, found {num_data}")
    like = model_ready(like.x if isinstance(like, SimulatedData) else like, dtype_of(pair), seed)
    like = to(rows_of(like, torch.arange(num_data) % batch_size(like)), home_of(pair))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        conditioned = hold_sites(pair, first_rows(like, 4), global_sites)
        shape = structure(conditioned, like)
        draws = simulate(conditioned, like)
    names = [info.name for info in shape.observed if info.scope == "local"]
    if isinstance(like, Tensor):
        if len(names) != 1 or draws.observed[names[0]].numel() != like.numel():
            raise DataError(
                f"simulate_data: the observed sites {names} do not make up a tensor of shape {list(like.shape)}"
                + try_one_of("data as a mapping, with a member for every observed site")
            )
        x: Data = draws.observed[names[0]].reshape(like.shape)
    else:
        missing = [name for name in names if name not in like]
        if missing:
            raise DataError(
                f"simulate_data: observed site {missing[0]!r} has no member of that name among {sorted(like)}"
                + try_one_of("name the members after the observed sites")
            )
        x = {key: draws.observed[key].reshape(value.shape) if key in names else value for key, value in like.items()}
    return SimulatedData(x, {info.name: draws.latents[info.name] for info in shape.local_latents})
