"""HMC draws from the posterior of every datum of a chunk, for the evidence methods."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .base import Memory
from .outcome import Outcome
from .run import EvidenceRun
from ..hmc.chains import ChainOutcome, sample_chunk
from ..hmc.diagnostics import ess, rhat
from ..hmc.integrator import PhasePoint, leapfrog, value_and_gradient
from ..hmc.kernel import HMCInfo, HMCState, hmc_kernel
from ..hmc.options import HMC
from ...core import Data, draw, log_guide, unconstrained

_TRIES = 10
_GUIDE_DRAWS = 32
_RHAT = 1.1  # of ten coordinates of one mode, the worst passes 1.05 in one datum of twenty
_FEWEST_DRAWS = 25.0  # effective ones, of the worst coordinate
_GRADIENT = 4.0  # memory of a gradient over that of the density alone


class Draws(NamedTuple):
    """Posterior draws of a chunk.

    Attributes:
        u: unconstrained positions, [C, n, B, d]; zero in chains that failed.
        log_density: log p(x, z) + log-Jacobian there, [C, n, B], nats.
        good: chains that were sampled without failure, bool [C, B].
        info: "acceptance", "divergences", and of the worst coordinate "rhat" and "ess", each [B].
    """

    u: Tensor
    log_density: Tensor
    good: Tensor
    info: dict[str, Tensor]


class Posterior:
    """The posterior of a pair's local latents in unconstrained coordinates, captured.

    Args:
        run: the pair, its state, where and how to compute.
    """

    def __init__(self, run: EvidenceRun) -> None:
        self.run = run
        self.pair = run.pair

    def draws(self, x: Data, options: HMC, num_chains: int, num_warmup: int, num_samples: int) -> Draws:
        """Warm up, then draw: num_samples from each of num_chains chains."""
        run, batch = self.run, self.run.batch_of(x)
        calls = (num_warmup + num_samples) * options.num_leapfrog
        step = run.remember("posterior leapfrog", self._leapfrog, calls=calls, draws=3 * num_chains * batch)
        evaluate = run.remember("posterior gradient", self._evaluate)
        u = self._both_starts(x, num_chains)
        state, failed = HMCState(u, *evaluate(x, u)), torch.ones(u.shape[:-1], dtype=torch.bool, device=u.device)
        for attempt in range(_TRIES):
            finite = torch.isfinite(state.u).all(-1) & torch.isfinite(state.gradient).all(-1)
            failed = ~(finite & torch.isfinite(state.log_density))
            if not bool(failed.any()) or attempt == _TRIES - 1:
                break
            u = torch.where(failed.unsqueeze(-1), self.start(x, num_chains), state.u)
            state = HMCState(u, *evaluate(x, u))
        zero = failed.unsqueeze(-1)
        state = HMCState(state.u.masked_fill(zero, 0), state.log_density, state.gradient.masked_fill(zero, 0))
        variance = self.start(x, _GUIDE_DRAWS).var(0)
        variance = torch.where(torch.isfinite(variance) & (variance > 1e-10), variance, 1.0).contiguous()
        generator = torch.Generator(device=run.device).manual_seed(int(torch.randint(2**62, ())))
        share = batch / (num_warmup + num_samples)

        def report(info: HMCInfo, warming: bool) -> None:
            run.tick(share)

        def stepper(point: PhasePoint, size: Tensor, inverse_mass: Tensor) -> Any:
            return step(x, point, size, inverse_mass)

        make_kernel = partial(hmc_kernel, stepper, jitter=options.jitter)
        sample = sample_chunk(
            make_kernel, state, failed, (), options, num_warmup, num_samples, variance, generator, report
        )
        good = (sample.outcome == int(ChainOutcome.OK)) & torch.isfinite(sample.u).all(-1).all(1)
        info = {
            "acceptance": sample.stats["acceptance"].mean((0, 1)),
            "divergences": sample.stats["diverging"].sum((0, 1)),
            **mixing(sample.u, sample.stats["log_density"]),
        }
        return Draws(sample.u.nan_to_num(0.0), sample.stats["log_density"].nan_to_num(0.0), good, info)

    def _both_starts(self, x: Data, num_chains: int) -> Tensor:
        """Every other chain starts at the prior: a mode that the guide misses shows as chains that disagree."""
        u, prior = self.start(x, num_chains), self.run.prior_pair
        if num_chains == 1:
            return u

        def from_prior(x: Data) -> Tensor:
            return unconstrained(self.pair, x).unconstrain(draw(prior, x, num_chains).latents)

        call = self.run.remember(f"begin prior x{num_chains}", from_prior)
        odd = (torch.arange(num_chains, device=u.device) % 2 == 1)[:, None, None]
        return torch.where(odd, call(x), u).contiguous()

    def log_density(self, x: Data, u: Tensor) -> Tensor:
        """log p(x, z) + log-Jacobian, [m, B], at u [m, B, d]."""
        return self._pieces("posterior density", self.density, x, u)

    def log_encoder(self, x: Data, u: Tensor) -> Tensor:
        """log q(z | x) + log-Jacobian, [m, B], at u [m, B, d]."""
        return self._pieces("encoder density", self._encoder, x, u)

    def start(self, x: Data, num: int) -> Tensor:
        """Draws from the guide, [num, B, d]."""
        u: Tensor = self.run.remember(f"begin x{num}", lambda x: self._start(x, num))(x)
        return u.contiguous()

    def _pieces(self, name: str, function: Any, x: Data, u: Tensor) -> Tensor:
        size = max(1, self.run.draws_at_once // u.shape[1])
        rows = u.shape[0]
        steps = -(-rows // size)
        size = -(-rows // steps)
        call = self.run.remember(f"{name} x{size}", function, calls=steps, draws=size * u.shape[1])
        padded = torch.cat([u, u[-1:].expand(steps * size - rows, -1, -1)])
        return torch.cat([call(x, part.contiguous()) for part in padded.split(size)])[:rows]

    def _start(self, x: Data, num: int) -> Tensor:
        return unconstrained(self.pair, x).unconstrain(draw(self.pair, x, num).latents)

    def density(self, x: Data, u: Tensor) -> Tensor:
        """log p(x, z) + log-Jacobian at u, not captured: for use inside captured functions."""
        return unconstrained(self.pair, x).log_joint(self.pair, x, u).log_density

    def _encoder(self, x: Data, u: Tensor) -> Tensor:
        latents, _, log_jacobian = unconstrained(self.pair, x).log_joint(self.pair, x, u)
        return log_guide(self.pair, x, latents)[0] + log_jacobian

    def _evaluate(self, x: Data, u: Tensor) -> tuple[Tensor, Tensor]:
        return value_and_gradient(lambda u: self.density(x, u))(u)

    def _leapfrog(self, x: Data, point: PhasePoint, size: Tensor, inverse_mass: Tensor) -> PhasePoint:
        return leapfrog(lambda u: self.density(x, u))(point, size, inverse_mass)


def mixing(u: Tensor, log_density: Tensor) -> dict[str, Tensor]:
    """Rank-normalised split R-hat and effective sample size of the worst coordinate and of log p, "rhat" and "ess" [B].

    Args:
        u: draws, [C, n, B, d].
        log_density: there, [C, n, B].
    """
    values = torch.cat([u, log_density.unsqueeze(-1)], -1)
    return {"rhat": rhat(values).amax(-1), "ess": ess(values).amin(-1)}


def judge_mixing(outcome: Tensor, draws: Draws) -> Tensor:
    """The outcome; where it was OK, CHAINS_DISAGREE or TOO_FEW_DRAWS by R-hat and ESS. One chain cannot be judged."""
    half = max(1, draws.u.shape[1] // 2)
    limit = max(_RHAT, math.sqrt(1 + 8 / half))  # of so few draws, R-hat is above one by chance
    ok = outcome == Outcome.OK
    outcome = torch.where(ok & (draws.info["ess"] < _FEWEST_DRAWS), int(Outcome.TOO_FEW_DRAWS), outcome)
    return torch.where(ok & (draws.info["rhat"] > limit), int(Outcome.CHAINS_DISAGREE), outcome)


def posterior_memory(run: EvidenceRun, num_chains: int, num_draws: int) -> Memory:
    """For each datum: a gradient for every chain, all draws and the densities at them."""
    dim = unconstrained(run.pair, run.example).dim
    steady = max(num_chains, _GUIDE_DRAWS) * _GRADIENT * run.bytes_per_draw + 8.0 * num_draws * (4 * dim + 12)
    return Memory(steady + run.bytes_per_datum, 0.0, num_chains)
