"""Restore data of which a part is seen, exactly or through noise: inpainting, super-resolution, denoising."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributions as td
from torch import Tensor

from .joint import require_mean
from .noise import Noise, require_channel
from .restoration import Moments, Restoration
from ..execution.arguments import require_integer
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ..execution.progress import progress_bar
from ...core import (
    Data,
    DataError,
    ModelGuidePair,
    PairError,
    PpvaeError,
    SiteInfo,
    draw,
    log_guide,
    log_joint,
    predict,
    simulate,
    structure,
)
from ...core.axes import to_canonical
from ...core.conditioning import hold_sites
from ...core.density import observed_support
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import NoisyValue, require_simulable
from ...data import Dataset


@in_evaluation_mode
def inpaint(
    pair: ModelGuidePair,
    data: Any,
    mask: Tensor,
    *,
    noise: Noise | None = None,
    num_steps: int = 200,
    num_burn_in: int = 50,
    num_chains: int = 8,
    num_draws: int = 4,
    correction: bool = True,
    global_sites: Mapping[str, Tensor] | Literal["mean"] | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Restoration:
    r"""The posterior of the entries that are not seen, or seen through noise, given those that are: $p(x \mid y)$.

    $$z \sim q(z \mid x),\qquad x \sim p(x \mid z, y) = \textstyle\prod_i p(x_i \mid z, y_i)$$

    in turn (Rezende, Mohamed & Wierstra 2014, arXiv 1401.4082, appendix F: pseudo-Gibbs, exact only where the guide
    is the posterior). With ``correction`` the draw of z is accepted with probability
    $\min(1, \frac{p(x, z')\, q(z \mid x)}{p(x, z)\, q(z' \mid x)})$ (Mattei & Frellsen 2018, arXiv 1802.04826), which
    makes the chain exact for any guide that covers the posterior. An entry that is seen is $x_i = y_i$ or, with
    ``noise``, $y_i \sim p(y_i \mid x_i)$; of one that is hidden nothing is known. Each datum has several chains, from
    different draws of the model: mean and variance are averages of $\mathrm{E}[x \mid z, y]$ and
    $\mathrm{Var}[x \mid z, y]$ over all of them, and the error of the mean is the spread of theirs.

    Super-resolution is a mask, :func:`coarse_grid`; denoising is :func:`denoise`.

    Args:
        pair: the pair; x given z must be independent over the entries of x.
        data: the data y, [N, *event]; hidden entries may have any value, also NaN.
        mask: True where seen, of the shape of the data or broadcasting to it: of your own, or by :func:`hide`.
        noise: what the seen entries went through, :class:`Flips` or :class:`AdditiveNormal`; None for nothing.
        num_steps: steps of each chain, including the burn-in.
        num_burn_in: steps before the averages begin.
        num_chains: C, for every datum.
        num_draws: S, at most C times the steps after the burn-in.
        correction: accept or reject each draw of z.
        global_sites: values of the global latent sites, or "mean" for their mean under the guide: what comes back is
            given these, without what is uncertain of them.
        seed: of the draws.
        chunk_size: chains at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        PairError: not exactly one observed site, which is all of the data; entries of it that depend on each other
            given z, some hidden and others seen; no mean; noise that is not of its family; a global latent site
            without a value.
        DataError: a mapping; a mask that does not fit; a seen value that is not finite, or that the likelihood does not
            have, grey under a Bernoulli among them.
        PpvaeError: numbers of steps, chains or draws that make no sense.

    >>> from ppvae.models import FactorAnalysis
    >>> x = torch.tensor([[0.3, -1.2, float("nan"), float("nan")]])
    >>> restored = inpaint(FactorAnalysis(4, 2), x, ~x.isnan())
    >>> restored.mean[:, :2], restored.draws.shape
    (tensor([[ 0.3000, -1.2000]]), torch.Size([4, 1, 4]))
    """
    if not 0 <= num_burn_in < num_steps:
        raise PpvaeError(f"inpaint: expected 0 <= num_burn_in < num_steps, found {num_burn_in} and {num_steps}")
    require_integer("num_chains", num_chains, 1)
    require_integer("num_draws", num_draws, 0)
    num_kept = num_steps - num_burn_in
    if num_draws > num_chains * num_kept:
        raise PpvaeError(
            f"num_draws: expected at most num_chains * (num_steps - num_burn_in) = {num_chains * num_kept}, "
            f"found {num_draws}" + try_one_of("more num_chains, whose draws are independent", "more num_steps")
        )
    values, visible = _seen(data, mask, seed)
    # What is not seen is drawn before it is looked at: some value that the likelihood has.
    some = values[visible].flatten()[:1] if visible.any() else values.new_zeros(1)
    rows = max(1, chunk_size // num_chains)
    y = values.where(visible, some)
    work = OverData(pair, y, device=device, seed=seed, chunk_size=rows, compile=compile)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        work.pair = hold_sites(work.pair, work.example, global_sites)
    visible = visible.to(work.device)
    info = _site(work)
    name = info.name
    _require_independent(info, visible)
    if noise is not None:
        require_channel(noise, info)
    _require_inside(work, info, visible, noise)
    require_simulable(work.pair, work.example, batches=True)
    require_mean(work.pair, work.example, name, {})

    def log_weight(x: Tensor, z: Mapping[str, Tensor]) -> Tensor:
        return (log_joint(work.pair, x, z).local - log_guide(work.pair, x, z)[0])[0]

    def step(
        x: Tensor, y: Tensor, seen: Tensor, z: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]]:
        new = draw(work.pair, x, 1).latents
        accepted = torch.ones_like(x.flatten(1)[:, 0])
        if correction and new:  # all latents may be summed out
            odds = log_weight(x, new) - log_weight(x, z)
            take = torch.rand_like(odds).log() < odds
            new = {key: torch.where(_like(take, z[key][0]), new[key], z[key]) for key in new}
            accepted = take.to(accepted.dtype)
        through = None if noise is None else {name: NoisyValue(noise, y, seen)}
        sample, mean, variance = (
            predict(work.pair, x, new, kind=kind, given={}, discrete="data", num_draws=1, noise=through)[name][0]
            for kind in _KINDS
        )
        if noise is None:
            sample, mean = (torch.where(seen, y, value) for value in (sample, mean))
            variance = torch.where(seen, torch.zeros_like(variance), variance)
        return sample, mean, variance, accepted, new

    run = work.capture(step, name="a step of inpainting", calls=num_steps * work.num_chunks)
    rounds = max(1, -(-num_draws // num_chains))
    kept = {num_burn_in + num_kept * (place + 1) // rounds - 1 for place in range(rounds)}

    def chains(y: Tensor, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        exact = beside["visible"] if noise is None else torch.zeros_like(beside["visible"])
        each, seen = y, beside["visible"].repeat_interleave(num_chains, 0)
        y = y.repeat_interleave(num_chains, 0)
        x = torch.where(seen, y, simulate(work.pair, y).observed[name])
        z = draw(work.pair, x, 1).latents
        moments, states = Moments(x, num_chains), []
        for count in range(num_steps):
            x, mean, variance, accepted, z = run(x, y, seen, z)
            if count >= num_burn_in:
                moments.add(mean, variance, accepted)
            if count in kept:
                states.append(x.reshape(-1, num_chains, *x.shape[1:]))
            bar.update()
        found = moments.result()
        found["mean"] = torch.where(exact, each, found["mean"])  # an average of the same value rounds it
        for key in ("standard_deviation", "standard_error"):
            found[key] = found[key].masked_fill(exact, 0.0)
        return {**found, "draws": torch.cat(states, 1)[:, :num_draws]}

    with progress_bar(show=progress, total=num_steps * work.num_chunks, desc="restore") as bar:
        result = work.run(chains, beside={"visible": visible})
    return Restoration(**{**result, "draws": result["draws"].movedim(1, 0)})


@in_evaluation_mode
def denoise(
    pair: ModelGuidePair,
    data: Any,
    noise: Noise,
    *,
    num_steps: int = 200,
    num_burn_in: int = 50,
    num_chains: int = 8,
    num_draws: int = 4,
    correction: bool = True,
    global_sites: Mapping[str, Tensor] | Literal["mean"] | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Restoration:
    r"""The posterior of clean data given noisy ones, under a noise that is stated: $p(x \mid y)$.

    $$p(x \mid y) \propto \int p(z) \textstyle\prod_i p(x_i \mid z)\, p(y_i \mid x_i)\, dz$$

    by the chain of :func:`inpaint`, every entry seen through the noise: arguments as there. Kingma & Welling 2013
    (arXiv 1312.6114, section 2.1) name denoising as a use of the model. To encode and decode the noisy data as if they
    were clean is :func:`reconstruct`.

    Args:
        pair: the pair.
        data: the noisy data y, [N, *event].
        noise: what they went through, :class:`Flips` or :class:`AdditiveNormal`.
        num_steps: as for :func:`inpaint`, like all that follow.
        num_burn_in: steps before the averages begin.
        num_chains: C.
        num_draws: S.
        correction: accept or reject each draw of z.
        global_sites: values of the global latent sites.
        seed: of the draws.
        chunk_size: chains at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar.

    Raises:
        PpvaeError: as for :func:`inpaint`.
    """
    return inpaint(
        pair,
        data,
        torch.ones(1, dtype=torch.bool),
        noise=noise,
        num_steps=num_steps,
        num_burn_in=num_burn_in,
        num_chains=num_chains,
        num_draws=num_draws,
        correction=correction,
        global_sites=global_sites,
        seed=seed,
        chunk_size=chunk_size,
        device=device,
        compile=compile,
        progress=progress,
    )


_KINDS: tuple[Literal["sample", "mean", "variance"], ...] = ("sample", "mean", "variance")

# --- below: what the chain would be wrong about -----------------------------------------------------------------------


def _seen(data: Any, mask: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The data as one tensor, and which entries of it are seen."""
    source = data.binarize(seed).tensor() if isinstance(data, Dataset) else data
    if isinstance(source, Mapping | tuple):
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
    bad = (visible & ~values.isfinite()).nonzero()
    if len(bad):
        place = ", ".join(map(str, bad[0].tolist()))
        raise DataError(
            f"inpaint: the value at [{place}] is {float(values[tuple(bad[0])])}, and the mask says that it is seen"
            + try_one_of("mask & x.isfinite()")
        )
    return values, visible


