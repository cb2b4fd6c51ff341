"""Fill in the missing entries of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .guide_mean import observed_site
from .joint import require_mean
from .observed_values import observed_values
from .predictive import Kind
from ..execution.arguments import require_literal
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ..execution.progress import progress_bar
from ...core import Data, DataError, ModelGuidePair, PpvaeError, draw, log_joint, predict, simulate
from ...core.conditioning import guide_as_model
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable
from ...data import Dataset


@in_evaluation_mode
def inpaint(
    pair: ModelGuidePair,
    data: Any,
    mask: Tensor | None = None,
    *,
    kind: Kind = "mean",
    site: str | None = None,
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

    A pair that declares its gaps (:class:`~ppvae.models.Mask`, :class:`~ppvae.models.Lengths`, or a masked likelihood
    of its own) has its data as it trains on them, and no ``mask`` beside: $x_\text{mis}$ is no part of its density, so
    that the chain is over z alone. Steps beyond a length are filled with what the model says of them, which is a
    forecast only where its latents go on there.

    Args:
        pair: the pair; x given z must be independent over the entries of x.
        data: the data, [N, *event]; missing entries may have any value, also NaN. A mapping where the pair declares its
            gaps.
        mask: True where observed, of the shape of the data or broadcasting to it; None where the pair declares them.
        kind: "mean", or "sample" for a draw from $p(x_\text{mis} \mid x_\text{obs})$: what the last step drew.
        site: the observed site to fill; None where there is one only.
        num_steps: steps of the chain, including the burn-in.
        num_burn_in: steps before the average begins.
        correction: accept or reject each draw of z.
        seed: of the draws.
        chunk_size: data at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Returns:
        the site's data with the missing entries replaced by the average of $\mathrm{E}[x \mid z]$ over the chain, or by
        a draw; what is observed stays as it is.

    Raises:
        DataError: no mask and no gaps that the pair declares, or both; a mask of another shape.
        PairError: an unknown site, or several and none named; a site without a mean.
    """
    if not 0 <= num_burn_in < num_steps:
        raise PpvaeError(f"inpaint: expected 0 <= num_burn_in < num_steps, found {num_burn_in} and {num_steps}")
    require_literal("kind", kind, Kind)
    blank, visible = (data, None) if mask is None else _blank(data, mask, seed)
    work = OverData(pair, blank, device=device, seed=seed, chunk_size=chunk_size, compile=compile, at_mean=True)
    name = observed_site(work, site)
    declared = observed_values(work, name) if visible is None else None
    if declared is not None:
        if declared.present is None:
            raise DataError(
                f"inpaint: nothing says which entries of {name!r} are missing: expected a mask"
                + try_one_of(
                    "inpaint(pair, data, mask), True where observed",
                    f"a description that declares them: {name}=Observed(..., mask='seen'), seen=Mask()",
                )
            )
        visible = declared.present
    elif not isinstance(work.example, Tensor):
        raise DataError(
            f"inpaint: the entries of {name!r} share a total, which says what is missing: expected independent ones"
            + try_one_of("predict_given", "a likelihood of independent entries, such as a Poisson")
        )
    assert visible is not None
    require_simulable(work.pair, work.example)
    if kind == "mean":
        require_mean(work.pair, work.example, name, None if declared else {})
    guide = guide_as_model(work.pair)

    def log_weight(x: Data, z: Mapping[str, Tensor]) -> Tensor:
        return (log_joint(work.pair, x, z).local - log_joint(guide, x, z).local)[0]

    def filled(x: Data, observed: Tensor, sample: Tensor) -> Data:
        # Gaps that the pair declares have no density, whatever stands there.
        return torch.where(observed, x, sample) if declared is None and isinstance(x, Tensor) else x

    def step(x: Data, observed: Tensor, z: dict[str, Tensor]) -> tuple[Data, Tensor, dict[str, Tensor]]:
        new = draw(work.pair, x, 1).latents
        if correction and new:  # all latents may be summed out
            odds = log_weight(x, new) - log_weight(x, z)
            keep = torch.rand_like(odds).log() > odds
            new = {key: torch.where(_like(keep, z[key][0]), z[key], new[key]) for key in new}
        sample = predict(work.pair, x, new, kind="sample", sites=(name,), num_draws=1)[name][0]
        if kind == "sample":
            return filled(x, observed, sample), sample, new
        mean = predict(work.pair, x, new, sites=(name,), num_draws=1)[name][0]
        return filled(x, observed, sample), mean, new

    run = work.capture(step, name="a step of inpainting", calls=num_steps * work.num_chunks)

    def chain(x: Data, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        observed, values = beside["visible"], beside["values"]
        x = filled(x, observed, simulate(work.pair, x).observed[name])
        z = draw(work.pair, x, 1).latents
        total, found = torch.zeros_like(values), values
        for count in progress_bar(range(num_steps), desc="inpaint", show=progress):
            x, found, z = run(x, observed, z)
            if count >= num_burn_in:
                total += found
        fill = found if kind == "sample" else total / (num_steps - num_burn_in)
        return {"x": torch.where(observed, values, fill)}

    values = work.data.main_of(work.data.tensor(dtype=work.dtype)) if declared is None else declared.values
    beside = {"visible": visible.to(work.device), "values": values.to(work.device, work.dtype)}
    return work.run(chain, beside=beside)["x"]


def _blank(data: Any, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The data with 0 where they are missing, and which entries are there, of their shape.

    Raises:
        DataError: data that are a mapping, or a mask that is none or of another shape.
    """
    source = data.binarize(seed).tensor() if isinstance(data, Dataset) else data
    if isinstance(source, Mapping):
        raise DataError(
            "inpaint: expected one tensor of data beside a mask, found a mapping"
            + try_one_of(
                "no mask, where the pair declares its gaps: mark these entries in its own member",
                "predict_given, which conditions on some of the members",
            )
        )
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
    return values.where(visible, torch.zeros_like(values)), visible


def _like(flag: Tensor, value: Tensor) -> Tensor:
    """A flag per datum, [B], with the axes of a value [B, *event]."""
    return flag.reshape(-1, *(1,) * (value.dim() - 1))
