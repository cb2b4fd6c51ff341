"""Chains over what is not known of damaged data: latents with the data integrated out, or both in turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .noise import Noise
from .restoration import Moments
from ..execution.arguments import require_literal
from ..execution.over_data import OverData
from ..execution.progress import progress_bar
from ..hmc import sample_posterior
from ...core import (
    Data,
    ModelGuidePair,
    PairError,
    PpvaeError,
    batch_size,
    draw,
    log_guide,
    log_joint,
    members_of,
    predict,
    rows_of,
    simulate,
    structure,
    unconstrained,
)
from ...core.conditioning import PartlySeen
from ...core.errors import try_one_of
from ...core.simulation import NoisyValue
from ...core.wrappers import with_axes

Method = Literal["auto", "hmc", "metropolis-within-gibbs", "pseudo-gibbs"]
Kind = Literal["sample", "mean", "variance"]
Found = dict[str, Tensor]
"""Fields of a :class:`Restoration`, of some data."""


class Length(NamedTuple):
    """How long the chains are, and what is kept of them."""

    num_burn_in: int
    num_kept: int
    num_chains: int
    num_draws: int

    @property
    def kept(self) -> set[int]:
        """The steps after the burn-in whose states are draws: the last, and as far apart as there is room for."""
        rounds = max(1, -(-self.num_draws // self.num_chains))
        return {self.num_kept * (place + 1) // rounds - 1 for place in range(rounds)}


@dataclass(frozen=True, eq=False)
class Damage:
    """Data of which something is known.

    Attributes:
        work: the pair and the data.
        name: the observed site.
        noise: what is seen went through; None for nothing.
        declared: whether the pair declares what is hidden, so that it is no part of its density.
        beside: which entries are "seen", bool [N, *event], and their "values".
        held: values of global sites.
    """

    work: OverData
    name: str
    noise: Noise | None
    declared: bool
    beside: Mapping[str, Tensor]
    held: Mapping[str, Tensor]

    def moments(
        self, pair: ModelGuidePair, x: Data, y: Tensor, seen: Tensor, z: Mapping[str, Tensor], *kinds: Kind
    ) -> tuple[Tensor, ...]:
        """Mean, variance of, or a draw from, p(x | z, y)."""
        through = None if self.noise is None else {self.name: NoisyValue(self.noise, y, seen)}
        found = []
        for kind in kinds:
            (value,) = predict(pair, x, z, kind=kind, sites=(self.name,), num_draws=1, noise=through)[self.name]
            if self.noise is None:
                value = torch.where(seen, torch.zeros_like(value) if kind == "variance" else y, value)
            found.append(value)
        return tuple(found)

    def gather(self, moments: Moments, states: list[Tensor], length: Length, each: Mapping[str, Tensor]) -> Found:
        """What a chunk's chains found."""
        found = moments.result()
        exact = each["seen"] if self.noise is None else torch.zeros_like(each["seen"])
        found["mean"] = torch.where(exact, each["values"], found["mean"])  # an average of the same value rounds it
        for key in ("standard_deviation", "standard_error"):
            found[key] = found[key].masked_fill(exact, 0.0)
        several = [state.reshape(-1, length.num_chains, *state.shape[1:]) for state in states]
        return {**found, "draws": torch.cat(several, 1)[:, : length.num_draws]}

    def run(self, visit: Callable[..., Found], more: Mapping[str, Tensor] | None = None) -> Found:
        """A visit to every chunk of data, and of what is beside them."""
        result = self.work.run(visit, beside={**self.beside, **(more or {})})
        return {**result, "draws": result["draws"].movedim(1, 0)}


def choose_method(method: Method, damage: Damage, num_burn_in: int) -> Method:
    """Hamiltonian Monte Carlo wherever it can be, unless another method is asked for.

    Raises:
        PairError: it was asked for, and the latents are not such that it can be.
        PpvaeError: no burn-in for it to adapt in, or an unknown method.
    """
    require_literal("method", method, Method)
    if method not in ("auto", "hmc"):
        return method
    if error := _without_hmc(damage):
        if method == "hmc":
            raise error
        return "metropolis-within-gibbs"
    if num_burn_in == 0:
        raise PpvaeError(
            "expected num_burn_in of at least 1, in which HMC adapts its steps, found 0"
            + try_one_of("num_burn_in=150", 'method="metropolis-within-gibbs"')
        )
    return "hmc"


def _without_hmc(damage: Damage) -> PairError | None:
    """Why Hamiltonian Monte Carlo cannot be; None where it can."""
    work = damage.work
    try:
        unconstrained(work.pair, work.example)
    except PairError as error:
        return error
    summed = structure(work.pair, work.example).enumerated
    if damage.noise is None or not summed:
        return None
    names = ", ".join(repr(info.name) for info in summed)
    return PairError(
        f"site {names} is summed out, and what is seen went through noise: expected no sum for HMC"
        + try_one_of('method="metropolis-within-gibbs"')
    )