def _site(work: OverData) -> SiteInfo:
    """The observed site, which is all of the data."""
    sites = [i for i in structure(work.pair, work.example).observed if i.scope == "local"]
    if len(sites) != 1:
        names = ", ".join(repr(site.name) for site in sites)
        raise PairError(
            f"the pair observes {len(sites)} sites{f' ({names})' if names else ''}: expected one, of which entries are "
            "hidden" + try_one_of("predict_given(pair, {site: values}, like=...), one site given others")
        )
    (info,) = sites
    event = tuple(work.data.event_shape)
    if info.shape != event:
        raise PairError(
            f"site {info.name!r} observes values of shape {list(info.shape)}: expected all of the data, {list(event)}"
            + try_one_of("obs=x, all of it")
        )
    return info


def _require_independent(info: SiteInfo, visible: Tensor) -> None:
    """An event of a joint distribution is seen as a whole or not at all: x_i given z and the others is not known."""
    if info.joint_axes == 0:
        return
    events = visible.flatten(-info.joint_axes)
    if bool((events.any(-1) != events.all(-1)).any()):
        raise PairError(
            f"site {info.name!r}: the entries of a {info.family_name} of shape {list(info.shape[-info.joint_axes :])} "
            "depend on each other given z: expected all of them seen or all hidden, found some of each"
            + try_one_of(
                "a mask that is the same for all of them",
                "a likelihood of independent entries: Bernoulli, Normal(...).to_event(1)",
            )
        )


