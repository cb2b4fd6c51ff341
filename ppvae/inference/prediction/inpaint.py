"""Fill in the missing entries of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .guide_mean import observed_site
from .joint import require_mean
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ..execution.progress import progress_bar
from ...core import DataError, ModelGuidePair, PpvaeError, draw, log_joint, predict, simulate
from ...core.conditioning import guide_as_model
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable
from ...data import Dataset


@in_evaluation_mode
def inpaint(
    pair: ModelGuidePair,
    data: Any,
    mask: Tensor,
    *,
    num_steps: int = 200,
    num_burn_in: int = 50,
    correction: bool = True,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Tensor:
    r"""Fill in missing entries: $\mathrm{E}[x_\text{mis} \mid x_\text{obs}]$ by a Markov chain, [N, *event].

    $$z \sim q(z \mid x_\text{obs}, x_\text{mis}),\qquad x_\text{mis} \sim p(x_\text{mis} \mid z)$$

    in turn (Rezende, Mohamed & Wierstra 2014, arXiv 1401.4082, appendix F: pseudo-Gibbs, exact only where the guide
    is the posterior). With ``correction`` the draw of z is accepted with probability
    $\min(1, \frac{p(x, z')\, q(z \mid x)}{p(x, z)\, q(z' \mid x)})$ (Mattei & Frellsen 2018, arXiv 1802.04826), which
    makes the chain exact for any guide that covers the posterior.

    Args:
        pair: the pair; x given z must be independent over the entries of x.
        data: the data, [N, *event]; missing entries may have any value, also NaN.
        mask: True where observed, of the shape of the data or broadcasting to it.
        num_steps: steps of the chain, including the burn-in.
        num_burn_in: steps before the average begins.
        correction: accept or reject each draw of z.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Returns:
        the data with the missing entries replaced by the average of $\mathrm{E}[x \mid z]$ over the chain.
    """
    if not 0 <= num_burn_in < num_steps:
        raise PpvaeError(f"inpaint: expected 0 <= num_burn_in < num_steps, found {num_burn_in} and {num_steps}")
    members = dict(data) if isinstance(data, Mapping) else None
    source = data.binarize(seed).tensor() if isinstance(data, Dataset) else data
    if isinstance(source, Mapping) or members is not None:
        raise DataError("inpaint: expected one tensor of data, found a mapping: condition on its members")
    values = torch.as_tensor(source)
    try:
        visible = mask.to(values.device)
        if not bool(((visible == 0) | (visible == 1)).all()):
            raise DataError("inpaint: the mask says which entries are seen: expected True and False, or 1 and 0")
        visible = visible.bool().expand_as(values)
    except RuntimeError as error:
        raise DataError(
            f"inpaint: the mask {list(mask.shape)} does not broadcast to the data {list(values.shape)}"
        ) from error
    blank = values.where(visible, torch.zeros_like(values))
    work = OverData(pair, blank, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    name = observed_site(work, None)
    require_simulable(work.pair, work.example)
    require_mean(work.pair, work.example, name, {})
    guide = guide_as_model(work.pair)

    def log_weight(x: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        return (log_joint(work.pair, x, z).local - log_joint(guide, x, z).local)[0]

    def step(x: Tensor, observed: Tensor, z: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        new = draw(work.pair, x, 1).latents
        if correction and new:  # all latents may be summed out
            odds = log_weight(x, new) - log_weight(x, z)
            keep = torch.rand_like(odds).log() > odds
            new = {key: torch.where(_like(keep, z[key][0]), z[key], new[key]) for key in new}
        sample = predict(work.pair, x, new, kind="sample", given={}, discrete="data", num_draws=1)[name][0]
        mean = predict(work.pair, x, new, given={}, discrete="data", num_draws=1)[name][0]
        return torch.where(observed, x, sample), mean, new

    run = work.capture(step, name="a step of inpainting", calls=num_steps * work.num_chunks)

    def chain(x: Tensor, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        observed = beside["visible"]
        x = torch.where(observed, x, simulate(work.pair, x).observed[name])
        z = draw(work.pair, x, 1).latents
        total = torch.zeros_like(x)
        for count in progress_bar(range(num_steps), desc="inpaint", show=progress):
            x, mean, z = run(x, observed, z)
            if count >= num_burn_in:
                total += mean
        return {"x": torch.where(observed, x, total / (num_steps - num_burn_in))}

    return work.run(chain, beside={"visible": visible.to(work.device)})["x"]


def _like(flag: Tensor, value: Tensor) -> Tensor:
    """A flag per datum, [B], with the axes of a value [B, *event]."""
    return flag.reshape(-1, *(1,) * (value.dim() - 1))
