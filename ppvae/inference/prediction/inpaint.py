"""Restore data of which a part is seen, exactly or through noise: inpainting, super-resolution, denoising."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from .joint import require_mean
from .noise import Noise, require_channel
from .restorable import (
    declared_gaps,
    only_site,
    require_independent,
    require_inside,
    require_unread,
    seen_of,
    site_with_gaps,
)
from .restoration import Restoration
from .restoring import Damage, Length, Method, alternating, choose_method, hamiltonian
from ..execution.arguments import require_integer
from ..execution.over_data import OverData
from ..execution.placement import Compile
from ...core import DataError, ModelGuidePair, PairError, PpvaeError
from ...core.conditioning import global_values, hold_sites
from ...core.errors import try_one_of
from ...core.modes import in_evaluation_mode
from ...core.simulation import require_simulable


@in_evaluation_mode
def inpaint(
    pair: ModelGuidePair,
    data: Any,
    mask: Tensor | None = None,
    *,
    noise: Noise | None = None,
    site: str | None = None,
    num_steps: int = 300,
    num_burn_in: int = 150,
    num_chains: int = 8,
    num_draws: int = 4,
    method: Method = "auto",
    global_sites: Mapping[str, Tensor] | Literal["mean"] | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Restoration:
    r"""The posterior of the entries that are not seen, or seen through noise, given those that are: $p(x \mid y)$.

    $$p(x \mid y) = \int p(x \mid z, y)\, p(z \mid y)\, dz,\qquad
      p(z \mid y) \propto p(z) \prod_{i\,\text{seen}} \int p(y_i \mid x_i)\, p(x_i \mid z)\, dx_i$$

    An entry that is seen is $x_i = y_i$ or, with ``noise``, $y_i \sim p(y_i \mid x_i)$; of one that is hidden nothing
    is known. Latents are drawn from $p(z \mid y)$ by Hamiltonian Monte Carlo, all of x integrated out, as by
    :func:`sample_posterior`. Each datum has several chains, from different draws of the prior: mean and variance are
    averages of $\mathrm{E}[x \mid z, y]$ and $\mathrm{Var}[x \mid z, y]$ over all of them, and the error of the mean
    is the spread of theirs.

    Where a latent is discrete, or ``method`` says so, z and x are drawn in turn,

    $$z \sim q(z \mid x),\qquad x \sim p(x \mid z, y) = \prod_i p(x_i \mid z, y_i)$$

    (Rezende, Mohamed & Wierstra 2014, arXiv 1401.4082, appendix F: "pseudo-gibbs", exact only where the guide is the
    posterior), each z accepted with probability
    $\min(1, \frac{p(x, z')\, q(z \mid x)}{p(x, z)\, q(z' \mid x)})$ (Mattei & Frellsen 2018, arXiv 1802.04826:
    "metropolis-within-gibbs"), which makes the chain exact for any guide that covers the posterior. It is slow where
    the guide is far off: on binarised MNIST, half hidden, one draw in 100 to 500 was accepted.

    Super-resolution is a mask, :func:`coarse_grid`; denoising is :func:`denoise`.

    A pair that declares its gaps (:class:`~ppvae.models.Mask`, :class:`~ppvae.models.Lengths`, or a masked likelihood
    of its own) has its data as it trains on them, and no ``mask`` beside: what is hidden is no part of its density, so
    that the chain is over z alone. Steps beyond a length are filled with what the model says of them, which is a
    forecast only where its latents go on there.

    Args:
        pair: the pair; x given z must be independent over the entries of x.
        data: the data y, [N, *event]; hidden entries may have any value, also NaN. A mapping where the pair declares
            its gaps.
        mask: True where seen, of the shape of the data or broadcasting to it: of your own, or by :func:`hide`. None
            where the pair declares what is hidden.
        noise: what the seen entries went through, :class:`Flips` or :class:`AdditiveNormal`; None for nothing. With a
            mask.
        site: the observed site to fill; None where there is one only, as there is beside a mask.
        num_steps: steps of each chain, including the burn-in; of ten leapfrogs by Hamiltonian Monte Carlo.
        num_burn_in: steps before the averages begin, in which Hamiltonian Monte Carlo adapts.
        num_chains: C, for every datum.
        num_draws: S, at most C times the steps after the burn-in.
        method: "hmc", "metropolis-within-gibbs" or "pseudo-gibbs"; "auto" for Hamiltonian Monte Carlo wherever the
            latents that are not summed out are continuous, and with noise none is summed out, and else
            Metropolis within Gibbs.
        global_sites: values of the global latent sites, or "mean" for their mean under the guide: what comes back is
            given these, without what is uncertain of them.
        seed: of the draws.
        chunk_size: chains at a time.
        device: "auto", "cpu", "cuda".
        compile: see :func:`ppvae.core.compile.capture`.
        progress: show a bar on a terminal, and elsewhere a line now and then.

    Raises:
        PairError: an unknown site; beside a mask, not exactly one observed site, which is all of the data; without
            one, several sites and none named; entries of it that depend on each other given z, some hidden and others
            seen; no mean; noise that is not of its family; a global latent site without a value; parameters for
            every datum; latents that Hamiltonian Monte Carlo does not have, where it is asked for.
        DataError: no mask and no gaps that the pair declares, or both; a mask that does not fit; a seen value that is
            not finite, or that the likelihood does not have, grey under a Bernoulli among them.
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
    if mask is None and noise is not None:
        raise DataError(
            "inpaint: noise goes with a mask, and none is given"
            + try_one_of("denoise(pair, data, noise), where all of the data are noisy", "mask=..., True where seen")
        )
    y, visible = (data, None) if mask is None else seen_of(data, mask, seed)
    rows = max(1, chunk_size // num_chains)
    work = OverData(pair, y, device=device, seed=seed, chunk_size=rows, compile=compile)
    if work.needs_all_data:
        raise PairError(
            "inpaint: the pair has parameters for every datum, which are those of data without gaps: expected a guide "
            "that reads the data" + try_one_of("a guide with a network of x (an encoder)")
        )
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        held = global_values(work.pair, work.example, global_sites)
        work.pair = hold_sites(work.pair, work.example, held or None)
    declared = mask is None
    if visible is None:
        info = site_with_gaps(work, site)
        values, visible = declared_gaps(work, info.name)
    else:
        info = only_site(work, site)
        values = work.data.main_of(work.data.tensor(dtype=work.dtype))
    name = info.name
    beside = {"seen": visible.to(work.device), "values": values.to(work.device, work.dtype)}
    require_independent(info, beside["seen"])
    if noise is not None:
        require_channel(noise, info)
    require_inside(work, info, beside, noise)
    if declared:
        require_unread(work, name)
    require_simulable(work.pair, work.example, batches=not declared)
    require_mean(work.pair, work.example, name, None if declared else {})
    damage = Damage(work, name, noise, declared, beside, held)
    chosen = choose_method(method, damage, num_burn_in)
    sample = hamiltonian if chosen == "hmc" else partial(alternating, correction=chosen != "pseudo-gibbs")
    length = Length(num_burn_in, num_kept, num_chains, num_draws)
    return Restoration(**sample(damage, length, progress=progress))


@in_evaluation_mode
def denoise(
    pair: ModelGuidePair,
    data: Any,
    noise: Noise,
    *,
    num_steps: int = 300,
    num_burn_in: int = 150,
    num_chains: int = 8,
    num_draws: int = 4,
    method: Method = "auto",
    global_sites: Mapping[str, Tensor] | Literal["mean"] | None = None,
    seed: int = 0,
    chunk_size: int = 1000,
    device: str = "auto",
    compile: Compile = "auto",
    progress: bool = False,
) -> Restoration:
    r"""The posterior of clean data given noisy ones, under a noise that is stated: $p(x \mid y)$.

    $$p(x \mid y) \propto \int p(z) \prod_i p(x_i \mid z)\, p(y_i \mid x_i)\, dz$$

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
        method: of sampling.
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
        method=method,
        global_sites=global_sites,
        seed=seed,
        chunk_size=chunk_size,
        device=device,
        compile=compile,
        progress=progress,
    )