def _require_inside(work: OverData, info: SiteInfo, visible: Tensor, noise: Noise | None) -> None:
    """What is seen is a value of the likelihood; through noise, of the channel."""
    binary = noise.binary if noise is not None else info.is_a(td.Bernoulli)

    def outside(x: Data, beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = beside["visible"]
        if binary:
            assert isinstance(x, Tensor)
            return {"outside": seen & (x != 0) & (x != 1)}
        shape = structure(work.pair, x)
        found = observed_support(work.pair, x).get(info.name)
        if found is None or noise is not None:
            return {"outside": torch.zeros_like(seen)}
        inside = found.inside
        inside = inside.reshape(*inside.shape, *(1,) * (found.value.dim() - inside.dim())).expand(found.value.shape)
        return {"outside": seen & ~to_canonical(inside, info, shape.nesting, 1)[0]}

    found = work.run(outside, beside={"visible": visible})["outside"]
    if not found.any():
        return
    row = int(found.flatten(1).any(1).nonzero()[0])
    if binary:
        raise DataError(
            f"inpaint: datum {row} has grey values, and a {info.family_name} draws zeros and ones: a chain that mixes "
            "them is of no model"
            + try_one_of(
                'Dataset(x, binarization="dynamic"), or x = (x > 0.5).float()',
                "a likelihood for grey values: ContinuousBernoulli, Normal",
            )
        )
    raise DataError(
        f"inpaint: datum {row} has a value that is seen and that a {info.family_name} does not have"
        + try_one_of("a mask that hides it")
    )


def _like(flag: Tensor, value: Tensor) -> Tensor:
    """A flag per datum, [B], with the axes of a value [B, *event]."""
    return flag.reshape(-1, *(1,) * (value.dim() - 1))
