r"""Annealed importance sampling: the path of distributions, a pilot run that tunes it, and the two directions.

$$\log \pi_b(z) = (1 - b) \log f_0(z) + b \log p(x, z),\qquad f_0 = q(z \mid x) \text{ or } p(z),\qquad b: 0 \to 1$$

in unconstrained coordinates u, both ends with the same log-Jacobian. The temperature is a tensor argument of the
captured target, so that one graph serves the whole path.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
from pyro.distributions import Delta
from torch import Tensor

from .base import Estimate, Memory
from .outcome import Outcome
from .run import EvidenceRun
from ..hmc.adaptation import start_dual_averaging, update_dual_averaging
from ..hmc.integrator import PhasePoint, leapfrog
from ..hmc.kernel import HMCInfo, HMCParameters, HMCState, draw_noise, hmc_kernel
from ...core import Data, PairError, PpvaeError, draw, log_guide, log_joint, structure, unconstrained
from ...core.errors import did_you_mean, try_one_of

Start = Literal["guide", "prior"]
Schedule = Literal["sigmoid", "linear", "geometric"]

_PILOT_CHAINS = (4, 16)  # at least and at most; within these, as many as the run has, so that one graph serves both
_SETTLE = 20  # transitions at the first temperature of the pilot
_GAIN = 0.5  # of the logarithm of the step size, for each unit of acceptance
_FORGET = 0.1  # share of the newest transition in the running variance
_STRETCHES, _TRANSITIONS = 20, 10  # of a path at most, and of the shortest stretch
_MANY = 40  # chains
_FEWEST = 0.3  # effective chains, of all, at the least: by the path and by the weights
_JITTER = 0.5
_GRADIENT = 4.0  # memory of a gradient over that of the density alone


def temperatures(schedule: Schedule, num_temperatures: int) -> Tensor:
    r"""Inverse temperatures $0 = b_0 < \dots < b_T = 1$, [T + 1], float64.

    "linear"; "sigmoid": dense at both ends (Wu, Burda, Salakhutdinov & Grosse 2016, arXiv 1611.04273); "geometric":
    $b_t = (t / T)^4$, dense near the start, for the prior as start.

    >>> temperatures("linear", 4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    t = torch.linspace(0.0, 1.0, num_temperatures + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        curve = torch.sigmoid(4.0 * (2 * t - 1))
        return ((curve - curve[0]) / (curve[-1] - curve[0])).clamp(0.0, 1.0)
    if schedule == "geometric":
        return t**4
    return t


class Path:
    """The annealing path of one run: its target, and how it is computed.

    Args:
        run: the pair, its state, where and how to compute.
        start: f_0, "guide" or "prior".
        schedule: of the temperatures.
        num_temperatures: T.
        num_leapfrog: L, steps of one transition.
        target_acceptance: what the pilot tunes the step sizes to.
        others: how many chains, the last ones of every run, start at the prior where the rest start at the guide.
    """

    def __init__(
        self,
        run: EvidenceRun,
        *,
        start: Start,
        schedule: Schedule,
        num_temperatures: int,
        num_leapfrog: int,
        target_acceptance: float,
        others: int = 0,
    ) -> None:
        self.run = run
        self.pair = run.pair if start == "guide" else run.proposing_prior
        self.start: Start = start
        self.num_leapfrog, self.target_acceptance = num_leapfrog, target_acceptance
        self.others = others
        self.betas = temperatures(schedule, num_temperatures).to(run.device, run.dtype)

    def draw(self, x: Data, chains: int) -> Tensor:
        """Draws from f_0, [C, B, d]; the last :attr:`others` chains from the prior."""
        prior = self.run.prior_pair

        def start_of(x: Data) -> Tensor:
            space, first = unconstrained(self.pair, x), chains - self.others
            parts = [draw(self.pair, x, first)] + ([draw(prior, x, self.others)] if self.others else [])
            return torch.cat([space.refill(space.unconstrain(part.latents), part.present) for part in parts])

        call = self.run.remember(f"start {self.start} x{chains} {self.others}", start_of)
        return _tensor(call(x)).contiguous()

    def unconstrain(self, x: Data, latents: dict[str, Tensor]) -> Tensor:
        """Coordinates [1, B, d] of latents [B, *event]."""
        one = {name: value.unsqueeze(0) for name, value in latents.items()}
        return _tensor(self.run.remember(f"unconstrain {self.start}", self._unconstrain)(x, one))

    def _unconstrain(self, x: Data, latents: dict[str, Tensor]) -> Tensor:
        space = unconstrained(self.pair, x)
        present = log_joint(self.pair, x, latents).present if structure(self.pair, x).masked_latents else {}
        return space.refill(space.unconstrain(latents), present)

    def _ends(self, u: Tensor, x: Data) -> tuple[Tensor, Tensor]:
        """log f_0 + log-Jacobian, and log p(x, z) - log f_0: each [C, B] at u [C, B, d]."""
        latents, joint, log_jacobian = unconstrained(self.pair, x).log_joint(self.pair, x, u)
        if self.start == "prior":
            return joint.local - joint.observed + log_jacobian, joint.observed
        log_q, _ = log_guide(self.pair, x, latents)
        if self.others:
            from_prior = (torch.arange(len(u), device=u.device) >= len(u) - self.others)[:, None]
            log_q = torch.where(from_prior, joint.local - joint.observed, log_q)
        return log_q + log_jacobian, joint.local - log_q

    def _target(self, u: Tensor, x: Data, beta: Tensor) -> Tensor:
        base, difference = self._ends(u, x)
        return base + beta * difference

    def _move(self, x: Data, u: Tensor, beta: Tensor, new: Tensor) -> tuple[HMCState, Tensor]:
        """The state at another temperature, and log f_new - log f_beta at u; in one evaluation."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            base, difference = self._ends(u, x)
            log_density = base + new * difference
            (gradient,) = torch.autograd.grad(log_density.sum(), u)
        return HMCState(u.detach(), log_density.detach(), gradient), ((new - beta) * difference).detach()

    def _leapfrog(self, x: Data, point: PhasePoint, size: Tensor, inverse_mass: Tensor, beta: Tensor) -> PhasePoint:
        return leapfrog(lambda u, beta: self._target(u, x, beta))(point, size, inverse_mass, beta)

    def groups(self, chains: int) -> list[slice]:
        """The chains that are tuned together: those from each start."""
        first = chains - self.others
        return [slice(0, first), slice(first, chains)] if self.others else [slice(0, chains)]

    def functions(self, chains: int, batch: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The captured move between temperatures, ``move(x, u, beta, new)``, and the captured leapfrog step."""
        draws, moves = 3 * chains * batch, len(self.betas) - 1
        move = self.run.remember(f"anneal {self.start}", self._move, calls=moves, draws=draws)
        steps = (_SETTLE + moves * (_repeats(moves) + 1)) * self.num_leapfrog  # of the pilot run and the annealing run
        step = self.run.remember(f"leapfrog {self.start}", self._leapfrog, calls=steps, draws=draws)
        return move, step


class Tuning(NamedTuple):
    """Step sizes and masses from the pilot run, fixed during the annealing run.

    Attributes:
        step_size: for every temperature, group of chains (by start) and datum, [T, G, B].
        inverse_mass: [T, G, B, d].
    """

    step_size: Tensor
    inverse_mass: Tensor


class AnnealingResult(NamedTuple):
    """Result of one direction.

    Attributes:
        log_weights: [C, B], nats: forward, the sum of increments of log f; reverse, of decrements.
        stretches: the same by stretches of the path, [G, C, B].
        acceptance: mean over chains and temperatures, [B].
        divergences: transitions that diverged, [B].
        log_ratio: log f_1 - log f_0 where each chain ended, [C, B], nats: from the guide, log p(x, z) - log q(z | x).
    """

    log_weights: Tensor
    stretches: Tensor
    acceptance: Tensor
    divergences: Tensor
    log_ratio: Tensor


def _repeats(moves: int) -> int:
    """Transitions of the pilot run at a temperature: several on a short path, so that step sizes can follow it."""
    return max(1, 50 // moves)


def pilot_chains(chains: int) -> int:
    """Number of pilot chains for a run of this many chains."""
    return min(max(chains, _PILOT_CHAINS[0]), _PILOT_CHAINS[1])


def tune(path: Path, x: Data, chains: int, share: float) -> Tuning:
    r"""A pilot run of the path, which finds a step size and a diagonal mass for every temperature and datum.

    $$\log \epsilon \mathrel{+}= 0.5\, (\bar\alpha - \delta)$$

    after every transition, with the acceptance averaged over the pilot's own chains; the mass is the running variance
    over chains and recent temperatures. All reference codes adapt during the run itself, and so lose the bound; here
    the tuning is frozen, and the annealing run that uses it has chains of its own.

    Args:
        path: the path.
        x: the chunk of data.
        chains: of the run that follows, including those from the prior.
        share: of the progress bar that the pilot takes, in data.
    """
    betas, batch = path.betas, path.run.batch_of(x)
    pilots = pilot_chains(chains - path.others) + path.others
    u = path.draw(x, pilots)
    groups = path.groups(pilots)
    move, step = path.functions(pilots, batch)
    kernel = hmc_kernel(_stepper(step, x), path.num_leapfrog, jitter=_JITTER)
    variance = _over(groups, u, _variance) + 1e-8  # [G, B, d]
    averaging = start_dual_averaging(u.new_full((len(groups), batch), u.shape[-1] ** -0.25))
    state, _ = move(x, u, betas[0], betas[0])
    for _ in range(_SETTLE):
        state, info = _transition(kernel, state, groups, averaging.step_size, variance, betas[0])
        averaging = update_dual_averaging(averaging, _over(groups, info.acceptance, _mean), path.target_acceptance)
        variance = (1 - _FORGET) * variance + _FORGET * _over(groups, state.u, _variance)
    log_step = averaging.final_step_size.log()
    sizes, variances = [], []
    for old, new in pairwise(betas):
        state, _ = move(x, state.u, old, new)
        for _ in range(_repeats(len(betas) - 1)):
            state, info = _transition(kernel, state, groups, log_step.exp(), variance, new)
            log_step = log_step + _GAIN * (_over(groups, info.acceptance, _mean) - path.target_acceptance)
            variance = (1 - _FORGET) * variance + _FORGET * _over(groups, state.u, _variance)
        sizes.append(log_step.exp())
        variances.append(variance)
        path.run.tick(share / (len(betas) - 1))
    return Tuning(torch.stack(sizes), torch.stack(variances))


def anneal(
    path: Path, x: Data, tuning: Tuning, chains: int, share: float, truth: dict[str, Tensor] | None = None
) -> AnnealingResult:
    r"""One annealing run: forward from draws of f_0, or in reverse from the latents of simulated data.

    Forward: $\log w = \sum_t \log f_{b_t}(u_{t-1}) - \log f_{b_{t-1}}(u_{t-1})$ with
    $u_t \sim T_{b_t}(\cdot \mid u_{t-1})$; its exponential is unbiased for p(x) (Neal 2001). Reverse, from an exact
    posterior draw: the same path backwards, and the exponential of its sum is unbiased for 1 / p(x) (Grosse, Ghahramani
    & Adams 2015, arXiv 1511.02543).

    Args:
        path: the path.
        x: the chunk of data.
        tuning: from :func:`tune`.
        chains: C.
        share: of the progress bar that this run takes, in data.
        truth: the latents of the simulated data, for the reverse direction; None for forward.
    """
    betas, total = path.betas, len(path.betas) - 1
    move, step = path.functions(chains, path.run.batch_of(x))
    kernel = hmc_kernel(_stepper(step, x), path.num_leapfrog, jitter=_JITTER)
    u, groups = path.draw(x, chains), path.groups(chains)
    if truth is not None:
        u = path.unconstrain(x, truth).expand_as(u).contiguous()
    state, nothing = move(x, u, betas[0], betas[0]) if truth is None else move(x, u, betas[-1], betas[-1])
    count = min(_STRETCHES, max(1, total // _TRANSITIONS))
    stretches = torch.zeros(count, *nothing.shape, dtype=torch.float64, device=u.device)
    acceptance, divergences = stretches.new_zeros(u.shape[1]), stretches.new_zeros(u.shape[1])
    for t in range(total) if truth is None else reversed(range(total)):
        if truth is None:
            state, increment = move(x, state.u, betas[t], betas[t + 1])
            stretches[t * count // total] += increment
        state, info = _transition(kernel, state, groups, tuning.step_size[t], tuning.inverse_mass[t], betas[t + 1])
        if truth is not None:
            state, increment = move(x, state.u, betas[t + 1], betas[t])
            stretches[t * count // total] += increment
        acceptance += info.acceptance.mean(0) / total
        divergences += info.diverging.sum(0)
        path.run.tick(share / total)
    _, log_ratio = move(x, state.u, betas[0], betas[-1])
    return AnnealingResult(stretches.sum(0), stretches, acceptance, divergences, log_ratio)


def judge_path(estimate: Estimate, stretches: Tensor) -> Estimate:
    r"""The estimate of chains from one start, judged by the variance of log w along the path, which is in ``info``.

    $$\hat\sigma^2 = \sum_g \mathrm{var}_c(s_g) + 2 \sum_g \mathrm{cov}_c(s_g, s_{g+1}),\qquad
      \mathrm{se}^2 \ge \frac{e^{\hat\sigma^2} - 1}{C},\qquad \log w_c = \sum_g s_{gc}$$

    The weights of a few chains can look equal by chance, when none of them has a large one. Distant stretches of the
    path are independent, so that the sum over them has many times the degrees of freedom; the error is that of
    log-normal weights. Chains in different modes differ along all of the path, which their weights show. From forty
    chains on the weights, which need not be log-normal, judge alone.

    Args:
        estimate: from these chains' weights, each [B].
        stretches: sums of increments over stretches of the path, s [G, C, B], nats.
    """
    chains = stretches.shape[1]
    deviations = stretches - stretches.mean(1, keepdim=True)
    variance = deviations.square().sum((0, 1)) + 2 * (deviations[1:] * deviations[:-1]).sum((0, 1))
    variance = (variance / max(1, chains - 1)).clamp(min=0.0)
    dtype = estimate.standard_error.dtype
    estimate = estimate._replace(info=estimate.info | {"log_weight_variance": variance.to(dtype)})
    if chains >= _MANY:
        return estimate
    error = torch.maximum(estimate.standard_error.double(), (torch.expm1(variance) / chains).sqrt())
    old = estimate.outcome
    by_weights = (old == Outcome.OK) | (old == Outcome.LOOSE) | (old == Outcome.UNRELIABLE)
    steady = ((-variance).exp() >= _FEWEST) & (estimate.effective_sample_size >= _FEWEST * chains)
    outcome = torch.where(steady, int(Outcome.OK), int(Outcome.LOOSE))
    return estimate._replace(
        standard_error=error.to(dtype),  # NaN, unknown, stays so
        outcome=torch.where(by_weights, outcome, old),
    )


def check_path(run: EvidenceRun, x: Data, method: str, start: Start) -> None:
    """The pair has continuous local latents, and for start "guide" a guide whose density can be evaluated.

    Raises:
        PairError: a discrete latent, no local latent, or a guide with auxiliary or Delta sites.
    """
    unconstrained(run.pair, x)
    if start == "prior":
        return
    for info in structure(run.pair, x).guide:
        if info.kind == "auxiliary" or (info.kind == "latent" and info.is_a(Delta)):
            raise PairError(
                f"{method}(start='guide') needs log q(z | x) at any z, which guide site {info.name!r} "
                f"({info.family_name}, {info.kind}) does not give" + try_one_of(f"{method}(start='prior')")
            )


def check_options(method: str, *, start: str, schedule: str, **counts: int) -> None:
    """Raise a PpvaeError where an option is out of range."""
    for name, number in counts.items():
        if number < 1:
            raise PpvaeError(f"{method}: expected {name} of at least 1, found {number}")
    for name, value, options in (("start", start, get_args(Start)), ("schedule", schedule, get_args(Schedule))):
        if value not in options:
            raise PpvaeError(f"{method}: unknown {name} {value!r}: {did_you_mean(value, options)}")


def path_memory(run: EvidenceRun, chains: int, num_temperatures: int) -> Memory:
    """For each datum: a gradient for every chain, and the tuning of every temperature."""
    dim = unconstrained(run.pair, run.example).dim
    most = max(chains, pilot_chains(chains))
    steady = most * _GRADIENT * run.bytes_per_draw + 8.0 * num_temperatures * (dim + 1)
    return Memory(steady + run.bytes_per_datum, 0.0, most)


def _stepper(step: Callable[..., Any], x: Data) -> Callable[..., PhasePoint]:
    return lambda point, size, inverse_mass, beta: step(x, point, size, inverse_mass, beta)


def _transition(
    kernel: Callable[..., tuple[HMCState, HMCInfo]],
    state: HMCState,
    groups: list[slice],
    size: Tensor,
    inverse_mass: Tensor,
    beta: Tensor,
) -> tuple[HMCState, HMCInfo]:
    """One transition of all chains, each with the step size [G, B] and mass [G, B, d] of its group."""
    counts = torch.tensor([group.stop - group.start for group in groups], device=size.device)
    sizes, mass = (value.repeat_interleave(counts, 0) for value in (size, inverse_mass))
    return kernel(state, draw_noise(state.u), HMCParameters(sizes, mass), beta)


def _over(groups: list[slice], values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of each group's chains, [C, *] to [G, *]."""
    return torch.stack([function(values[group]) for group in groups])


def _mean(values: Tensor) -> Tensor:
    return values.mean(0)


def _variance(values: Tensor) -> Tensor:
    return values.var(0)


def _tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value