def hamiltonian(damage: Damage, length: Length, *, progress: bool) -> Found:
    """Chains over z alone, by :func:`sample_posterior`; then the moments of x at their states."""
    work, declared, chains = damage.work, damage.declared, length.num_chains
    draws = sample_posterior(
        work.original if declared else PartlySeen(work.original, work.example, damage.name, damage.noise),
        work.data if declared else {**damage.beside, "seen": damage.beside["seen"].to(work.dtype)},
        num_samples=length.num_kept,
        num_warmup=length.num_burn_in,
        num_chains=chains,
        start="prior",  # further apart than the posterior, so that R-hat sees chains that have not arrived
        global_sites=damage.held or None,
        seed=work.seed,
        device=work.device,
        compile=work.compile,
        progress=progress,
    )
    # Of what is summed out, what is seen is known; through noise, p(x | z, y) is made of the pair's own p(x | z).
    pair = draws.pair if damage.noise is None else work.pair

    def states(x: Data, y: Tensor, seen: Tensor, u: Tensor, *kinds: Kind) -> tuple[Tensor, ...]:
        batch = x if declared or pair is work.pair else {"values": y, "seen": seen}
        return damage.moments(pair, batch, y, seen, draws.coordinates.constrain(u[None])[0], *kinds)

    def run(*kinds: Kind) -> Callable[..., tuple[Tensor, ...]]:
        calls = length.num_kept * work.num_chunks
        return work.capture(lambda *of: states(*of, *kinds), name="a step of inpainting", calls=calls)

    average, sample = run("mean", "variance"), run("sample")

    def visit(x: Data, each: Mapping[str, Tensor]) -> Found:
        x, y, seen = (_by_chain(part, chains) for part in (x, each["values"], each["seen"]))
        moments, drawn = Moments(y, chains), list[Tensor]()
        for step in range(length.num_kept):
            at = (x, y, seen, each["u"][:, :, step].flatten(0, 1))
            mean, variance = average(*at)
            moments.add(mean, variance, each["acceptance"][:, :, step].flatten())
            if step in length.kept:
                drawn += sample(*at)
        found = damage.gather(moments, drawn, length, each)
        return {**found, "r_hat": found["r_hat"].where(each["ok"], math.inf)}

    by_datum = {
        "u": draws.unconstrained.movedim(2, 0),
        "acceptance": draws.stats["acceptance"].movedim(2, 0),
        "ok": draws.ok.all(0),
    }
    return damage.run(visit, {name: value.to(work.device) for name, value in by_datum.items()})


def _by_chain(x: Any, num_chains: int) -> Any:
    """Every row once for each of its chains, side by side."""
    rows = torch.arange(batch_size(x), device=next(iter(members_of(x).values())).device)
    return rows_of(x, rows.repeat_interleave(num_chains))


def alternating(damage: Damage, length: Length, *, correction: bool, progress: bool) -> Found:
    """Chains over z and x in turn, z from the guide and accepted or, without correction, taken."""
    work, declared = damage.work, damage.declared

    def log_weight(x: Data, z: Mapping[str, Tensor]) -> Tensor:
        return (log_joint(work.pair, x, z).local - log_guide(work.pair, x, z)[0])[0]

    def step(x: Data, y: Tensor, seen: Tensor, z: dict[str, Tensor]) -> Any:
        new = draw(work.pair, x, 1).latents
        accepted = torch.ones_like(y.flatten(1)[:, 0])
        if correction and new:  # all latents may be summed out
            odds = log_weight(x, new) - log_weight(x, z)
            take = torch.rand_like(odds).log() < odds
            new = {key: torch.where(with_axes(take, new[key].dim() - 1), new[key], z[key]) for key in new}
            accepted = take.to(accepted.dtype)
        return *damage.moments(work.pair, x, y, seen, new, "sample", "mean", "variance"), accepted, new

    num_steps = length.num_burn_in + length.num_kept
    run = work.capture(step, name="a step of inpainting", calls=num_steps * work.num_chunks)

    def visit(x: Data, each: Mapping[str, Tensor]) -> Found:
        x, y, seen = (_by_chain(part, length.num_chains) for part in (x, each["values"], each["seen"]))
        state = torch.where(seen, y, simulate(work.pair, x).observed[damage.name])
        # Gaps that the pair declares have no density, whatever stands there.
        x = x if declared else state
        z = draw(work.pair, x, 1).latents
        moments, drawn = Moments(state, length.num_chains), []
        for count in range(-length.num_burn_in, length.num_kept):
            state, mean, variance, accepted, z = run(x, y, seen, z)
            x = x if declared else state
            if count >= 0:
                moments.add(mean, variance, accepted)
            if count in length.kept:
                drawn.append(state)
            bar.update()
        return damage.gather(moments, drawn, length, each)

    with progress_bar(show=progress, total=num_steps * work.num_chunks, desc="restore") as bar:
        return damage.run(visit)
